"""Convolutions of channels-last images, and their gradients of every order.

A convolution is linear in the image and in the weight. The gradients of its two adjoints are again
convolutions, so three functions, each the gradient of the others, suffice for every order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tinynn.autograd import VJP, Tensor, is_grad_enabled, record, record_jointly
from tinynn.backend import NeedsGrad, PooledGrad, Window
from tinynn.errors import ShapeError
from tinynn.functional.elementwise import relu_gradient
from tinynn.functional.geometry import (
    Padding,
    Size,
    check_groups,
    check_image,
    conv2d_window,
    conv_transpose2d_window,
    pool_window,
)
from tinynn.functional.operands import array_of, check_same
from tinynn.functional.pooling import scatter
from tinynn.precision import narrow

__all__ = ["conv2d", "conv2d_relu_max_pool2d", "conv_transpose2d"]


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> Tensor:
    """Cross-correlation: out[n, y, x] = Σᵢⱼ padded[n, y·stride + i, x·stride + j] @ weight[i, j].

    Args:
        x: Images.
        weight: The kernel.
        bias: Added to each output channel.
        stride: Step of the kernel in pixels; one integer, or (rows, columns).
        padding: Zeros around the image: an integer, (rows, columns), ((top, bottom),
            (left, right)), or "same", which gives H' = ceil(H / stride) for even kernels too.
        dilation: Distance between the taps of the kernel in pixels.
        groups: Number of independent convolutions that the channels are split into.

    Shape:
        x (N, H, W, C), weight (kh, kw, C / groups, O), bias (O,) -> (N, H', W', O) with
        H' = floor((H + padding - (kh - 1)·dilation - 1) / stride) + 1.

    Raises:
        ShapeError: If the shapes of the operands do not match, or the kernel is larger than the
            padded image.

    Example:
        >>> F.conv2d(tinynn.ones((1, 5, 5, 3)), tinynn.ones((3, 3, 3, 8))).shape
        (1, 3, 3, 8)
    """
    x, weight, bias, window = _operands(
        "conv2d", x, weight, bias, groups, stride, padding, dilation
    )
    return _conv2d(x, weight, bias, window)


def conv2d_relu_max_pool2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    pool_size: Size = 2,
    pool_stride: Size | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    """max_pool2d(relu(conv2d(x, weight, bias, ...)), pool_size, ...) in one pass.

    The full-size output of the convolution is not kept and, where the backend can avoid it, never
    written to memory.
    """
    name = "conv2d_relu_max_pool2d"
    x, weight, bias, window = _operands(name, x, weight, bias, 1, stride, padding, dilation)
    full = (x.shape[0], *window.output_size(*x.shape[1:3]), weight.shape[3])
    pool = pool_window(name, full, pool_size, pool_stride, 0, 1, ceil_mode)
    keep = is_grad_enabled() and any(t.requires_grad for t in (x, weight, bias) if t is not None)
    out, winner = x.backend.conv2d_relu_pool(
        x.data, weight.data, array_of(bias), window, pool, keep
    )

    def upstream(grad: Tensor) -> Tensor:
        return scatter(relu_gradient(grad, out), winner, pool, full)

    def kernel(grad: Tensor, needs: NeedsGrad) -> Sequence[Any]:
        pooled = PooledGrad(grad.data, out, winner, pool)
        return grad.backend.conv2d_relu_pool_gradients(x.data, weight.data, pooled, window, needs)

    return _record(name, out, (x, weight, bias), window, kernel, upstream)


def conv_transpose2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size = 0,
    output_padding: Size = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> Tensor:
    """The adjoint of ``conv2d``, also called transposed convolution; it enlarges images.

    The weight belongs to a convolution from O to C channels; this is the input gradient of that
    convolution. ``output_padding`` adds rows and columns at the bottom and right. Zeiler, Krishnan,
    Taylor and Fergus, "Deconvolutional networks" (2010).

    Shape:
        x (N, H, W, C), weight (kh, kw, O / groups, C), bias (O,) -> (N, H', W', O) with
        H' = (H - 1)·stride - 2·padding + (kh - 1)·dilation + output_padding + 1.
    """
    name = "conv_transpose2d"
    x, weight, bias = narrow(x, weight, bias)
    check_same(name, x, weight, bias, required=2)
    check_image(name, x.shape)
    if weight.ndim != 4 or x.shape[3] != weight.shape[3] or 0 in weight.shape[:3]:
        raise ShapeError(
            f"{name} expects a weight (kh, kw, O / groups, {x.shape[3]}) for images of shape "
            f"{x.shape}, got {weight.shape}"
        )
    groups = check_groups(name, x.shape[3], x.shape[3], groups)[2]
    outputs = weight.shape[2] * groups
    window, size = conv_transpose2d_window(
        name, x.shape, weight.shape[:2], groups, stride, padding, output_padding, dilation
    )
    _check_bias(name, outputs, bias)
    out = _input_gradient(x, weight, window, (x.shape[0], *size, outputs))
    return out if bias is None else out + bias


def _operands(
    name: str, x: Tensor, weight: Tensor, bias: Tensor | None, *arguments: Any
) -> tuple[Tensor, Tensor, Tensor | None, Window]:
    """The checked operands of a convolution, and its window."""
    x, weight, bias = narrow(x, weight, bias)
    check_same(name, x, weight, bias, required=2)
    sizes = weight.data.shape
    window = conv2d_window(name, x.data.shape, sizes, *arguments)
    _check_bias(name, sizes[3], bias)
    return x, weight, bias, window


def _check_bias(name: str, outputs: int, bias: Tensor | None) -> None:
    if bias is not None and bias.shape != (outputs,):
        raise ShapeError(f"{name} expects a bias ({outputs},), got {bias.shape}")


def _conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, window: Window) -> Tensor:
    out = x.backend.conv2d(x.data, weight.data, array_of(bias), window)

    def kernel(grad: Tensor, needs: NeedsGrad) -> Sequence[Any]:
        return grad.backend.conv2d_gradients(x.data, weight.data, grad.data, window, needs)

    return _record("conv2d", out, (x, weight, bias), window, kernel)


def _record(
    name: str,
    out: Any,
    operands: tuple[Tensor, Tensor, Tensor | None],
    window: Window,
    kernel: Callable[[Tensor, NeedsGrad], Sequence[Any]],
    upstream: VJP = lambda grad: grad,
) -> Tensor:
    """The output of a convolution as a tensor.

    ``kernel`` computes all gradients at once. Where they must be differentiable themselves, they
    are composed of tensor functions instead, from the gradient of the convolution's output:
    ``upstream(grad)``.
    """
    x, weight, _ = operands

    def vjps(grad: Tensor, needs_grad: tuple[bool, ...]) -> Sequence[Tensor | None]:
        needs = NeedsGrad(*needs_grad)
        if not is_grad_enabled():
            return [None if g is None else Tensor(g) for g in kernel(grad, needs)]
        grad = upstream(grad)
        return (
            _input_gradient(grad, weight, window, x.shape) if needs.x else None,
            _weight_gradient(x, grad, window) if needs.weight else None,
            grad.sum(axis=(0, 1, 2)) if needs.bias else None,
        )

    return record_jointly(name, out, operands, vjps)


def _input_gradient(
    grad_out: Tensor, weight: Tensor, window: Window, shape: tuple[int, ...]
) -> Tensor:
    """The gradient of ``conv2d`` with respect to images of ``shape``."""
    return record(
        "conv2d_input_gradient",
        grad_out.backend.conv2d_input_gradient(grad_out.data, weight.data, window, shape),
        (grad_out, lambda grad: _conv2d_of_size(grad, weight, window, grad_out.shape)),
        (weight, lambda grad: _weight_gradient(grad, grad_out, window)),
    )


def _weight_gradient(x: Tensor, grad_out: Tensor, window: Window) -> Tensor:
    """The gradient of ``conv2d`` with respect to the weight."""
    return record(
        "conv2d_weight_gradient",
        x.backend.conv2d_weight_gradient(x.data, grad_out.data, window),
        (x, lambda grad: _input_gradient(grad_out, grad, window, x.shape)),
        (grad_out, lambda grad: _conv2d_of_size(x, grad, window, grad_out.shape)),
    )


def _conv2d_of_size(x: Tensor, weight: Tensor, window: Window, shape: tuple[int, ...]) -> Tensor:
    """The convolution without the last windows that output padding has made room for."""
    out = _conv2d(x, weight, None, window)
    return out if out.shape == shape else out[:, : shape[1], : shape[2]]
