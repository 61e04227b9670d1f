"""The fully connected layer."""

import math

from tinynn import functional as F
from tinynn.autograd import Tensor
from tinynn.nn import init
from tinynn.nn.module import Module

__all__ = ["Linear"]


class Linear(Module):
    """Fully connected layer over the last axis: y = x @ W + b.

    Args:
        in_features: Size of the last axis of the input.
        out_features: Size of the last axis of the output.
        bias: Whether to add b.

    Shape:
        x: (..., in_features) -> (..., out_features). ``weight`` is (in_features, out_features),
        initialized by ``init.kaiming_uniform_``; ``bias`` is (out_features,), initially 0.

    Example:
        >>> nn.Linear(20, 5)(tinynn.ones((8, 20))).shape
        (8, 5)
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        self.weight = init.new_parameter("Linear", in_features, out_features)
        init.kaiming_uniform_(self.weight)
        self.bias = init.new_bias("Linear", out_features, bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)

    def multiply_adds(self, output_shape: tuple[int, ...]) -> int:
        return math.prod(output_shape) * self.weight.shape[0]
