"""Several functions in one pass over the memory; each equals the functions that it joins."""

from __future__ import annotations

from collections.abc import Sequence

from tinynn.autograd import Tensor, is_grad_enabled, record, record_jointly
from tinynn.backend import NeedsGrad
from tinynn.functional.convolution import (
    Padding,
    Pair,
    check_conv2d,
    conv2d_products,
)
from tinynn.functional.elementwise import relu_gradient
from tinynn.functional.pooling import pool_window, scatter
from tinynn.precision import narrowed


def conv2d_relu_max_pool2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Pair = 1,
    padding: Padding = 0,
    dilation: int | Pair = 1,
    pool_size: int | Pair = 2,
    pool_stride: int | Pair | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    """max_pool2d(relu(conv2d(x, weight, bias, ...)), pool_size, ...) in one.

    The full-size result of the convolution is neither kept nor, where the backend can avoid it,
    written to memory at all.
    """
    x, weight, bias = narrowed(x), narrowed(weight), narrowed(bias)
    window = check_conv2d("conv2d_relu_max_pool2d", x, weight, bias, stride, padding, dilation, 1)
    full = (x.shape[0], *window.output_size(*x.shape[1:3]), weight.shape[3])
    pool = pool_window("conv2d_relu_max_pool2d", full, pool_size, pool_stride, 0, 1, ceil_mode)
    shift = None if bias is None else bias.data
    keep = is_grad_enabled() and any(t.requires_grad for t in (x, weight, bias) if t is not None)
    out, winner = x.backend.conv2d_relu_pool(x.data, weight.data, shift, window, pool, keep)
    if not keep:
        return record("conv2d_relu_max_pool2d", out, (x, lambda grad: grad))  # needed by nobody
    products = conv2d_products(x, weight, bias, window, 1)

    def gradients(grad: Tensor, needs_grad: tuple[bool, ...]) -> Sequence[Tensor | None]:
        if is_grad_enabled():
            spread = scatter(relu_gradient(grad, out), winner, pool, full)
            return [
                p(spread) if need else None for p, need in zip(products, needs_grad, strict=True)
            ]
        found = grad.backend.conv2d_relu_pool_gradients(
            x.data, weight.data, grad.data, out, winner, window, pool, NeedsGrad(*needs_grad)
        )
        return [None if array is None else Tensor(array) for array in found]

    return record_jointly("conv2d_relu_max_pool2d", out, (x, weight, bias), gradients)
