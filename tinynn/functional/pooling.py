"""Pooling of channels-last images: the maximum or the mean of each window."""

from __future__ import annotations

from tinynn.arguments import flag
from tinynn.autograd import Tensor, record
from tinynn.backend import Array, Window
from tinynn.functional.geometry import Size, check_image, pair, pool_window
from tinynn.functional.operands import require_floating

__all__ = ["avg_pool2d", "global_avg_pool2d", "global_max_pool2d", "max_pool2d"]


def max_pool2d(
    x: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
) -> Tensor:
    """The maximum of each window; padding is minus infinity.

    The first of several equal maxima gets the gradient.

    Args:
        x: Images.
        kernel_size: Size of the window: one integer, or (rows, columns); so are the next three.
        stride: Step of the window (default: the kernel size).
        padding: Pixels on every side, at most half the kernel.
        dilation: Distance between the pixels of a window.
        ceil_mode: Add a last window that hangs over the far edges, if any pixels are left.

    Shape:
        (N, H, W, C) -> (N, H', W', C), H' = floor((H + 2·padding - extent) / stride) + 1 with
        extent = (kernel_size - 1)·dilation + 1.
    """
    require_floating("max_pool2d", x)
    window = pool_window("max_pool2d", x.shape, kernel_size, stride, padding, dilation, ceil_mode)
    shape, (out, winner) = x.shape, x.backend.max_pool2d(x.data, window)
    return record("max_pool2d", out, (x, lambda grad: scatter(grad, winner, window, shape)))


def scatter(values: Tensor, winner: Array, window: Window, shape: tuple[int, ...]) -> Tensor:
    """Add each value to the pixel that was the maximum of its window: the VJP of max pooling."""
    out = values.backend.max_pool2d_scatter(values.data, winner, window, shape)
    return record("max_pool2d_scatter", out, (values, lambda g: _gather(g, winner, window)))


def _gather(x: Tensor, winner: Array, window: Window) -> Tensor:
    out = x.backend.max_pool2d_gather(x.data, winner, window)
    return record("max_pool2d_gather", out, (x, lambda g: scatter(g, winner, window, x.shape)))


def avg_pool2d(
    x: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    """The mean of each window; arguments and shape as in ``max_pool2d``.

    Padding counts as zeros, or not at all with ``count_include_pad=False``. The part of a window
    that hangs over the padded image in ``ceil_mode`` never counts.
    """
    require_floating("avg_pool2d", x)
    count_include_pad = flag("avg_pool2d: count_include_pad", count_include_pad)
    if x.dtype.itemsize == 2:  # a sum may overflow float16 where its mean does not
        wide = x.astype("float32")
        options = (kernel_size, stride, padding, ceil_mode, count_include_pad)
        return avg_pool2d(wide, *options).astype(x.dtype)
    window = pool_window("avg_pool2d", x.shape, kernel_size, stride, padding, 1, ceil_mode)
    rows, columns = pair("avg_pool2d", "padding", padding, 0) if count_include_pad else (0, 0)
    ones = x.backend.xp.ones((1, x.shape[1] + 2 * rows, x.shape[2] + 2 * columns, 1), x.dtype)
    (top, bottom), (left, right) = window.padding
    around = ((top - rows, bottom - rows), (left - columns, right - columns))
    counts = x.backend.sum_pool2d(ones, window._replace(padding=around))
    return _sum_pool(x, window) / Tensor(counts)


def _sum_pool(x: Tensor, window: Window) -> Tensor:
    out, shape = x.backend.sum_pool2d(x.data, window), x.shape
    return record("sum_pool2d", out, (x, lambda grad: _sum_pool_adjoint(grad, window, shape)))


def _sum_pool_adjoint(grad_out: Tensor, window: Window, shape: tuple[int, ...]) -> Tensor:
    out = grad_out.backend.sum_pool2d_adjoint(grad_out.data, window, shape)
    return record("sum_pool2d_adjoint", out, (grad_out, lambda grad: _sum_pool(grad, window)))


def global_avg_pool2d(x: Tensor) -> Tensor:
    """The mean over all pixels: (N, H, W, C) -> (N, C). Lin, Chen and Yan (2014)."""
    check_image("global_avg_pool2d", require_floating("global_avg_pool2d", x).shape)
    return x.mean(axis=(1, 2))


def global_max_pool2d(x: Tensor) -> Tensor:
    """The maximum over all pixels: (N, H, W, C) -> (N, C)."""
    check_image("global_max_pool2d", require_floating("global_max_pool2d", x).shape)
    return x.max(axis=(1, 2))
