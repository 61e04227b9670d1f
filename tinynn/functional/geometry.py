"""The window arguments of convolution, pooling and resizing, checked and resolved once.

Public functions accept ``stride=2`` as well as ``stride=(2, 1)``, and padding in four notations.
The functions here turn such arguments into a ``Window`` for images of a given shape. They are
called on every forward pass with the same few arguments, so their results are cached.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any, TypeVar

from tinynn.arguments import flag, integer, is_sequence, sizes
from tinynn.backend import Window, same_padding
from tinynn.errors import ArgumentError, ShapeError

T = TypeVar("T")
Shape = tuple[int, ...]
Pair = tuple[int, int]
Size = int | Pair
Padding = int | Pair | tuple[Pair, Pair] | str
_MAX_SIZE = 2**31 - 1  # CUDA kernels count the pixels of an axis in 32 bits
_MAX_TAPS = 2**15 - 1  # backends store the index of a pooling window's tap as int16


def _cached(function: Callable[..., T]) -> Callable[..., T]:
    """Cache the results by the arguments; without a cache where one is not hashable."""
    cached = lru_cache(maxsize=512, typed=True)(function)  # typed: True and 1.0 are not 1

    @wraps(function)
    def call(*arguments: Any) -> T:
        try:
            return cached(*arguments)
        except TypeError:  # a list or an array
            return function(*arguments)

    return call


def pair(name: str, what: str, value: Size, least: int) -> Pair:
    """(rows, columns) from one integer or two; ArgumentError if one is below ``least``."""
    try:
        found = sizes(what, value, least)
    except ArgumentError:
        found = ()
    if len(found) != (2 if is_sequence(value) else 1) or max(found) > _MAX_SIZE:
        bounds = f">= {least} and < 2**31"
        raise ArgumentError(f"{name} expects {what} as 1 or 2 integers {bounds}, got {value!r:.80}")
    return found[0], found[-1]


def checked_size(name: str, what: str, value: Size, least: int) -> Size:
    """One integer or two, as they came, after the checks of ``pair``."""
    both = pair(name, what, value, least)
    return both if is_sequence(value) else both[0]


def checked_padding(name: str, padding: Any) -> Padding:
    """The padding of a convolution, in the notation in which it came."""
    if isinstance(padding, str):
        if padding != "same":
            raise ArgumentError(f'{name} expects padding as numbers or "same", got {padding!r}')
        return padding
    if is_sequence(padding) and len(padding) == 2 and all(map(is_sequence, padding)):
        return pair(name, "padding", padding[0], 0), pair(name, "padding", padding[1], 0)
    return checked_size(name, "padding", padding, 0)


def checked_pool(name: str, kernel_size: Size, stride: Any, padding: Size) -> tuple[Any, Any, Any]:
    """The kernel, stride (or None) and padding of a pooling window, as they came."""
    kernel, pads = pair(name, "kernel_size", kernel_size, 1), pair(name, "padding", padding, 0)
    if "max" in name.lower() and kernel[0] * kernel[1] > _MAX_TAPS:
        raise ArgumentError(
            f"{name} takes kernels of at most {_MAX_TAPS} pixels, got {kernel}; "
            "global pooling takes images of any size"
        )
    if any(2 * p > k for p, k in zip(pads, kernel, strict=True)):
        raise ArgumentError(f"{name} expects padding at most half the kernel {kernel}, got {pads}")
    steps = None if stride is None else checked_size(name, "stride", stride, 1)
    return checked_size(name, "", kernel_size, 1), steps, checked_size(name, "", padding, 0)


def check_image(name: str, shape: Shape, allow_empty: bool = False) -> None:
    """Raise ShapeError unless the shape is (N, H, W, C) with at least one pixel."""
    if len(shape) != 4 or (not allow_empty and 0 in shape[1:3]):
        raise ShapeError(f"{name} expects images (N, H, W, C), channels last, got shape {shape}")


def check_groups(name: str, *counts: int) -> tuple[int, int, int]:
    """Input channels, output channels and groups >= 1; groups must divide both channel counts."""
    what = f"{name}: channels and groups"
    inputs, outputs, groups = (integer(what, count, 1) for count in counts)
    if inputs % groups or outputs % groups:
        raise ShapeError(
            f"{name}: {groups} groups do not divide {inputs} input and {outputs} output channels"
        )
    return inputs, outputs, groups


def check_output_padding(name: str, output_padding: Size, stride: Size, dilation: Size) -> Pair:
    """(rows, columns), each below the stride or the dilation."""
    extra = pair(name, "output_padding", output_padding, 0)
    steps, gaps = pair(name, "stride", stride, 1), pair(name, "dilation", dilation, 1)
    if any(e >= max(s, d) for e, s, d in zip(extra, steps, gaps, strict=True)):
        raise ArgumentError(f"{name} expects output_padding below stride or dilation, got {extra}")
    return extra


@_cached
def conv2d_window(
    name: str, x_shape: Shape, weight_shape: Shape, groups: int, *arguments: Any
) -> Window:
    """The window of a convolution; ShapeError if image and weight do not match.

    ``arguments`` are stride, padding and dilation.
    """
    check_image(name, x_shape, allow_empty=True)
    if len(weight_shape) != 4 or 0 in weight_shape[:2]:
        raise ShapeError(f"{name} expects a weight (kh, kw, C / groups, O), got {weight_shape}")
    groups = check_groups(name, x_shape[3], weight_shape[3], groups)[2]
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
    size, steps, pads = checked_pool(name, kernel_size, stride, padding)
    kernel = pair(name, "kernel_size", size, 1)
    return _window(name, shape, kernel, kernel if steps is None else steps, pads, *rest)


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
    extra = check_output_padding(name, output_padding, stride, dilation)
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
    padded = [n + sum(pads) for n, pads in zip(shape[1:3], window.padding, strict=True)]
    if max(padded) > _MAX_SIZE or math.prod(padded) * shape[0] * shape[3] > 2**60:
        raise ArgumentError(f"{name}: images of {shape} are too large with padding {padding}")
    if ceil_mode is not False and flag(f"{name}: ceil_mode", ceil_mode):
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
    checked = checked_padding(name, padding)
    if isinstance(checked, str):
        rows, columns = (
            same_padding(shape[axis + 1], window.extent[axis], window.stride[axis])
            for axis in (0, 1)
        )
        return rows, columns
    top, left = (checked, checked) if isinstance(checked, int) else checked
    return pair(name, "padding", top, 0), pair(name, "padding", left, 0)
