"""The window arguments of convolution, pooling and resizing, checked and resolved once.

Public functions accept ``stride=2`` as well as ``stride=(2, 1)``, and padding in four notations.
The functions here turn such arguments into a ``Window`` for images of a given shape. They are
called on every forward pass with the same few arguments, so their results are cached.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any, TypeVar

import numpy as np

from tinynn.backend import Window, same_padding
from tinynn.errors import ArgumentError, ShapeError

T = TypeVar("T")
Shape = tuple[int, ...]
Pair = tuple[int, int]
Size = int | Pair
Padding = int | Pair | tuple[Pair, Pair] | str
_MAX_TAPS = 2**15 - 1  # backends store the index of a pooling window's tap as int16


def _cached(function: Callable[..., T]) -> Callable[..., T]:
    """Cache the results by the arguments; without a cache where one is not hashable."""
    cached = lru_cache(maxsize=512)(function)

    @wraps(function)
    def call(*arguments: Any) -> T:
        try:
            return cached(*arguments)
        except TypeError:  # a list
            return function(*arguments)

    return call


def pair(name: str, what: str, value: Size, least: int) -> Pair:
    """(rows, columns) from one integer or two; ArgumentError if one is below ``least``."""
    both = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(both) != 2 or any(not isinstance(v, (int, np.integer)) or v < least for v in both):
        raise ArgumentError(f"{name} expects {what} as 1 or 2 integers >= {least}, got {value!r}")
    return int(both[0]), int(both[1])


def check_image(name: str, shape: Shape, allow_empty: bool = False) -> None:
    """Raise ShapeError unless the shape is (N, H, W, C) with at least one pixel."""
    if len(shape) != 4 or (not allow_empty and 0 in shape[1:3]):
        raise ShapeError(f"{name} expects images (N, H, W, C), channels last, got shape {shape}")


def check_groups(name: str, inputs: int, outputs: int, groups: int) -> None:
    """Raise unless channels and groups are integers >= 1 and groups divides both channel counts."""
    for size in (inputs, outputs, groups):
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ArgumentError(f"{name} expects channels and groups >= 1, got {size!r}")
    if inputs % groups or outputs % groups:
        raise ShapeError(
            f"{name}: {groups!r} groups do not divide {inputs} input and {outputs} output channels"
        )


@_cached
def conv2d_window(
    name: str, x_shape: Shape, weight_shape: Shape, groups: int, *arguments: Any
) -> Window:
    """The window of a convolution; ShapeError if image and weight do not match.

    ``arguments`` are stride, padding and dilation.
    """
    check_image(name, x_shape, allow_empty=True)
    if len(weight_shape) != 4:
        raise ShapeError(f"{name} expects a weight (kh, kw, C / groups, O), got {weight_shape}")
    check_groups(name, x_shape[3], weight_shape[3], groups)
    channels = weight_shape[2] * groups
    if x_shape[3] != channels:
        split = f" in {groups} groups" if groups > 1 else ""
        hint = "; images are channels last: use x.permute(0, 2, 3, 1)"
        raise ShapeError(
            f"{name} expects images with {channels} channels (the last axis) for a weight "
            f"{weight_shape}{split}, got images of shape {x_shape}"
            f"{hint if x_shape[1] == channels else ''}"
        )
    return _window(name, x_shape, weight_shape[:2], *arguments)._replace(groups=groups)


@_cached
def pool_window(
    name: str, shape: Shape, kernel_size: Size, stride: Size | None, padding: Size, *rest: Any
) -> Window:
    """The window of a pooling function; ``rest`` is dilation and ceil_mode."""
    check_image(name, shape)
    kernel = pair(name, "kernel_size", kernel_size, 1)
    if kernel[0] * kernel[1] > _MAX_TAPS:
        raise ArgumentError(
            f"{name} takes kernels of at most {_MAX_TAPS} pixels, got {kernel}; "
            "global pooling takes images of any size"
        )
    pads = pair(name, "padding", padding, 0)
    if any(2 * p > k for p, k in zip(pads, kernel, strict=True)):
        raise ArgumentError(f"{name} expects padding at most half the kernel {kernel}, got {pads}")
    return _window(name, shape, kernel, kernel if stride is None else stride, pads, *rest)


def conv_transpose2d_window(
    name: str, shape: Shape, kernel: Shape, groups: int, *arguments: Size
) -> tuple[Window, Pair]:
    """The window of the convolution whose adjoint this is, and the size (H', W') of the output.

    ``arguments`` are stride, padding, output_padding and dilation.
    """
    stride, padding, output_padding, dilation = arguments
    pads = pair(name, "padding", padding, 0)
    around = (pads[0], pads[0]), (pads[1], pads[1])
    window = _unpadded(name, kernel, stride, dilation)._replace(padding=around, groups=groups)
    extra = pair(name, "output_padding", output_padding, 0)
    if any(e >= max(s, d) for e, s, d in zip(extra, window.stride, window.dilation, strict=True)):
        raise ArgumentError(f"{name} expects output_padding below stride or dilation, got {extra}")
    height, width = (
        (n - 1) * s - 2 * p + e + o
        for n, s, p, e, o in zip(shape[1:3], window.stride, pads, window.extent, extra, strict=True)
    )
    if min(height, width) < 1:
        raise ShapeError(f"{name}: padding {pads} leaves no output for {shape}")
    return window, (height, width)


def _window(
    name: str,
    shape: Shape,
    kernel: Shape,
    stride: Size,
    padding: Padding,
    dilation: Size,
    ceil_mode: bool = False,
) -> Window:
    window = _unpadded(name, kernel, stride, dilation)
    window = window._replace(padding=_padding(name, shape, window, padding))
    if ceil_mode:
        window = window.rounding_up(shape[1], shape[2])
    if 0 in window.output_size(*shape[1:3]):
        raise ShapeError(
            f"{name}: a kernel of {window.kernel[0]}x{window.kernel[1]} (dilation "
            f"{window.dilation}) does not fit into images of {shape[1]}x{shape[2]} pixels with "
            f"padding {window.padding}; use a smaller kernel, padding, or larger images"
        )
    return window


def _unpadded(name: str, kernel: Shape, stride: Size, dilation: Size) -> Window:
    steps, gaps = pair(name, "stride", stride, 1), pair(name, "dilation", dilation, 1)
    return Window((kernel[0], kernel[1]), steps, dilation=gaps)


def _padding(name: str, shape: Shape, window: Window, padding: Any) -> tuple[Pair, Pair]:
    """((top, bottom), (left, right)) from any of the four notations."""
    if padding == "same":
        rows, columns = (
            same_padding(shape[axis + 1], window.extent[axis], window.stride[axis])
            for axis in (0, 1)
        )
    elif isinstance(padding, str):
        raise ArgumentError(f'{name} expects padding as numbers or "same", got {padding!r}')
    elif isinstance(padding, tuple) and any(isinstance(p, tuple) for p in padding):
        rows, columns = (pair(name, "padding", p, 0) for p in padding)
    else:
        rows, columns = ((p, p) for p in pair(name, "padding", padding, 0))
    return rows, columns
