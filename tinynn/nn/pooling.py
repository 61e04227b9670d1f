"""Pooling and resizing layers for channels-last images."""

from __future__ import annotations

from tinynn import functional as F
from tinynn.autograd import Tensor
from tinynn.errors import ArgumentError
from tinynn.functional.geometry import Pair
from tinynn.nn.module import Module


class MaxPool2d(Module):
    """``functional.max_pool2d``: the largest value under each window."""

    def __init__(
        self,
        kernel_size: int | Pair,
        stride: int | Pair | None = None,
        padding: int | Pair = 0,
        dilation: int | Pair = 1,
        ceil_mode: bool = False,
    ) -> None:
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding
        self.dilation, self.ceil_mode = dilation, ceil_mode

    def forward(self, x: Tensor) -> Tensor:
        """(N, H, W, C) -> (N, H', W', C)."""
        return F.max_pool2d(
            x, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode
        )


class AvgPool2d(Module):
    """``functional.avg_pool2d``: the mean value under each window."""

    def __init__(
        self,
        kernel_size: int | Pair,
        stride: int | Pair | None = None,
        padding: int | Pair = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding
        self.ceil_mode, self.count_include_pad = ceil_mode, count_include_pad

    def forward(self, x: Tensor) -> Tensor:
        """(N, H, W, C) -> (N, H', W', C)."""
        return F.avg_pool2d(
            x, self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad
        )


class GlobalAvgPool2d(Module):
    """The mean over the pixels: (N, H, W, C) -> (N, C)."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C)."""
        return F.global_avg_pool2d(x)


class GlobalMaxPool2d(Module):
    """The largest value over the pixels: (N, H, W, C) -> (N, C)."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C)."""
        return F.global_max_pool2d(x)


class Resize(Module):
    """Images in another size, by mode "nearest" or "bilinear"."""

    def __init__(self, size: int | Pair, mode: str = "bilinear") -> None:
        if mode not in ("nearest", "bilinear"):
            raise ArgumentError(f'Resize expects mode "nearest" or "bilinear", got {mode!r}')
        self.size, self.mode = size, mode

    def forward(self, x: Tensor) -> Tensor:
        """(N, H, W, C) -> (N, *size, C)."""
        resize = F.resize_nearest if self.mode == "nearest" else F.resize_bilinear
        return resize(x, self.size)
