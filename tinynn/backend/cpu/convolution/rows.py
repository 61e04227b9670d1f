"""Convolution as matrix products of image rows, without im2col.

**Row products.** Images are (N, H, W, C). The kw pixels under one row of the kernel are kw·C
contiguous elements, and the patch kw columns further begins where this one ends. So the patches at
columns j, j + kw, j + 2·kw, ... are the rows of a matrix that is a plain view of the image:

    pixels of a row:  | 0 | 1 | 2 | 3 | 4 | 5 | 6 | ...
    residue j = 0:    [ 0   1   2 ][ 3   4   5 ]           a matrix with rows of kw·C elements
    residue j = 1:        [ 1   2   3 ][ 4   5   6 ]       the same memory, one pixel further

kw products, one for each residue, multiply all patches of a tile with one row of the kernel:
(pixels / kw, kw·C) @ (kw·C, O). im2col would first copy each pixel kh·kw times. A stride only
changes where patches begin; dilated columns are a kernel with zeros in between.

**Memory layout.** The input rows of a tile are packed as (row, image, column, channel), so that the
patches for the next row of the kernel begin a fixed offset further, and one product spans all rows
and images of the tile. A row has its left padding in front, which is also the right padding of the
previous row. ``pitch`` is the distance between two rows, in output pixels. Patches that straddle
two rows yield columns that are computed and dropped.

**Direct or Winograd.** ``DirectRows`` takes one product for each row of the kernel and adds them
up: m·kh products for m output rows. ``WinogradRows`` transforms m + kh - 1 input rows first and
takes as many products, then transforms those into m output rows (F(m, kh), see ``winograd.py``).
Both transforms are small matrices times long rows: one BLAS call for a whole tile, which reads the
image and writes the result directly. F(m×m, r×r) in two dimensions would save more products, but
its tiny matrices and strided tiles would cost more in NumPy than that.

**What stays in the cache.** A tile has ``tuning.TILE_BYTES`` of input, products and output. The
products are cut into pieces of ``tuning.SMALL_GEMM`` multiply-adds, which OpenBLAS multiplies
without packing; the matrices of the kernel then stay in the L2 cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided

from tinynn.backend.cpu import tuning
from tinynn.backend.cpu.buffers import Writer, buffer, cached_views
from tinynn.backend.cpu.convolution.winograd import Transforms, transforms
from tinynn.backend.cpu.tiles import Tile, cut_tiles, overlap
from tinynn.backend.reference import Array
from tinynn.backend.window import Window


class Layout(NamedTuple):
    """A convolution, or one tile of it: everything that determines its memory layout."""

    images: int
    rows: int  # of the output
    width: int  # columns of the output
    input_width: int
    channels: int
    outputs: int
    window: Window
    m: int  # output rows of one Winograd block F(m, kh); 1: direct
    products: int  # row products of one block
    phases: int  # 2: even and odd output columns in separate planes, for 2×2 pooling
    backward: bool  # whether the workspace is for the gradient of the weight
    dtype: np.dtype[Any]

    @property
    @lru_cache(maxsize=1024)  # noqa: B019, a layout is a value
    def transforms(self) -> Transforms:
        """The matrices of F(m, kh)."""
        return transforms(self.m, self.window.kernel[0], self.window.stride[0], self.dtype)

    @property
    @lru_cache(maxsize=1024)  # noqa: B019
    def kernel_shape(self) -> tuple[int, int, int]:
        """The shape of ``kernel_rows``: (products, kw·C, O)."""
        return self.products, self.window.extent[1] * self.channels, self.outputs

    @property
    @lru_cache(maxsize=1024)  # noqa: B019
    def tiles(self) -> Sequence[Tile]:
        """The tiles of the batch."""
        (kh, _), (sh, sw) = self.window.kernel, self.window.stride
        if self.m > 1:
            elements = self.products * (sw * self.channels + self.outputs) // self.m
        else:
            elements = sh * sw * self.channels + kh * self.outputs
        row_bytes = self.width * elements * self.dtype.itemsize
        return cut_tiles(self.images, self.rows, row_bytes, max(self.phases, self.m))

    @lru_cache(maxsize=1024)  # noqa: B019
    def part(self, images: int, rows: int) -> Layout:
        """The layout of a tile with fewer images or rows."""
        return self._replace(images=images, rows=rows)

    def kernel_rows(self, weight: Array) -> Array:
        """The weight as the matrices (products, kw·C, O) of ``Rows.multiply``: G @ weight."""
        dilation = self.window.dilation[1]
        if dilation > 1:  # zeros between its columns
            shape = (len(weight), self.window.extent[1], *weight.shape[2:])
            dense, weight = weight, np.zeros(shape, weight.dtype)
            weight[:, ::dilation] = dense
        rows = weight.reshape(len(weight), -1)
        if self.m > 1:
            rows = self.transforms.kernel @ rows
        return np.ascontiguousarray(rows).reshape(self.kernel_shape)

    def kernel_rows_adjoint(self, kernel: Array) -> Array:
        """The gradient of the weight (kh, kw, C, O), given the gradient of ``kernel_rows``."""
        if self.m > 1:
            kernel = self.transforms.kernel.T @ kernel.reshape(self.products, -1)
        shape = (self.window.kernel[0], self.window.extent[1], self.channels, self.outputs)
        return np.ascontiguousarray(kernel.reshape(shape)[:, :: self.window.dilation[1]])

    def prefetch(self, x: Array, tile: Tile) -> None:
        """Prefetch the rows of x that the tile reads."""
        if x.nbytes > tuning.PREFETCH_FROM:
            stride, top = self.window.stride[0], self.window.padding[0][0]
            stop = (tile.rows.stop - 1) * stride - top + self.window.extent[0]
            prefetch(x[tile.images, max(0, tile.rows.start * stride - top) : max(0, stop)])

    def at(self, tile: Tile) -> Rows:
        """This thread's workspace for a tile."""
        images, rows = tile
        part = self.part(images.stop - images.start, rows.stop - rows.start)
        return cached_views(part, DirectRows) if self.m == 1 else cached_views(part, WinogradRows)


class _Rows:
    """The workspace of one thread for a tile; get it from ``Layout.at``.

    Forward: ``load`` the images, ``multiply``, then ``write`` the output or take the ``planes``.
    Backward: ``load`` the images, and the upstream gradient by ``load_gradient`` or by way of the
    ``planes``; then ``weight_gradient``.

    All arrays are scratch buffers, overwritten by the next convolution of the thread. Everything
    that depends on the layout alone, especially the strided views, is created once.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        window, (_, stride) = layout.window, layout.window.stride
        phases, outputs = layout.phases, layout.outputs
        pitch = _pitch(layout)
        self.blocks = -(-layout.rows // layout.m)
        pixels = self.blocks * layout.images * pitch  # including the dropped ones
        # A residue's patches, residues · stride pixels apart, must not overlap: BLAS wants a
        # leading dimension of at least kw·C. Each phase has residues of its own.
        self.residues = -(-window.extent[1] // (stride * phases)) * phases
        patch = window.extent[1] * layout.channels
        # each residue's matrix of pixels / residues patches, cut into products without packing
        self.batch, self.batch_rows = _small_products(-(-pixels // self.residues), patch * outputs)
        total = self.residues * self.batch * self.batch_rows
        # elements of one row of all images, and how many the last patches read past the end
        self.row_size = layout.images * pitch * stride * layout.channels
        self.overhang = (total - pixels) * stride * layout.channels + patch

        # In the backward pass of DirectRows, all kernel rows share the gradient of the output.
        # Residue j computes every residues-th pixel: BLAS writes its result with a stride (ldc).
        count = 1 if layout.backward and layout.m == 1 else layout.products
        self.output = self._buffer("output", count, phases, total // phases, outputs)
        _, phase, pixel, _ = self.output.strides
        self.results = self._stack(
            self.output, pixel, phase, self.residues // phases * pixel, outputs
        )
        # Views of the output: the pixels past the last row, all others by row, and of these the
        # columns whose patches straddle two rows.
        self.unused = self.output[:, :, pixels // phases :]
        self.by_block = self.output[:, :, : pixels // phases].reshape(
            count, phases, self.blocks, layout.images, pitch // phases, outputs
        )
        self.dropped = self.by_block[:, 0, :, :, layout.width :]
        self.patches: list[tuple[slice, Array]] = []  # for each range of products

    def _set_planes(self, planes: Array) -> None:
        """Set ``planes`` (2, 2, pairs, blocks, images, columns, O): even and odd rows, columns.

        ``to_planes`` fills them with the output, ``from_planes`` reads its gradient from them.
        ``pooled`` is a buffer for the result of 2×2 pooling.
        """
        self.planes = planes
        self.pooled = self._buffer("pooled", *planes.shape[2:])

    def _buffer(self, name: str, *sizes: int) -> Array:
        return buffer(name, sizes, self.layout.dtype)

    def _patches(self, rows: Array) -> Array:
        """The patches of a kernel row in packed rows (products, elements), as a stack."""
        step = self.layout.window.stride[1] * self.layout.channels * rows.itemsize
        patch = self.layout.window.extent[1] * self.layout.channels
        return self._stack(rows, self.layout.phases * step, step, self.residues * step, patch)

    def _stack(self, array: Array, residue: int, phase: int, row: int, length: int) -> Array:
        """A view (products, residues, phases, batch, rows, length) with these strides in bytes."""
        phases = self.layout.phases
        columns = (self.residues // phases, phases)
        sizes = (len(array), *columns, self.batch, self.batch_rows, length)
        strides = (array.strides[0], residue, phase, self.batch_rows * row, row, array.itemsize)
        return np.ndarray(sizes, array.dtype, array, 0, strides)

    def multiply(self, kernel: Array) -> None:
        """output = patches @ kernel, for the ``kernel_rows`` of a weight."""
        kernel = kernel[:, None, None, None]  # the same for all residues, phases and batches
        for products, patches in self.patches:
            np.matmul(patches, kernel[products], out=self.results[products])

    def weight_gradient(self) -> Array:
        """Σ patchesᵀ @ gradient over the tile: the gradient of ``kernel_rows``."""
        self.unused[...] = 0  # their patches are read as well
        found = [
            np.add.reduce(np.matmul(patches.swapaxes(-1, -2), self.results), axis=(1, 2, 3))
            for _, patches in self.patches
        ]
        return np.concatenate(found) if len(found) > 1 else found[0]


class DirectRows(_Rows):
    """One product for each row of the kernel; they are added up."""

    def __init__(self, layout: Layout) -> None:
        super().__init__(layout)
        kh, sh, dh = layout.window.kernel[0], layout.window.stride[0], layout.window.dilation[0]
        # (residue, row, image, column, channel): input rows are packed by their residue modulo the
        # stride, so that the rows which one row of the kernel is multiplied with are neighbors.
        depth = self.blocks + (kh - 1) * dh // sh
        size = sh * depth * self.row_size
        rows = self._buffer("packed rows", size + self.overhang)
        self.behind = rows[size:]
        self.packed = rows[:size].reshape(sh, depth, layout.images, -1, layout.channels)
        self.writer = Writer("packed rows")
        starts = [(row % sh * depth + row // sh) * self.row_size for row in range(0, kh * dh, dh)]
        self.patches = [
            (slice(i, i + 1), self._patches(rows[None, start:])) for i, start in enumerate(starts)
        ]
        output = self.by_block[0]
        self.result = output[0, :, :, : layout.width].transpose(1, 0, 2, 3)  # (N, rows, width, O)
        if layout.phases == 2:
            pairs = output.reshape(2, layout.rows // 2, 2, 1, *output.shape[2:])
            self._set_planes(pairs.transpose(2, 0, 3, 1, 4, 5, 6))

    def load(self, x: Array, tile: Tile) -> None:
        """Pack the input rows of the tile."""
        # Rows above and below the image differ from tile to tile. The padding left and right of it
        # does not: it is still zero if no other convolution has used the buffer since.
        is_clear = self.writer.begin()
        (top, _), (left, _) = self.layout.window.padding
        stride = self.layout.window.stride[0]
        columns, source = overlap(-left, self.packed.shape[3], x.shape[2])
        images = x[tile.images, :, source]
        for residue, rows in enumerate(self.packed):
            first = tile.rows.start * stride - top + residue
            inside, source = overlap(first, len(rows), x.shape[1], stride)
            rows[: inside.start] = 0
            rows[inside.stop :] = 0
            np.copyto(rows[inside, :, columns], images[:, source].transpose(1, 0, 2, 3))
        if not is_clear:
            self.packed[:, :, :, : columns.start] = 0
            self.packed[:, :, :, columns.stop :] = 0
            self.behind[...] = 0
        self.writer.finish()

    def multiply(self, kernel: Array) -> None:
        super().multiply(kernel)
        for term in self.output[1:]:
            np.add(self.output[0], term, out=self.output[0])

    def write(self, out: Array) -> None:
        """Copy the output to (N, rows, width, O)."""
        np.copyto(out, self.result)

    def load_gradient(self, grad: Array) -> None:
        """Copy the upstream gradient (N, rows, width, O) into the output buffer."""
        np.copyto(self.result, grad)
        self.dropped[...] = 0

    def to_planes(self) -> None:
        """Nothing to do: the planes are views of the output."""

    from_planes = to_planes


class WinogradRows(_Rows):
    """The products of F(m, kh): input rows are transformed before, output rows after."""

    def __init__(self, layout: Layout) -> None:
        super().__init__(layout)
        self.matrices, m = layout.transforms, layout.m
        size = self.blocks * self.row_size
        unit = tuning.ALIGNED_ELEMENTS
        self.transformed = self._buffer(
            "transformed", layout.products, -(-(size + self.overhang) // unit) * unit
        )
        self.patches = [(slice(0, layout.products), self._patches(self.transformed))]
        rows = self.transformed[:, :size].reshape(
            layout.products, self.blocks, layout.images, -1, layout.channels
        )
        columns, self.columns = overlap(
            -layout.window.padding[1][0], rows.shape[3], layout.input_width
        )
        self.target = _as_matrices(rows[:, :, :, columns])
        beside = rows[:, :, :, : columns.start], rows[:, :, :, columns.stop :]
        self.padding = [part for part in (*beside, self.transformed[:, size:]) if part.size]
        self.writer = Writer("transformed")
        self.positions: dict[tuple[int, int], list[tuple[Array | None, Array, int]]] = {}

        # The products of whole blocks, then of a last block with fewer rows: with the rows of Aᵀ
        # that apply to them, and their first row in the output.
        products = _as_matrices(self.by_block[:, 0, :, :, : layout.width])
        whole, rest = divmod(layout.rows, m)
        self.parts = [
            (self.matrices.output[:taken], products[:, start:stop], start * m)
            for start, stop, taken in ((0, whole, m), (whole, self.blocks, rest))
            if start < stop
        ]
        if layout.phases == 2:
            planes = self._buffer("planes", m // 2, 2, *self.by_block.shape[1:])
            self._set_planes(planes.transpose(1, 2, 0, 3, 4, 5, 6))
            # The output transform of both phases at once, over all elements of a block's row of
            # images, as matrices (phases, blocks, products or rows, elements).
            self._plane_products, self._plane_rows = (
                array.reshape(-1, 2, self.blocks, self.by_block[0, 0, 0].size).transpose(1, 2, 0, 3)
                for array in (self.by_block, planes)
            )

    def load(self, x: Array, tile: Tile) -> None:
        """Transform the input rows of the tile: Bᵀ @ rows."""
        if not self.writer.begin():  # otherwise the padding is still zero
            for part in self.padding:
                part[...] = 0
        self.writer.finish()
        images = contiguous_rows(x[tile.images, :, self.columns])
        if not images.size:  # the windows see padding only
            return
        stride = self.layout.window.stride[0]
        first = tile.rows.start * stride - self.layout.window.padding[0][0]
        position = (first, images.shape[1])
        if position not in self.positions:
            if len(self.positions) >= tuning.CACHED_POSITIONS:  # a large image has many tiles
                self.positions.clear()
            self.positions[position] = self._inside(*position)
        step = self.layout.m * stride
        for matrix, target, start in self.positions[position]:
            if matrix is None:
                target[...] = 0
            else:
                # (products, rows) @ (N, blocks, rows, W·C), where the rows of neighboring blocks
                # overlap in memory: a view of the image, not a copy
                rows = _row_blocks(images, start, target.shape[1], step, matrix.shape[1])
                np.matmul(matrix, rows, out=target)

    def _inside(self, first: int, height: int) -> list[tuple[Array | None, Array, int]]:
        """The input of each run of blocks in an image, when the first begins at row ``first``.

        Returns:
            The columns of Bᵀ for the rows inside the image (None: there are none), the blocks, and
            the first row. Blocks entirely inside are one run.
        """
        matrix, step = self.matrices.input, self.layout.m * self.layout.window.stride[0]
        count = matrix.shape[1]
        start = min(self.blocks, max(0, -(first // step)))  # of the blocks entirely inside
        stop = max(start, min(self.blocks, (height - count - first) // step + 1))
        edges = sorted({*range(start + 1), *range(stop, self.blocks + 1)})
        found: list[tuple[Array | None, Array, int]] = []
        for start, stop in pairwise(edges):
            begin = first + start * step
            low = min(count, max(0, -begin))
            high = max(low, min(count, height - begin))
            inside = matrix[:, low:high] if low < high else None
            found.append((inside, self.target[:, start:stop], begin + low))
        return found

    def write(self, out: Array) -> None:
        """Transform the products into the output (N, rows, width, O): Aᵀ @ products."""
        target = contiguous_rows(out, copy=False)
        for matrix, products, first in self.parts:
            rows = _row_blocks(target, first, products.shape[1], self.layout.m, len(matrix))
            np.matmul(matrix, products, out=rows)
        if target is not out:
            np.copyto(out, target)

    def load_gradient(self, grad: Array) -> None:
        """The gradient of the products, given the gradient of the output (N, rows, width, O)."""
        grad = contiguous_rows(grad)
        self.dropped[...] = 0
        for matrix, products, first in self.parts:
            rows = _row_blocks(grad, first, products.shape[1], self.layout.m, len(matrix))
            np.matmul(matrix.T, rows, out=products)

    def to_planes(self) -> None:
        """Transform the products into the planes of the output."""
        np.matmul(self.matrices.output, self._plane_products, out=self._plane_rows)

    def from_planes(self) -> None:
        """The gradient of the products, given the gradient of the output's planes."""
        np.matmul(self.matrices.output.T, self._plane_rows, out=self._plane_products)


Rows = DirectRows | WinogradRows


def matmul_small(a: Array, b: Array, out: Array) -> None:
    """out = a @ b for a matrix a of many rows, in products small enough to need no packing."""
    most = tuning.SMALL_GEMM // b.size
    whole = len(a) // most * most if most >= tuning.SMALL_GEMM_MIN_ROWS else 0
    if whole:
        parts, results = a[:whole].reshape(-1, most, len(b)), out[:whole]
        np.matmul(parts, b, out=results.reshape(-1, most, b.shape[1]))
    if whole < len(a):
        np.matmul(a[whole:], b, out=out[whole:])


def _small_products(rows: int, kernel_size: int) -> tuple[int, int]:
    """The number of small products for ``rows`` rows, and the rows of each."""
    most = min(tuning.SMALL_GEMM // kernel_size, 2 * tuning.MATMUL_TERMS)
    batch = max(1, -(-rows // most)) if most >= tuning.SMALL_GEMM_MIN_ROWS else 1
    return batch, -(-rows // batch)


def contiguous_rows(array: Array, copy: bool = True) -> Array:
    """The array if the pixels of a row are contiguous, else a scratch buffer with a copy."""
    if array.strides[2:] == (array.shape[3] * array.itemsize, array.itemsize):
        return array
    scratch = buffer("contiguous", array.shape, array.dtype)
    if copy:
        np.copyto(scratch, array)
    return scratch


def prefetch(array: Array) -> None:
    """Read one element of each cache line, in memory order.

    The hardware prefetcher recognizes that order. It does not recognize the order in which a tile
    is packed (one row of each image in turn), where each access would wait for its line.
    """
    if array.flags.c_contiguous and array.nbytes > tuning.PREFETCH_FROM:
        lines = array.reshape(-1)[:: tuning.CACHE_LINE // array.itemsize]
        np.copyto(buffer("prefetched", lines.shape, array.dtype), lines)


def _row_blocks(images: Array, first: int, blocks: int, step: int, count: int) -> Array:
    """``count`` rows of (N, H, W, C) from every ``step``-th: a view (N, blocks, count, W·C)."""
    image, row, _, item = images.strides
    sizes = (len(images), blocks, count, images.shape[2] * images.shape[3])
    strides = (image, step * row, row, item)
    if images.flags.c_contiguous:  # as_strided takes four times longer
        return np.ndarray(sizes, images.dtype, images, first * row, strides)
    return as_strided(images[:, first:], sizes, strides)


def _as_matrices(rows: Array) -> Array:
    """(products, blocks, images, columns, C) as matrices (images, blocks, products, columns·C)."""
    return rows.reshape(*rows.shape[:3], -1).transpose(2, 1, 0, 3)


def _pitch(layout: Layout) -> int:
    """Output pixels from one packed row to the next; the padding between two rows is shared."""
    (left, _), stride = layout.window.padding[1], layout.window.stride[1]
    # pixels that the windows of a row read, of which the next row's left padding can be the last
    across = (layout.width - 1) * stride + layout.window.extent[1]
    shared = max(0, min(left, across - left - layout.input_width))
    pitch = max(layout.width, -(-(across - shared) // stride))
    return -(-pitch // layout.phases) * layout.phases
