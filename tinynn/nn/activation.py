"""Activation layers, dropout and ``Flatten``: each calls its function in ``tinynn.functional``."""

from tinynn import functional as F
from tinynn.arguments import choice, integer, number
from tinynn.autograd import Tensor
from tinynn.nn.module import Module

__all__ = ["ELU", "GELU", "LeakyReLU", "ReLU", "SiLU", "Sigmoid", "Softplus", "Tanh"]
__all__ += ["Dropout", "Flatten", "Identity", "LogSoftmax", "Softmax"]


class Identity(Module):
    """Returns its input."""

    def forward(self, x: Tensor) -> Tensor:
        return x


class ReLU(Module):
    """max(x, 0)."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x)


class LeakyReLU(Module):
    """x for x > 0, else negative_slope · x."""

    def __init__(self, negative_slope: float = 0.01) -> None:
        self.negative_slope = number("LeakyReLU: negative_slope", negative_slope)

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(x, self.negative_slope)


class ELU(Module):
    """x for x > 0, else alpha · (exp(x) - 1)."""

    def __init__(self, alpha: float = 1.0) -> None:
        self.alpha = number("ELU: alpha", alpha)

    def forward(self, x: Tensor) -> Tensor:
        return F.elu(x, self.alpha)


class GELU(Module):
    """x · Φ(x), with the cumulative distribution function Φ of the standard normal distribution.

    Args:
        approximate: "none", or "tanh" for the approximation by tanh.
    """

    def __init__(self, approximate: str = "none") -> None:
        self.approximate = choice("GELU: approximate", approximate, "none", "tanh")

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(x, self.approximate)


class SiLU(Module):
    """x · sigmoid(x)."""

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(x)


class Softplus(Module):
    """log(1 + exp(x))."""

    def forward(self, x: Tensor) -> Tensor:
        return F.softplus(x)


class Sigmoid(Module):
    """1 / (1 + exp(-x))."""

    def forward(self, x: Tensor) -> Tensor:
        return F.sigmoid(x)


class Tanh(Module):
    """tanh(x)."""

    def forward(self, x: Tensor) -> Tensor:
        return F.tanh(x)


class Softmax(Module):
    """exp(x) / sum(exp(x)) along an axis.

    ``cross_entropy`` expects logits: a model trained with it must not end in this layer.
    """

    def __init__(self, axis: int = -1) -> None:
        self.axis = integer("Softmax: axis", axis)

    def forward(self, x: Tensor) -> Tensor:
        return F.softmax(x, self.axis)


class LogSoftmax(Module):
    """x - log(sum(exp(x))) along an axis: log-probabilities for ``nll_loss``."""

    def __init__(self, axis: int = -1) -> None:
        self.axis = integer("LogSoftmax: axis", axis)

    def forward(self, x: Tensor) -> Tensor:
        return F.log_softmax(x, self.axis)


class Dropout(Module):
    """Sets elements to 0 with probability p in training and scales the others by 1 / (1 - p).

    In evaluation it returns its input. Srivastava et al., "Dropout" (2014).

    Args:
        p: The probability, 0 <= p < 1.
    """

    def __init__(self, p: float = 0.5) -> None:
        self.p = number("Dropout: the probability p", p, 0, 1, "[)")

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.p, self.training)


class Flatten(Module):
    """Joins all axes from ``start_axis`` on: (N, H, W, C) -> (N, H·W·C)."""

    def __init__(self, start_axis: int = 1) -> None:
        self.start_axis = integer("Flatten: start_axis", start_axis)

    def forward(self, x: Tensor) -> Tensor:
        return F.flatten(x, self.start_axis)
