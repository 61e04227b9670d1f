"""Convolution on a GPU: which kernels of ``convolution.cu``, and with what geometry.

With few channels a convolution is limited by memory bandwidth. There an implicit GEMM gathers the
patches into shared memory, so that im2col is never written, and bias, ReLU and pooling are its
epilogue. With many channels arithmetic dominates: im2col writes patches for cuBLAS, a bounded
workspace at a time. Groups of few channels (depthwise convolution) have no matrices to multiply:
one thread per output.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from tinynn.backend.cuda import tuning
from tinynn.backend.cuda.device import CudaDevice
from tinynn.backend.cuda.geometry import Geometry, Shape, packed, sliding
from tinynn.backend.cuda.launch import KernelFile, accumulate
from tinynn.backend.reference import Array, Backend
from tinynn.backend.window import Window

_HALVING = Window((2, 2), (2, 2))
_MAX_GRID = 2**16  # of the second and third axis of a grid
_kernels = KernelFile("convolution")


def conv2d(
    backend: CudaDevice, x: Array, weight: Array, bias: Array | None, window: Window
) -> Array:
    """Cross-correlation; the bias is added in the same kernel, or in place after cuBLAS."""
    x, weight = backend.contiguous(x), backend.contiguous(weight)
    size = window.output_size(*x.shape[1:3])
    out = backend.xp.empty((x.shape[0], *size, weight.shape[3]), x.dtype)
    if not (_uses_cublas(window, weight.shape) and out.size):
        g = sliding(x.shape, size, window, weight.shape[3])
        _correlate(x, weight, backend.pointer(bias), g, out)
        return out
    matrix, rows = _rows(weight), _rows(out)
    for begin, columns in _im2col(backend, x, window, size):
        backend.matmul(columns, matrix, out=rows[begin : begin + len(columns)])
    return out if bias is None else backend.add_bias(out, bias)


def conv2d_relu_pool(
    backend: CudaDevice,
    x: Array,
    weight: Array,
    bias: Array | None,
    window: Window,
    pool: Window,
    keep: bool = True,
) -> tuple[Array, Array | None]:
    """One launch for few channels and 2 x 2 pooling; nothing of full size is written."""
    if pool != _HALVING or window.groups > 1 or _uses_cublas(window, weight.shape):
        return Backend.conv2d_relu_pool(backend, x, weight, bias, window, pool, keep)
    x, weight = backend.contiguous(x), backend.contiguous(weight)
    size = window.output_size(*x.shape[1:3])
    pooled = pool.output_size(*size)
    out = backend.xp.empty((x.shape[0], *pooled, weight.shape[3]), x.dtype)
    winner = backend.xp.empty(out.shape, backend.xp.int8)
    g = sliding(x.shape, size, window, weight.shape[3])
    _correlate(x, weight, backend.pointer(bias), g, out, winner)
    return out, winner


def conv2d_input_gradient(
    backend: CudaDevice, grad: Array, weight: Array, window: Window, shape: Shape
) -> Array:
    """The correlation of the upsampled gradient with the flipped kernel."""
    grad, weight = backend.contiguous(grad), backend.contiguous(weight)
    x = backend.xp.empty(shape, grad.dtype)
    if _uses_cublas(window, weight.shape) and grad.size:
        _col2im(backend, grad, weight, window, x)
    else:
        _correlate(grad, weight, 0, _backward(grad.shape, shape, window), x)
    return x


def conv2d_weight_gradient(backend: CudaDevice, x: Array, grad: Array, window: Window) -> Array:
    """Few results, each a sum over all pixels: partial sums, added in a fixed order."""
    x, grad = backend.contiguous(x), backend.contiguous(grad)
    shape = (*window.kernel, x.shape[3] // window.groups, grad.shape[3])
    if not grad.size:
        return backend.xp.zeros(shape, x.dtype)
    if _uses_cublas(window, shape):
        return _gemm_weight_gradient(backend, x, grad, window).reshape(shape)
    g = sliding(x.shape, grad.shape[1:3], window, grad.shape[3])
    if _is_depthwise(g):
        name, tiles = "weight_gradient_depthwise", (-(-g.outputs // 32), g.terms)
    else:
        down, across = (-(-n // tuning.GRADIENT_TILE) for n in (g.terms, g.group_outputs))
        name, tiles = "weight_gradient", (down * across, g.groups)
    count = tiles[0] * tiles[1]
    pixels = grad.size // g.outputs
    split = backend.split(pixels, 1, count, tuning.MIN_PIXELS_PER_BLOCK)
    each = min(split.each, tuning.MAX_PIXELS_PER_BLOCK)
    parts = -(-pixels // each)
    out = backend.xp.empty(shape, x.dtype)
    partial = backend.xp.empty((parts, *shape), accumulate(x))
    arguments = (x, grad, packed(g), each, partial, backend.tickets(count), out)
    _kernels.launch(name, x.dtype, (parts, *tiles), *arguments)
    return out


# -- implicit GEMM ---------------------------------------------------------------------------------


def _correlate(
    x: Array, weight: Array, bias: Any, g: Geometry, out: Array, winner: Array | None = None
) -> None:
    """Fill ``out``; with ``winner`` the epilogue is ReLU and 2 x 2 max pooling.

    ``bias`` is a pointer, 0 for none.
    """
    if not out.size:
        return
    arguments = (x, weight, bias, packed(g), out)
    if _is_depthwise(g):
        _kernels.for_each("correlate_depthwise", x.dtype, out.size, *arguments)
        return
    pool, kept = (0, 0) if winner is None else (1, winner)
    tiles = tuning.FORWARD_TILES
    tile = next((tile for tile in tiles if g.group_outputs <= tile), tiles[-1])
    rows = out.size // g.outputs * (4 if pool else 1)
    grid = (-(-rows // (tuning.THREADS // (tile // 4) * 4)), -(-g.group_outputs // tile), g.groups)
    _kernels.launch("correlate", x.dtype, grid, *arguments, kept, TILE_O=tile, POOL=pool)


# -- im2col and cuBLAS -----------------------------------------------------------------------------


def _im2col(
    backend: CudaDevice, x: Array, window: Window, size: Shape
) -> Iterator[tuple[int, Array]]:
    """(first row, patches (rows, kh * kw * C)) of all output pixels, a workspace at a time."""
    if _is_pointwise(window) and x.shape[1:3] == size:
        yield 0, _rows(x)
        return
    terms = window.kernel[0] * window.kernel[1] * x.shape[3]
    pixels = x.shape[0] * size[0] * size[1]
    each = min(pixels, max(1, tuning.IM2COL_WORKSPACE // (terms * x.dtype.itemsize)))
    workspace = backend.xp.empty((each, terms), x.dtype)
    g = packed(sliding(x.shape, size, window))
    for begin in range(0, pixels, each):
        columns = workspace[: pixels - begin]
        arguments = (x, g, begin, len(columns), columns)
        _kernels.for_each("im2col", x.dtype, columns.size, *arguments)
        yield begin, columns


def _gemm_weight_gradient(backend: CudaDevice, x: Array, grad: Array, window: Window) -> Array:
    """patches' @ grad, summed over the workspaces."""
    rows, total = _rows(grad), None
    for begin, columns in _im2col(backend, x, window, grad.shape[1:3]):
        product = backend.matmul(columns.T, rows[begin : begin + len(columns)])
        if total is None and len(columns) < len(rows):
            product = product.astype(accumulate(x), copy=False)
        total = product if total is None else backend.xp.add(total, product, total)
    return total if total is None else total.astype(x.dtype, copy=False)


def _col2im(backend: CudaDevice, grad: Array, weight: Array, window: Window, x: Array) -> None:
    """x = col2im(grad @ weight'), a workspace of whole images at a time."""
    matrix = _rows(weight).T
    if _is_pointwise(window) and grad.shape[:3] == x.shape[:3]:
        backend.matmul(_rows(grad), matrix, out=_rows(x))
        return
    area = grad.shape[1] * grad.shape[2]
    each = max(1, tuning.IM2COL_WORKSPACE // (area * matrix.shape[1] * x.dtype.itemsize))
    for begin in range(0, len(x), each):
        part = x[begin : begin + each]
        columns = backend.matmul(_rows(grad[begin : begin + each]), matrix)
        g = packed(sliding(part.shape, grad.shape[1:3], window))
        _kernels.for_each("col2im", x.dtype, part.size, columns, g, part)


def _rows(array: Array) -> Array:
    return array.reshape(-1, array.shape[-1])


# -- choice and geometry ---------------------------------------------------------------------------


def _is_pointwise(window: Window) -> bool:
    """Whether the pixels themselves are the patches."""
    return window == Window((1, 1), dilation=window.dilation)


def _uses_cublas(window: Window, weight: Shape) -> bool:
    """Whether im2col has nothing to write, or cuBLAS has enough work for each column."""
    kh, kw, channels, outputs = weight
    large = outputs >= tuning.GEMM_MIN_OUTPUTS and kh * kw * channels >= tuning.GEMM_MIN_TERMS
    return window.groups == 1 and (large or _is_pointwise(window))


def _is_depthwise(g: Geometry) -> bool:
    """Whether a group has too few output channels to fill a tile."""
    return g.groups > 1 and g.group_outputs < tuning.DEPTHWISE_MAX_OUTPUTS and g.terms < _MAX_GRID


@lru_cache(maxsize=1024)
def _backward(grad: Shape, x: Shape, window: Window) -> Geometry:
    """The convolution of the upsampled gradient that gives the gradient of images x.

    Tap i of output row y reads row h = y * stride - top + i * dilation. So row h of the image
    gathers from the rows y with y * stride = h + top - i * dilation: a correlation of the gradient,
    upsampled by ``stride``, with the flipped kernel, whose first tap lies extent - 1 rows higher.
    """
    (top, _), (left, _) = window.padding
    height, width = window.extent
    padding = ((height - 1 - top, 0), (width - 1 - left, 0))
    full = window._replace(stride=(1, 1), padding=padding)
    geometry = sliding(grad, x[1:3], full, x[3])
    return geometry._replace(upsample_h=window.stride[0], upsample_w=window.stride[1], flipped=1)
