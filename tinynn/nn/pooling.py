"""Pooling and resizing layers for channels-last images."""

from tinynn import functional as F
from tinynn.arguments import choice, flag
from tinynn.autograd import Tensor
from tinynn.functional.geometry import Pair, checked_pool, checked_size
from tinynn.nn.module import Module

__all__ = ["AvgPool2d", "GlobalAvgPool2d", "GlobalMaxPool2d", "MaxPool2d", "Resize"]


class MaxPool2d(Module):
    """Max pooling: the largest value in each window.

    Args:
        kernel_size: An integer or (rows, columns), as for the arguments below.
        stride: Step from one window to the next; None: the size of the window.
        padding: Rows and columns of -∞ on each side of the image.
        dilation: Step between the pixels of a window.
        ceil_mode: Whether windows may extend beyond the image at the bottom and right.

    Shape:
        x: (N, H, W, C) -> (N, H', W', C) with
        H' = (H + 2·padding - dilation·(kh - 1) - 1) // stride + 1, rounded up with ``ceil_mode``.

    Example:
        >>> nn.MaxPool2d(2)(tinynn.ones((8, 48, 48, 16))).shape
        (8, 24, 24, 16)
    """

    def __init__(
        self,
        kernel_size: int | Pair,
        stride: int | Pair | None = None,
        padding: int | Pair = 0,
        dilation: int | Pair = 1,
        ceil_mode: bool = False,
    ) -> None:
        name = "MaxPool2d"
        sizes = checked_pool(name, kernel_size, stride, padding)
        self.kernel_size, self.stride, self.padding = sizes
        self.dilation = checked_size(name, "dilation", dilation, 1)
        self.ceil_mode = flag(f"{name}: ceil_mode", ceil_mode)

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(
            x, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode
        )


class AvgPool2d(Module):
    """Average pooling: the mean of each window.

    Args:
        kernel_size: An integer or (rows, columns), as for the arguments below.
        stride: Step from one window to the next; None: the size of the window.
        padding: Rows and columns of zeros on each side of the image.
        ceil_mode: Whether windows may extend beyond the image at the bottom and right.
        count_include_pad: Whether the padding counts in the mean.

    Shape:
        x: (N, H, W, C) -> (N, H', W', C) with H' as for :class:`MaxPool2d` without dilation.
    """

    def __init__(
        self,
        kernel_size: int | Pair,
        stride: int | Pair | None = None,
        padding: int | Pair = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        name = "AvgPool2d"
        sizes = checked_pool(name, kernel_size, stride, padding)
        self.kernel_size, self.stride, self.padding = sizes
        self.ceil_mode = flag(f"{name}: ceil_mode", ceil_mode)
        self.count_include_pad = flag(f"{name}: count_include_pad", count_include_pad)

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(
            x, self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad
        )


class GlobalAvgPool2d(Module):
    """The mean over all pixels: (N, H, W, C) -> (N, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return F.global_avg_pool2d(x)


class GlobalMaxPool2d(Module):
    """The maximum over all pixels: (N, H, W, C) -> (N, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return F.global_max_pool2d(x)


class Resize(Module):
    """Resize images by interpolation.

    Args:
        size: The new height and width, or one number for both.
        mode: "nearest" or "bilinear".

    Shape:
        x: (N, H, W, C) -> (N, *size, C).
    """

    def __init__(self, size: int | Pair, mode: str = "bilinear") -> None:
        self.size = checked_size("Resize", "size", size, 1)
        self.mode = choice("Resize: mode", mode, "nearest", "bilinear")

    def forward(self, x: Tensor) -> Tensor:
        resize = F.resize_nearest if self.mode == "nearest" else F.resize_bilinear
        return resize(x, self.size)
