"""Convolutions of channels-last images, and the two gradients that close over each other.

A convolution is linear in the image and in the weight. Its gradients are again such products, so
three functions that are each other's gradients suffice for derivatives of every order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from tinynn.autograd import Tensor, is_grad_enabled, record, record_jointly
from tinynn.backend import Array, NeedsGrad, Window, same_padding
from tinynn.errors import ArgumentError, ShapeError
from tinynn.functional.operands import same_device, same_dtype
from tinynn.precision import narrowed

Pair = tuple[int, int]
Padding = int | Pair | tuple[Pair, Pair] | str


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Pair = 1,
    padding: Padding = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
) -> Tensor:
    """Cross-correlation of images (N, H, W, C) with a weight (kh, kw, C / groups, O).

    Returns (N, H', W', O) with H' = floor((H + padding - (kh - 1)·dilation - 1) / stride) + 1.
    ``padding`` is a number, (rows, columns), ((top, bottom), (left, right)), or "same", which gives
    H' = ceil(H / stride) also for even kernels. ``groups`` splits the channels into that many
    independent convolutions. Raises ShapeError if the kernel is larger than the padded image.
    """
    x, weight, bias = narrowed(x), narrowed(weight), narrowed(bias)
    window = check_conv2d("conv2d", x, weight, bias, stride, padding, dilation, groups)
    return _conv2d(x, weight, bias, window, groups)


def check_conv2d(
    name: str,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: int | Pair,
    padding: Padding,
    dilation: int | Pair,
    groups: int,
) -> Window:
    """The window of a convolution, after a look whether its operands fit each other."""
    same_device(name, x, weight, bias)
    same_dtype(name, x, weight, bias)
    _check_bias(name, weight.shape[-1] if weight.ndim else 0, bias)
    return _conv2d_window(name, x.shape, weight.shape, stride, padding, dilation, groups)


def once(function: Callable[..., Window]) -> Callable[..., Window]:
    """The function with what it returned kept for the next call alike; lists are not kept."""
    kept = lru_cache(maxsize=512)(function)

    def call(*arguments: Any) -> Window:
        try:
            return kept(*arguments)
        except TypeError:  # a list has no hash
            return function(*arguments)

    return call


@once
def _conv2d_window(
    name: str,
    x_shape: tuple[int, ...],
    weight_shape: tuple[int, ...],
    stride: int | Pair,
    padding: Padding,
    dilation: int | Pair,
    groups: int,
) -> Window:
    _check_image(name, x_shape)
    if len(weight_shape) != 4:
        raise ShapeError(f"{name} expects a weight (kh, kw, C / groups, O), got {weight_shape}")
    check_groups(name, x_shape[3], weight_shape[3], groups)
    channels = weight_shape[2] * groups
    if x_shape[3] != channels:
        split = f" in {groups} groups" if groups > 1 else ""
        turned = "; images are channels last: use x.permute(0, 2, 3, 1)"
        raise ShapeError(
            f"{name} expects images with {channels} channels (the last axis) for a weight "
            f"{weight_shape}{split}, got images of shape {x_shape}"
            f"{turned if x_shape[1] == channels else ''}"
        )
    window = make_window(name, x_shape, weight_shape[:2], stride, padding, dilation)
    check_fits(name, window, x_shape)
    return window


def conv_transpose2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Pair = 1,
    padding: int | Pair = 0,
    output_padding: int | Pair = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
) -> Tensor:
    """The adjoint of ``conv2d`` as a layer: images (N, H, W, C), weight (kh, kw, O / groups, C).

    The weight is that of the convolution from O to C channels whose gradient this is. Returns
    (N, H', W', O) with H' = (H - 1)·stride - 2·padding + (kh - 1)·dilation + output_padding + 1.
    Zeiler, Krishnan, Taylor and Fergus, "Deconvolutional networks" (2010).
    """
    x, weight, bias = narrowed(x), narrowed(weight), narrowed(bias)
    same_device("conv_transpose2d", x, weight, bias)
    same_dtype("conv_transpose2d", x, weight, bias)
    _check_image("conv_transpose2d", x.shape)
    if weight.ndim != 4 or x.shape[3] != weight.shape[3]:
        raise ShapeError(
            f"conv_transpose2d expects a weight (kh, kw, O / groups, {x.shape[3]}) for images of "
            f"shape {x.shape}, got {weight.shape}"
        )
    outputs = weight.shape[2] * groups
    check_groups("conv_transpose2d", x.shape[3], outputs, groups)
    pads = pair("conv_transpose2d", "padding", padding, 0)
    window = Window(
        (weight.shape[0], weight.shape[1]),
        pair("conv_transpose2d", "stride", stride, 1),
        ((pads[0], pads[0]), (pads[1], pads[1])),
        pair("conv_transpose2d", "dilation", dilation, 1),
    )
    extra = pair("conv_transpose2d", "output_padding", output_padding, 0)
    if any(e >= max(s, d) for e, s, d in zip(extra, window.stride, window.dilation, strict=True)):
        raise ArgumentError(
            f"conv_transpose2d expects an output_padding below stride or dilation, got {extra}"
        )
    size = [
        (n - 1) * s - 2 * p + e + o
        for n, s, p, e, o in zip(
            x.shape[1:3], window.stride, pads, window.extent, extra, strict=True
        )
    ]
    if min(size) < 1:
        raise ShapeError(f"conv_transpose2d: padding {pads} leaves no output for {x.shape}")
    shape = (x.shape[0], size[0], size[1], outputs)
    out = _conv2d_input_gradient(x, weight, window, groups, shape)
    _check_bias("conv_transpose2d", outputs, bias)
    return out if bias is None else out + bias


def _conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, window: Window, groups: int) -> Tensor:
    shift = None if bias is None else bias.data
    out = x.backend.conv2d(x.data, weight.data, shift, window, groups)
    return record_conv2d(out, x, weight, bias, window, groups)


def record_conv2d(
    out: Array, x: Tensor, weight: Tensor, bias: Tensor | None, window: Window, groups: int
) -> Tensor:
    """The result of a convolution, with its gradients."""
    products = conv2d_products(x, weight, bias, window, groups)

    def gradients(grad: Tensor, needs_grad: tuple[bool, ...]) -> Sequence[Tensor | None]:
        if is_grad_enabled():
            return [p(grad) if need else None for p, need in zip(products, needs_grad, strict=True)]
        found = grad.backend.conv2d_gradients(
            x.data, weight.data, grad.data, window, groups, NeedsGrad(*needs_grad)
        )
        return [None if array is None else Tensor(array) for array in found]

    return record_jointly("conv2d", out, (x, weight, bias), gradients)


def conv2d_products(
    x: Tensor, weight: Tensor, bias: Tensor | None, window: Window, groups: int
) -> Sequence[Callable[[Tensor], Tensor]]:
    """The gradients of image, weight and bias as differentiable functions of what arrives."""
    return (
        lambda grad: _conv2d_input_gradient(grad, weight, window, groups, x.shape),
        lambda grad: _conv2d_weight_gradient(x, grad, window, groups),
        lambda grad: grad.sum(axis=(0, 1, 2)),
    )


def _conv2d_input_gradient(
    grad_out: Tensor, weight: Tensor, window: Window, groups: int, shape: tuple[int, ...]
) -> Tensor:
    return record(
        "conv2d_input_gradient",
        grad_out.backend.conv2d_input_gradient(grad_out.data, weight.data, window, groups, shape),
        (grad_out, lambda grad: _conv2d_of_size(grad, weight, window, groups, grad_out.shape)),
        (weight, lambda grad: _conv2d_weight_gradient(grad, grad_out, window, groups)),
    )


def _conv2d_of_size(
    x: Tensor, weight: Tensor, window: Window, groups: int, shape: tuple[int, ...]
) -> Tensor:
    """The first windows only, where output padding has made room for more."""
    out = _conv2d(x, weight, None, window, groups)
    return out if out.shape == shape else out[:, : shape[1], : shape[2]]


def _conv2d_weight_gradient(x: Tensor, grad_out: Tensor, window: Window, groups: int) -> Tensor:
    return record(
        "conv2d_weight_gradient",
        x.backend.conv2d_weight_gradient(x.data, grad_out.data, window, groups),
        (x, lambda grad: _conv2d_input_gradient(grad_out, grad, window, groups, x.shape)),
        (grad_out, lambda grad: _conv2d_of_size(x, grad, window, groups, grad_out.shape)),
    )


def _check_bias(name: str, outputs: int, bias: Tensor | None) -> None:
    if bias is not None and bias.shape != (outputs,):
        raise ShapeError(f"{name} expects a bias ({outputs},), got {bias.shape}")


# -- arguments that pooling shares ----------------------------------------------------------------


def pair(name: str, what: str, value: int | Pair, least: int) -> Pair:
    """(rows, columns) from one number or two; ArgumentError if one is below ``least``."""
    both = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(both) != 2 or any(not isinstance(v, (int, np.integer)) or v < least for v in both):
        raise ArgumentError(
            f"{name} expects {what} as one or two whole numbers >= {least}, got {value!r}"
        )
    return int(both[0]), int(both[1])


def make_window(
    name: str,
    shape: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: int | Pair,
    padding: Padding,
    dilation: int | Pair,
) -> Window:
    """The window for images of ``shape``, with every way to write its padding resolved."""
    window = Window(
        (kernel[0], kernel[1]),
        pair(name, "stride", stride, 1),
        dilation=pair(name, "dilation", dilation, 1),
    )
    if padding == "same":
        rows = same_padding(shape[1], window.extent[0], window.stride[0])
        columns = same_padding(shape[2], window.extent[1], window.stride[1])
    elif isinstance(padding, str):
        raise ArgumentError(f'{name} expects padding as numbers or "same", got {padding!r}')
    elif isinstance(padding, tuple) and any(isinstance(p, tuple) for p in padding):
        rows, columns = (pair(name, "padding", p, 0) for p in padding)
    else:
        both = pair(name, "padding", padding, 0)  # type: ignore[arg-type]
        rows, columns = (both[0], both[0]), (both[1], both[1])
    return window._replace(padding=(rows, columns))


def check_fits(name: str, window: Window, shape: tuple[int, ...]) -> None:
    """Raise ShapeError unless the window fits into the padded image at least once."""
    if 0 in window.output_size(*shape[1:3]):
        raise ShapeError(
            f"{name}: a kernel of {window.kernel[0]}x{window.kernel[1]} (dilation "
            f"{window.dilation}) does not fit into images of {shape[1]}x{shape[2]} pixels with "
            f"padding {window.padding}; use a smaller kernel, padding, or larger images"
        )


def _check_image(name: str, shape: tuple[int, ...]) -> None:
    if len(shape) != 4:
        raise ShapeError(f"{name} expects images (N, H, W, C), channels last, got shape {shape}")


def check_groups(name: str, inputs: int, outputs: int, groups: int) -> None:
    """Raise unless the sizes are whole numbers >= 1 and groups divides both numbers of channels."""
    for size in (inputs, outputs, groups):
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ArgumentError(f"{name} expects channels and groups >= 1, got {size!r}")
    if inputs % groups or outputs % groups:
        raise ShapeError(
            f"{name}: {groups!r} groups do not divide {inputs} input and {outputs} output channels"
        )
