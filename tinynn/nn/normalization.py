"""Normalization layers; channels are the last axis."""

from collections.abc import Mapping
from types import MappingProxyType

from tinynn import functional as F
from tinynn.arguments import flag, integer, sizes
from tinynn.autograd import Tensor
from tinynn.errors import ShapeError
from tinynn.functional.normalization import check_eps, check_momentum
from tinynn.nn import init
from tinynn.nn.module import Module

__all__ = ["BatchNorm1d", "BatchNorm2d", "GroupNorm", "LayerNorm"]


class BatchNorm(Module):
    """Base class of BatchNorm1d and BatchNorm2d."""

    _layouts: Mapping[int, str]  # of the input, by number of axes

    def __init__(
        self, channels: int, eps: float = 1e-5, momentum: float = 0.1, affine: bool = True
    ) -> None:
        name = type(self).__name__
        self.eps, self.momentum = check_eps(name, eps), check_momentum(name, momentum)
        channels = integer(f"{name}: channels", channels, 1)
        affine = flag(f"{name}: affine", affine)
        self.weight = init.new_parameter(name, channels, value=1) if affine else None
        self.bias = init.new_parameter(name, channels) if affine else None
        self.running_mean = init.new_buffer(channels)
        self.running_var = init.new_buffer(channels, value=1)

    def forward(self, x: Tensor, relu: bool = False) -> Tensor:
        """Normalize x; with ``relu``, replace negative results by 0 in the same pass."""
        if x.ndim not in self._layouts:
            layouts = " or ".join(self._layouts.values())
            raise ShapeError(f"{type(self).__name__} expects {layouts}, got shape {x.shape}")
        running = self.running_mean, self.running_var
        affine = self.weight, self.bias
        return F.batch_norm(x, *running, *affine, self.training, self.momentum, self.eps, relu)


class BatchNorm1d(BatchNorm):
    """Batch normalization of features or sequences, see :class:`BatchNorm2d`.

    Shape:
        x: (N, C) or (N, L, C); the output has the shape of x.
    """

    _layouts = MappingProxyType({2: "(N, C)", 3: "(N, L, C)"})


class BatchNorm2d(BatchNorm):
    """Batch normalization of images: y = (x - E[x]) / √(Var[x] + eps) · γ + β.

    Mean and variance are per channel. In training mode they are computed from the batch, and the
    running statistics move toward them by ``momentum``; in evaluation mode the running statistics
    are used. Ioffe and Szegedy, "Batch normalization" (2015).

    Args:
        channels: Size of the last axis.
        eps: Added to the variance for numerical stability.
        momentum: Weight of the batch in the running statistics.
        affine: Whether there are γ (``weight``, initially 1) and β (``bias``, initially 0).

    Shape:
        x: (N, H, W, channels); the output has the shape of x. The buffers ``running_mean`` and
        ``running_var`` are (channels,).
    """

    _layouts = MappingProxyType({4: "images (N, H, W, C)"})


class LayerNorm(Module):
    """Layer normalization: y = (x - E[x]) / √(Var[x] + eps) · γ + β.

    Mean and variance are per example, over the last axes. Ba, Kiros and Hinton, "Layer
    normalization" (2016).

    Args:
        normalized_shape: The sizes of the last axes, or the size of the last one.
        eps: Added to the variance for numerical stability.

    Shape:
        x: (..., *normalized_shape); the output has the shape of x. ``weight`` (γ) and ``bias`` (β)
        have the shape ``normalized_shape``.
    """

    def __init__(self, normalized_shape: int | tuple[int, ...], eps: float = 1e-5) -> None:
        shape = sizes("LayerNorm: normalized_shape", normalized_shape, 1)
        self.eps = check_eps("LayerNorm", eps)
        self.weight = init.new_parameter("LayerNorm", *shape, value=1)
        self.bias = init.new_parameter("LayerNorm", *shape)

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.ndim, self.weight, self.bias, self.eps)


class GroupNorm(Module):
    """Group normalization: y = (x - E[x]) / √(Var[x] + eps) · γ + β.

    Mean and variance are per example and group of channels. Wu and He, "Group normalization"
    (2018).

    Args:
        groups: Number of groups of equally many consecutive channels.
        channels: Size of the last axis.
        eps: Added to the variance for numerical stability.

    Shape:
        x: (N, ..., channels); the output has the shape of x. ``weight`` (γ) and ``bias`` (β) are
        (channels,).
    """

    def __init__(self, groups: int, channels: int, eps: float = 1e-5) -> None:
        groups = integer("GroupNorm: groups", groups, 1)
        channels = integer("GroupNorm: channels", channels, 1)
        if channels % groups:
            raise ShapeError(f"GroupNorm: {groups} groups do not divide {channels} channels")
        self.groups, self.eps = groups, check_eps("GroupNorm", eps)
        self.weight = init.new_parameter("GroupNorm", channels, value=1)
        self.bias = init.new_parameter("GroupNorm", channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.group_norm(x, self.groups, self.weight, self.bias, self.eps)
