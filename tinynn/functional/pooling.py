"""Pooling of channels-last images: the largest or the mean value under a sliding window."""

from __future__ import annotations

from tinynn.autograd import Tensor, record
from tinynn.backend import Array, Window
from tinynn.errors import ArgumentError, ShapeError
from tinynn.functional.convolution import Pair, check_fits, make_window, once, pair
from tinynn.functional.elementwise import require_floating

_MOST_TAPS = 2**15 - 1  # backends number the taps of a kernel in int16


def max_pool2d(
    x: Tensor,
    kernel_size: int | Pair,
    stride: int | Pair | None = None,
    padding: int | Pair = 0,
    dilation: int | Pair = 1,
    ceil_mode: bool = False,
) -> Tensor:
    """The largest value under each window of images (N, H, W, C); padding is minus infinity.

    ``stride`` defaults to the kernel size. ``ceil_mode`` adds a last window where the image ends
    within it. The first of equal values takes the gradient.
    """
    require_floating("max_pool2d", x)
    window = pool_window("max_pool2d", x.shape, kernel_size, stride, padding, dilation, ceil_mode)
    out, winner = x.backend.max_pool2d(x.data, window)
    return record("max_pool2d", out, (x, lambda grad: scatter(grad, winner, window, x.shape)))


def scatter(values: Tensor, winner: Array, window: Window, shape: tuple[int, ...]) -> Tensor:
    """The values at the pixels that won their windows: the adjoint of taking the winners."""
    out = values.backend.max_pool2d_scatter(values.data, winner, window, shape)
    return record("max_pool2d_scatter", out, (values, lambda g: _gather(g, winner, window)))


def _gather(x: Tensor, winner: Array, window: Window) -> Tensor:
    out = x.backend.max_pool2d_gather(x.data, winner, window)
    return record("max_pool2d_gather", out, (x, lambda g: scatter(g, winner, window, x.shape)))


def avg_pool2d(
    x: Tensor,
    kernel_size: int | Pair,
    stride: int | Pair | None = None,
    padding: int | Pair = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    """The mean value under each window of images (N, H, W, C).

    Zeros of the padding count as elements unless ``count_include_pad`` is false; the part of a
    window that ``ceil_mode`` lets hang over the padded image never counts.
    """
    require_floating("avg_pool2d", x)
    window = pool_window("avg_pool2d", x.shape, kernel_size, stride, padding, 1, ceil_mode)
    counted = pair("avg_pool2d", "padding", padding, 0) if count_include_pad else (0, 0)
    ones = x.backend.xp.ones(
        (1, x.shape[1] + 2 * counted[0], x.shape[2] + 2 * counted[1], 1), dtype=x.dtype
    )
    around = tuple(
        (before - c, after - c) for (before, after), c in zip(window.padding, counted, strict=True)
    )
    counts = x.backend.sum_pool2d(ones, window._replace(padding=(around[0], around[1])))
    return _sum_pool(x, window) / Tensor(counts)


def _sum_pool(x: Tensor, window: Window) -> Tensor:
    out = x.backend.sum_pool2d(x.data, window)
    return record("sum_pool2d", out, (x, lambda grad: _sum_pool_adjoint(grad, window, x.shape)))


def _sum_pool_adjoint(grad_out: Tensor, window: Window, shape: tuple[int, ...]) -> Tensor:
    out = grad_out.backend.sum_pool2d_adjoint(grad_out.data, window, shape)
    return record("sum_pool2d_adjoint", out, (grad_out, lambda grad: _sum_pool(grad, window)))


def global_avg_pool2d(x: Tensor) -> Tensor:
    """The mean over the pixels: (N, H, W, C) -> (N, C). Lin, Chen and Yan (2014)."""
    check_image("global_avg_pool2d", x.shape)
    return x.mean(axis=(1, 2))


def global_max_pool2d(x: Tensor) -> Tensor:
    """The largest value over the pixels: (N, H, W, C) -> (N, C)."""
    check_image("global_max_pool2d", x.shape)
    return x.max(axis=(1, 2))


@once
def pool_window(
    name: str,
    shape: tuple[int, ...],
    kernel_size: int | Pair,
    stride: int | Pair | None,
    padding: int | Pair,
    dilation: int | Pair,
    ceil_mode: bool,
) -> Window:
    """The window of a pooling function for images of ``shape``; ShapeError if none fits."""
    check_image(name, shape)
    kernel = pair(name, "kernel_size", kernel_size, 1)
    if kernel[0] * kernel[1] > _MOST_TAPS:
        raise ArgumentError(
            f"{name} takes kernels of at most {_MOST_TAPS} pixels, got {kernel}; "
            "global pooling takes images of any size"
        )
    stride = kernel if stride is None else stride
    pads = pair(name, "padding", padding, 0)
    if any(2 * p > k for p, k in zip(pads, kernel, strict=True)):
        raise ArgumentError(
            f"{name} expects a padding of at most half the kernel {kernel}, got {pads}"
        )
    window = make_window(name, shape, kernel, stride, pads, dilation)
    if ceil_mode:
        window = window.rounding_up(shape[1], shape[2])
    check_fits(name, window, shape)
    return window


def check_image(name: str, shape: tuple[int, ...]) -> None:
    """Raise ShapeError unless the shape is that of images with pixels."""
    if len(shape) != 4 or 0 in shape[1:3]:
        raise ShapeError(f"{name} expects images (N, H, W, C), channels last, got shape {shape}")
