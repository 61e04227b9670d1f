"""Normalization layers; channels are the last axis."""

from __future__ import annotations

from tinynn import functional as F
from tinynn.autograd import Tensor
from tinynn.backend import default_backend
from tinynn.errors import ShapeError
from tinynn.nn import init
from tinynn.nn.linear import new_parameter
from tinynn.nn.module import Module


class BatchNorm(Module):
    """``functional.batch_norm`` for (N, C) or (N, H, W, C), with running mean and variance.

    In training the batch's own statistics are used and the running ones follow them; in
    evaluation the running ones are used.
    """

    def __init__(
        self, channels: int, eps: float = 1e-5, momentum: float = 0.1, affine: bool = True
    ) -> None:
        self.eps, self.momentum = eps, momentum
        self.weight = new_parameter("BatchNorm", channels) if affine else None
        self.bias = new_parameter("BatchNorm", channels) if affine else None
        if self.weight is not None:
            init.ones_(self.weight)
        self.running_mean = _new_buffer(channels, 0.0)
        self.running_var = _new_buffer(channels, 1.0)

    def forward(self, x: Tensor, relu: bool = False) -> Tensor:
        """The shape of x; with ``relu`` negative results are 0."""
        return F.batch_norm(
            x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training,
            self.momentum,
            self.eps,
            relu,
        )


class BatchNorm1d(BatchNorm):
    """Batch normalization of features (N, C) or sequences (N, L, C)."""

    def forward(self, x: Tensor, relu: bool = False) -> Tensor:
        """The shape of x; with ``relu`` negative results are 0."""
        if x.ndim not in (2, 3):
            raise ShapeError(f"BatchNorm1d expects (N, C) or (N, L, C), got shape {x.shape}")
        return super().forward(x, relu)


class BatchNorm2d(BatchNorm):
    """Batch normalization of images (N, H, W, C)."""

    def forward(self, x: Tensor, relu: bool = False) -> Tensor:
        """The shape of x; with ``relu`` negative results are 0."""
        if x.ndim != 4:
            raise ShapeError(f"BatchNorm2d expects images (N, H, W, C), got shape {x.shape}")
        return super().forward(x, relu)


class LayerNorm(Module):
    """``functional.layer_norm`` over the last axes, whose sizes are ``normalized_shape``."""

    def __init__(self, normalized_shape: int | tuple[int, ...], eps: float = 1e-5) -> None:
        sizes = (normalized_shape,) if isinstance(normalized_shape, int) else normalized_shape
        self.eps = eps
        self.weight = new_parameter("LayerNorm", *sizes)
        self.bias = new_parameter("LayerNorm", *sizes)
        init.ones_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """The shape of x."""
        return F.layer_norm(x, self.weight.ndim, self.weight, self.bias, self.eps)


class GroupNorm(Module):
    """``functional.group_norm`` over groups of channels, (N, ..., channels)."""

    def __init__(self, groups: int, channels: int, eps: float = 1e-5) -> None:
        if groups < 1 or channels % groups:
            raise ShapeError(f"GroupNorm: {groups} groups do not divide {channels} channels")
        self.groups, self.eps = groups, eps
        self.weight = new_parameter("GroupNorm", channels)
        self.bias = new_parameter("GroupNorm", channels)
        init.ones_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """The shape of x."""
        return F.group_norm(x, self.groups, self.weight, self.bias, self.eps)


def _new_buffer(channels: int, value: float) -> Tensor:
    return Tensor(default_backend().from_host(init.new_array((channels,), value)))
