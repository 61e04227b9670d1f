"""Convolution on a GPU: which of the kernels of ``convolution.cu``, and with what geometry.

Few channels leave a GPU waiting for memory, so the columns of im2col are never written and bias,
ReLU and pooling happen in registers. Many channels keep its multipliers busy: there cuBLAS
multiplies columns that are written a bounded number of rows at a time. Groups of few channels have
no matrices to multiply and get a thread for each output.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

from tinynn.backend.cuda.launch import (
    THREADS,
    CudaKernels,
    accumulate,
    blocks_for,
    kernel,
    struct,
)
from tinynn.backend.reference import Array
from tinynn.backend.window import Window

_WORKSPACE = 64 * 2**20  # bytes of columns at a time
_TILE = 64  # of weight_gradient: a block computes 64 x 64 results
_BLOCKS_EACH = 4  # blocks for each multiprocessor where the split of a sum is free
_LEAST_PIXELS = 256  # of a part of a sum that is worth a block
_HALVING = Window((2, 2), (2, 2))

Shape = tuple[int, ...]
Pair = tuple[int, int]


class Geometry(NamedTuple):
    """The struct of the same name in ``convolution.cu``, field by field."""

    images: int
    height: int
    width: int
    channels: int
    out_height: int
    out_width: int
    outputs: int
    kh: int
    kw: int
    group_channels: int
    group_outputs: int
    stride_h: int
    stride_w: int
    top: int
    left: int
    dilation_h: int
    dilation_w: int
    spread_h: int
    spread_w: int
    weight_i: int
    weight_j: int
    weight_c: int
    weight_o: int
    weight_group: int
    pool_height: int
    pool_width: int

    @property
    def groups(self) -> int:
        """The number of groups."""
        return self.outputs // self.group_outputs

    @property
    def terms(self) -> int:
        """The number of products in one output."""
        return self.kh * self.kw * self.group_channels

    @property
    def is_thin(self) -> bool:
        """Whether the outputs of a group are too few to fill a tile."""
        return self.groups > 1 and self.group_outputs < 8 and self.terms < 2**16  # of a grid


class Convolution(CudaKernels):
    """``conv2d`` and its two gradients."""

    def conv2d(
        self, x: Array, weight: Array, bias: Array | None, window: Window, groups: int
    ) -> Array:
        """Cross-correlation; bias added in the same kernel, or in place after cuBLAS."""
        x, weight = self.contiguous(x), self.contiguous(weight)
        size = window.output_size(*x.shape[1:3])
        out = self.xp.empty((x.shape[0], *size, weight.shape[3]), x.dtype)
        if _is_product(window, weight.shape, groups) and out.size:
            matrix, rows = _rows(weight), _rows(out)
            for begin, columns in self._columns(x, window, size):
                self.xp.matmul(columns, matrix, out=rows[begin : begin + len(columns)])
            if bias is not None:
                self.add_bias(out, bias)
        else:
            geometry = _forward(x.shape, weight.shape, window, groups, size)
            self._correlate(x, weight, bias, geometry, out)
        return out

    def conv2d_relu_pool(
        self,
        x: Array,
        weight: Array,
        bias: Array | None,
        window: Window,
        pool: Window,
        keep: bool = True,
    ) -> tuple[Array, Array | None]:
        """One launch for few channels and windows of 2 x 2; nothing of full size is written."""
        if pool != _HALVING or _is_product(window, weight.shape, 1):
            return super().conv2d_relu_pool(x, weight, bias, window, pool, keep)
        x, weight = self.contiguous(x), self.contiguous(weight)
        size = window.output_size(*x.shape[1:3])
        pooled = pool.output_size(*size)
        out = self.xp.empty((x.shape[0], *pooled, weight.shape[3]), x.dtype)
        winner = self.xp.empty(out.shape, self.xp.int8)
        geometry = _forward(x.shape, weight.shape, window, 1, size, pooled)
        self._correlate(x, weight, bias, geometry, out, winner)
        return out, winner

    def conv2d_input_gradient(
        self, grad: Array, weight: Array, window: Window, groups: int, shape: Shape
    ) -> Array:
        """The correlation of the spread gradient with the kernel turned round."""
        grad, weight = self.contiguous(grad), self.contiguous(weight)
        x = self.xp.empty(shape, grad.dtype)
        if _is_product(window, weight.shape, groups) and grad.size:
            self._fold(grad, weight, window, x)
        else:
            geometry = _backward(grad.shape, weight.shape, window, groups, shape)
            self._correlate(grad, weight[-1, -1], None, geometry, x)
        return x

    def conv2d_weight_gradient(self, x: Array, grad: Array, window: Window, groups: int) -> Array:
        """Few results, each the sum over all pixels: in parts, added in a fixed order."""
        x, grad = self.contiguous(x), self.contiguous(grad)
        shape = (*window.kernel, x.shape[3] // groups, grad.shape[3])
        if not grad.size:
            return self.xp.zeros(shape, x.dtype)
        if _is_product(window, shape, groups):
            return self._product_gradient(x, grad, window).reshape(shape)
        g = _forward(x.shape, shape, window, groups, grad.shape[1:3])
        if g.is_thin:
            name, tiles = "weight_gradient_thin", (-(-g.outputs // 32), g.terms)
        else:
            across = -(-g.group_outputs // _TILE)
            name, tiles = "weight_gradient", (-(-g.terms // _TILE) * across, groups)
        pixels = grad.size // g.outputs
        parts = _BLOCKS_EACH * self.multiprocessors // (tiles[0] * tiles[1])
        each = -(-pixels // max(1, min(parts, pixels // _LEAST_PIXELS)))
        parts = -(-pixels // each)
        out = self.xp.empty(shape, x.dtype)
        partial = self.xp.empty((parts, *shape), accumulate(x))
        tickets = self.tickets(tiles[0] * tiles[1])
        launch = kernel("convolution", name, x.dtype.name)
        launch((parts, *tiles), (THREADS,), (x, grad, _packed(g), each, partial, tickets, out))
        return out

    # -- without columns ----------------------------------------------------------------------

    def _correlate(
        self,
        x: Array,
        weight: Array,
        bias: Array | None,
        g: Geometry,
        out: Array,
        winner: Array | None = None,
    ) -> None:
        """Fill ``out``, and ``winner`` where it is pooled."""
        bias = bias if bias is None else self.contiguous(bias)
        if not out.size:
            return
        shift = 0 if bias is None else bias
        if g.is_thin:
            launch = kernel("convolution", "correlate_thin", x.dtype.name)
            launch(blocks_for(out.size), (THREADS,), (x, weight, shift, _packed(g), out))
            return
        pool = 0 if winner is None else 1
        tile = next((tile for tile in (16, 32) if g.group_outputs <= tile), 64)
        rows = out.size // g.outputs * (4 if pool else 1)
        grid = (-(-rows // (THREADS // (tile // 4) * 4)), -(-g.group_outputs // tile), g.groups)
        launch = kernel("convolution", "correlate", x.dtype.name, TILE_O=tile, POOL=pool)
        launch(grid, (THREADS,), (x, weight, shift, _packed(g), out, winner if pool else 0))

    # -- with columns, some rows at a time ----------------------------------------------------

    def _columns(self, x: Array, window: Window, size: Pair) -> Iterator[tuple[int, Array]]:
        """(first row, columns (rows, kh * kw * C)) for all output pixels, a chunk at a time."""
        if _is_pointwise(window) and x.shape[1:3] == (size[0], size[1]):
            yield 0, _rows(x)
            return
        terms = window.kernel[0] * window.kernel[1] * x.shape[3]
        pixels = x.shape[0] * size[0] * size[1]
        each = min(pixels, max(1, _WORKSPACE // (terms * x.dtype.itemsize)))
        space = self.xp.empty((each, terms), x.dtype)
        g = _packed(_forward(x.shape, (*window.kernel, x.shape[3], 1), window, 1, size))
        launch = kernel("convolution", "im2col", x.dtype.name)
        for begin in range(0, pixels, each):
            columns = space[: pixels - begin]
            launch(blocks_for(columns.size), (THREADS,), (x, g, begin, len(columns), columns))
            yield begin, columns

    def _product_gradient(self, x: Array, grad: Array, window: Window) -> Array:
        """columns' @ grad, added up over the chunks."""
        rows, total = _rows(grad), None
        for begin, columns in self._columns(x, window, grad.shape[1:3]):
            product = self.xp.matmul(columns.T, rows[begin : begin + len(columns)])
            if total is None and len(columns) < len(rows):
                product = product.astype(accumulate(x), copy=False)
            total = product if total is None else self.xp.add(total, product, total)
        return total if total is None else total.astype(x.dtype, copy=False)

    def _fold(self, grad: Array, weight: Array, window: Window, x: Array) -> None:
        """x = col2im(grad @ weight'), some whole images at a time."""
        matrix = weight.reshape(-1, weight.shape[3]).T
        if _is_pointwise(window) and grad.shape[:3] == x.shape[:3]:
            self.xp.matmul(_rows(grad), matrix, out=_rows(x))
            return
        area = grad.shape[1] * grad.shape[2]
        each = max(1, _WORKSPACE // (area * matrix.shape[1] * x.dtype.itemsize))
        launch = kernel("convolution", "col2im", x.dtype.name)
        for begin in range(0, len(x), each):
            part = x[begin : begin + each]
            columns = self.xp.matmul(_rows(grad[begin : begin + each]), matrix)
            g = _packed(_forward(part.shape, weight.shape, window, 1, grad.shape[1:3]))
            launch(blocks_for(part.size), (THREADS,), (columns, g, part))


def _rows(array: Array) -> Array:
    return array.reshape(-1, array.shape[-1])


def _is_pointwise(window: Window) -> bool:
    """Whether the pixels themselves are the columns."""
    return window == Window((1, 1), dilation=window.dilation)


def _is_product(window: Window, weight: Shape, groups: int) -> bool:
    """Whether cuBLAS does it: there are no columns to write, or enough work for each of them."""
    kh, kw, channels, outputs = weight
    return groups == 1 and (_is_pointwise(window) or (outputs >= 128 and kh * kw * channels >= 512))


@lru_cache(maxsize=1024)
def _forward(
    x: Shape, weight: Shape, window: Window, groups: int, size: Pair, pooled: Pair = (0, 0)
) -> Geometry:
    """A convolution of images x that gives ``size`` pixels, from which ``pooled`` are left."""
    kh, kw, channels, outputs = weight
    return Geometry(
        images=x[0],
        height=x[1],
        width=x[2],
        channels=x[3],
        out_height=size[0],
        out_width=size[1],
        outputs=outputs,
        kh=kh,
        kw=kw,
        group_channels=channels,
        group_outputs=outputs // groups,
        stride_h=window.stride[0],
        stride_w=window.stride[1],
        top=window.padding[0][0],
        left=window.padding[1][0],
        dilation_h=window.dilation[0],
        dilation_w=window.dilation[1],
        spread_h=1,
        spread_w=1,
        weight_i=kw * channels * outputs,
        weight_j=channels * outputs,
        weight_c=outputs,
        weight_o=1,
        weight_group=outputs // groups,
        pool_height=pooled[0],
        pool_width=pooled[1],
    )


@lru_cache(maxsize=1024)
def _backward(grad: Shape, weight: Shape, window: Window, groups: int, x: Shape) -> Geometry:
    """The convolution of the spread gradient that gives the gradient of images x.

    With h = y * stride - top + i * dilation for output row y and tap i, row h of the image gathers
    the rows y for which h + top - i * dilation = y * stride: a kernel turned round, over a gradient
    with ``stride`` between its pixels. The weight is read backwards, from its last tap on.
    """
    (kh, kw), (dilation_h, dilation_w) = window.kernel, window.dilation
    forward = _forward(x, weight, window, groups, (grad[1], grad[2]))
    return forward._replace(
        height=grad[1],
        width=grad[2],
        channels=grad[3],
        out_height=x[1],
        out_width=x[2],
        outputs=x[3],
        group_channels=forward.group_outputs,
        group_outputs=forward.group_channels,
        stride_h=1,
        stride_w=1,
        top=(kh - 1) * dilation_h - forward.top,
        left=(kw - 1) * dilation_w - forward.left,
        spread_h=window.stride[0],
        spread_w=window.stride[1],
        weight_i=-forward.weight_i,
        weight_j=-forward.weight_j,
        weight_c=forward.weight_o,
        weight_o=forward.weight_c,
    )


@lru_cache(maxsize=1024)
def _packed(geometry: Geometry) -> Any:
    return struct(**geometry._asdict())
