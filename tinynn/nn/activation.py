"""Activations, dropout and changes of shape as layers."""

from __future__ import annotations

from tinynn import functional as F
from tinynn.autograd import Tensor
from tinynn.errors import ArgumentError
from tinynn.nn.module import Module


class Identity(Module):
    """Returns its input."""

    def forward(self, x: Tensor) -> Tensor:
        """The input itself."""
        return x


class ReLU(Module):
    """max(x, 0)."""

    def forward(self, x: Tensor) -> Tensor:
        """The shape of x."""
        return F.relu(x)


class LeakyReLU(Module):
    """x where x > 0, else negative_slope · x."""

    def __init__(self, negative_slope: float = 0.01) -> None:
        self.negative_slope = negative_slope

    def forward(self, x: Tensor) -> Tensor:
        """The shape of x."""
        return F.leaky_relu(x, self.negative_slope)


class ELU(Module):
    """x where x > 0, else alpha · (exp(x) - 1)."""

    def __init__(self, alpha: float = 1.0) -> None:
        self.alpha = alpha

    def forward(self, x: Tensor) -> Tensor:
        """The shape of x."""
        return F.elu(x, self.alpha)


class GELU(Module):
    """x · Φ(x); ``approximate`` is "none" or "tanh"."""

    def __init__(self, approximate: str = "none") -> None:
        self.approximate = approximate

    def forward(self, x: Tensor) -> Tensor:
        """The shape of x."""
        return F.gelu(x, self.approximate)


class SiLU(Module):
    """x · sigmoid(x)."""

    def forward(self, x: Tensor) -> Tensor:
        """The shape of x."""
        return F.silu(x)


class Softplus(Module):
    """log(1 + exp(x))."""

    def forward(self, x: Tensor) -> Tensor:
        """The shape of x."""
        return F.softplus(x)


class Sigmoid(Module):
    """1 / (1 + exp(-x))."""

    def forward(self, x: Tensor) -> Tensor:
        """The shape of x."""
        return F.sigmoid(x)


class Tanh(Module):
    """The hyperbolic tangent."""

    def forward(self, x: Tensor) -> Tensor:
        """The shape of x."""
        return F.tanh(x)


class Softmax(Module):
    """exp(x) / sum(exp(x)) along an axis. ``cross_entropy`` takes logits: do not put it before."""

    def __init__(self, axis: int = -1) -> None:
        self.axis = axis

    def forward(self, x: Tensor) -> Tensor:
        """The shape of x."""
        return F.softmax(x, self.axis)


class LogSoftmax(Module):
    """The logarithm of softmax along an axis, for ``nll_loss``."""

    def __init__(self, axis: int = -1) -> None:
        self.axis = axis

    def forward(self, x: Tensor) -> Tensor:
        """The shape of x."""
        return F.log_softmax(x, self.axis)


class Dropout(Module):
    """In training each element is 0 with probability p and the others are divided by 1 - p."""

    def __init__(self, p: float = 0.5) -> None:
        if not 0 <= p < 1:
            raise ArgumentError(f"Dropout expects a probability 0 <= p < 1, got {p}")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """The shape of x."""
        return F.dropout(x, self.p, self.training)


class Flatten(Module):
    """All axes from ``start_axis`` on joined into one: (N, H, W, C) -> (N, H·W·C)."""

    def __init__(self, start_axis: int = 1) -> None:
        self.start_axis = start_axis

    def forward(self, x: Tensor) -> Tensor:
        """The flat features of each example."""
        return F.flatten(x, self.start_axis)
