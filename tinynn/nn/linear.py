"""The fully connected layer."""

from __future__ import annotations

import math

from tinynn import functional as F
from tinynn.autograd import Tensor
from tinynn.backend import default_backend
from tinynn.errors import ArgumentError
from tinynn.nn import init
from tinynn.nn.module import Module, Parameter


class Linear(Module):
    """x @ weight + bias over the last axis: (..., in_features) -> (..., out_features).

    ``weight`` is (in_features, out_features), drawn by Kaiming's rule; ``bias`` starts at zero.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        self.weight = new_parameter("Linear", in_features, out_features)
        init.kaiming_uniform_(self.weight)
        self.bias = new_parameter("Linear", out_features) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """The affine map of x."""
        return F.linear(x, self.weight, self.bias)

    def multiply_adds(self, output_shape: tuple[int, ...]) -> int:
        """One for each input of each output."""
        return math.prod(output_shape) * self.weight.shape[0]


def new_parameter(layer: str, *shape: int) -> Parameter:
    """A float32 parameter of zeros, on the default device.

    ArgumentError unless all sizes are whole numbers >= 1.
    """
    if any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in shape):
        raise ArgumentError(f"{layer} expects sizes that are whole numbers >= 1, got {shape}")
    return Parameter(default_backend().from_host(init.new_array(shape)))
