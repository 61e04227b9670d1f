"""Convolution as matrix products of rows of pixels, where they lie.

With channels last, the kw pixels under one row of the kernel are a run of kw·C numbers, and the run
of every kw-th output column begins where the one before ended: side by side, they are the rows of a
matrix. So kw products, one for each residue of the column, multiply all pixels of a tile with one
row of the kernel; nobody copies the pixels under the kernel together (im2col). Each row of an image
has its zeros in front, which close the row before as well. The runs that go over into the next row
belong to columns that are computed and not used.

The products for the rows of the kernel are then added up. Or some rows of output are computed
together, with fewer products: m of them, from m + kh - 1 rows of the image, take m + kh - 1 instead
of m·kh (see ``winograd``, also for strides). The rows of the image are combined before, and those
of the output afterwards; both are small matrices times long rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided

from tinynn.backend.cpu.buffers import Writer, buffer, cached_views
from tinynn.backend.cpu.convolution.choice import row_products, rows_together
from tinynn.backend.cpu.convolution.winograd import Combinations, combinations
from tinynn.backend.cpu.tiles import Tile, cut_tiles, overlap
from tinynn.backend.reference import Array
from tinynn.backend.window import Pair, Window

# OpenBLAS multiplies matrices of up to so many multiply-adds without packing them first
_SMALL_PRODUCT = 10**6
_FEWEST_ROWS = 32  # of such a product
_ALIGNED = 16  # numbers: the combinations begin at cache lines, in float32
_FETCHED = 1 << 16  # bytes: less than that is soon there
_LOADS = 64  # places of tiles in an image whose views are kept
_CACHE_LINE = 64  # bytes that come into the cache at once


class Shape(NamedTuple):
    """A convolution, or a tile of one: all that decides where its numbers lie."""

    images: int
    rows: int  # of output
    width: int  # of output
    pixels: int  # from left to right of the images
    channels: int
    outputs: int
    window: Window
    group: int  # rows of output from one combination; 1: products are added up
    parts: int  # 2 puts even and odd output columns apart
    backward: bool
    dtype: np.dtype[Any]

    @property
    def products(self) -> int:
        """For each group of rows."""
        return row_products(self.window, self.group, self.group)

    @property
    def kernel(self) -> tuple[int, int, int]:
        """The shape of ``kernel_rows``."""
        return self.products, self.window.extent[1] * self.channels, self.outputs

    def tiles(self) -> Sequence[Tile]:
        """The tiles of a whole batch."""
        (kh, _), (sh, sw) = self.window.kernel, self.window.stride
        if self.group > 1:
            numbers = self.products * (sw * self.channels + self.outputs) // self.group
        else:
            numbers = sh * sw * self.channels + kh * self.outputs
        row_bytes = self.width * numbers * self.dtype.itemsize
        return cut_tiles(self.images, self.rows, row_bytes, max(self.parts, self.group))

    def fetch(self, x: Array, tile: Tile) -> None:
        """Have the rows of the images that the tile's windows see brought into the cache."""
        if x.nbytes <= _FETCHED:
            return
        stride, top = self.window.stride[0], self.window.padding[0][0]
        behind = (tile.rows.stop - 1) * stride - top + self.window.extent[0]
        fetch(x[tile.images, max(0, tile.rows.start * stride - top) : max(0, behind)])

    def at(self, tile: Tile) -> AddedRows | CombinedRows:
        """The work space of this thread for a tile."""
        images, rows = (part.stop - part.start for part in tile)
        whole = (images, rows) == (self.images, self.rows)
        shape = self if whole else self._replace(images=images, rows=rows)
        return (
            cached_views(shape, AddedRows) if self.group == 1 else cached_views(shape, CombinedRows)
        )


def shape_of(
    images: tuple[int, ...],
    dtype: np.dtype[Any],
    window: Window,
    size: Pair,
    outputs: int,
    parts: int = 1,
    backward: bool = False,
) -> Shape:
    """The convolution of ``images`` (N, H, W, C) to ``size`` pixels."""
    count, _, pixels, channels = images
    group = rows_together(window, size[0])
    return Shape(count, *size, pixels, channels, outputs, window, group, parts, backward, dtype)


def kernel_rows(weight: Array, shape: Shape) -> Array:
    """The weight as the matrices (products, kw·C, O) that ``Rows.multiply`` takes."""
    dilation = shape.window.dilation[1]
    if dilation > 1:  # zeros between its columns
        spread = np.zeros((len(weight), shape.window.extent[1], *weight.shape[2:]), weight.dtype)
        spread[:, ::dilation] = weight
        weight = spread
    rows = weight.reshape(len(weight), -1)
    if shape.group > 1:
        rows = _combinations(shape).of_kernel @ rows
    return np.ascontiguousarray(rows).reshape(shape.kernel)


def weight_of(kernel: Array, shape: Shape) -> Array:
    """The adjoint of ``kernel_rows``: a gradient (products, kw·C, O) as (kh, kw, C, O)."""
    (kh, _), window = shape.window.kernel, shape.window
    if shape.group > 1:
        kernel = _combinations(shape).of_kernel.T @ kernel.reshape(shape.products, -1)
    taps = kernel.reshape(kh, window.extent[1], shape.channels, shape.outputs)
    return np.ascontiguousarray(taps[:, :: window.dilation[1]])


class Rows:
    """What one thread needs for a tile; ``Shape.at`` gives it.

    Forward, ``load`` the images, ``multiply``, and ``write`` the output or take its ``planes``.
    Backward, ``load`` the images, and the gradient of the output by ``load_gradient`` or into the
    ``planes``; then take the products ``against`` it. All arrays are buffers of this thread, whose
    contents are gone with its next convolution.
    """

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        window, (_, stride) = shape.window, shape.window.stride
        self.pitch = _pitch(shape)
        self.lines = -(-shape.rows // shape.group)
        self.used = self.lines * shape.images * self.pitch  # pixels; some columns are for nothing
        self.lanes = -(-window.extent[1] // (stride * shape.parts)) * shape.parts
        run = window.extent[1] * shape.channels
        self.blocks, self.block = _in_blocks(-(-self.used // self.lanes), run * shape.outputs)
        self.total = self.lanes * self.blocks * self.block
        # numbers of one row of all images, and those that the last windows see behind the last row
        self.line = shape.images * self.pitch * stride * shape.channels
        self.spare = (self.total - self.used) * stride * shape.channels + run
        count = 1 if shape.backward and shape.group == 1 else shape.products
        parts, outputs = shape.parts, shape.outputs
        self.output = self._buffer("output", count, parts, self.total // parts, outputs)
        _, part, pixel, _ = self.output.strides
        self.stacked = self._stack(self.output, pixel, part, self.lanes // parts * pixel, outputs)
        self.seen: list[tuple[slice, Array]] = []

    def _take_planes(self, planes: Array) -> None:
        """(2, 2, pairs, lines, images, columns, O): even and odd rows, then even and odd columns.

        ``to_planes`` fills them with the output; ``from_planes`` takes them as its gradient.
        ``pooled`` is for what comes of four.
        """
        self.planes = planes
        self.pooled = self._buffer("pooled", *planes.shape[2:])

    def _buffer(self, name: str, *sizes: int) -> Array:
        return buffer(name, sizes, self.shape.dtype)

    def _windows(self, numbers: Array) -> Array:
        """The runs under the kernel in rows (products, numbers), as a stack."""
        step = self.shape.window.stride[1] * self.shape.channels * numbers.itemsize
        length = self.shape.window.extent[1] * self.shape.channels
        return self._stack(numbers, self.shape.parts * step, step, self.lanes * step, length)

    def _stack(self, numbers: Array, lane: int, part: int, row: int, length: int) -> Array:
        """A view (products, lanes / parts, parts, blocks, rows, length), from its strides."""
        parts = self.shape.parts
        sizes = (len(numbers), self.lanes // parts, parts, self.blocks, self.block, length)
        steps = (numbers.strides[0], lane, part, self.block * row, row, numbers.itemsize)
        return np.ndarray(sizes, numbers.dtype, numbers, 0, steps)

    def _by_line(self, numbers: Array) -> Array:
        """(..., parts, pixels / parts, O) as (..., parts, lines, images, columns, O)."""
        parts, columns = self.shape.parts, self.pitch // self.shape.parts
        numbers = numbers[..., : self.used // parts, :]
        return numbers.reshape(*numbers.shape[:-2], self.lines, self.shape.images, columns, -1)

    def multiply(self, kernel: Array) -> None:
        """The products with the ``kernel_rows`` of a weight."""
        kernel = kernel[:, None, None, None]
        for products, seen in self.seen:
            np.matmul(seen, kernel[products], out=self.stacked[products])

    def against(self) -> Array:
        """Σ seenᵀ @ gradient over the tile: that of the ``kernel_rows``."""
        self.output[:, :, self.used // self.shape.parts :] = 0
        found = [
            np.matmul(seen.swapaxes(-1, -2), self.stacked).sum(axis=(1, 2, 3))
            for _, seen in self.seen
        ]
        return np.concatenate(found) if len(found) > 1 else found[0]


class AddedRows(Rows):
    """A product for each row of the kernel; they are added up."""

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        kh, sh, dh = shape.window.kernel[0], shape.window.stride[0], shape.window.dilation[0]
        # the image's rows that are multiplied with the same row of the kernel lie side by side
        depth = self.lines + (kh - 1) * dh // sh
        size = sh * depth * self.line
        laid = self._buffer("laid", size + self.spare)
        self.behind = laid[size:]
        self.laid = laid[:size].reshape(sh, depth, shape.images, -1, shape.channels)
        self.writer = Writer("laid")
        if shape.parts == 2:
            lines = self._by_line(self.output[0])
            halves = lines.reshape(2, self.lines // 2, 2, 1, *lines.shape[2:])
            self._take_planes(halves.transpose(2, 0, 3, 1, 4, 5, 6))
        starts = [(row % sh * depth + row // sh) * self.line for row in range(0, kh * dh, dh)]
        self.seen = [
            (slice(i, i + 1), self._windows(laid[None, start:])) for i, start in enumerate(starts)
        ]

    def load(self, x: Array, tile: Tile) -> None:
        """Lay down the rows of the images under the tile."""
        are_clear = self.writer.begin()  # the columns beside the image, from the last tile
        (top, _), (left, _) = self.shape.window.padding
        stride = self.shape.window.stride[0]
        columns, source = overlap(-left, self.laid.shape[3], x.shape[2])
        images = x[tile.images, :, source]
        for phase, rows in enumerate(self.laid):
            first = tile.rows.start * stride - top + phase
            lines, source = overlap(first, len(rows), x.shape[1], stride)
            rows[: lines.start] = 0
            rows[lines.stop :] = 0
            np.copyto(rows[lines, :, columns], images[:, source].transpose(1, 0, 2, 3))
        if not are_clear:
            self.laid[:, :, :, : columns.start] = 0
            self.laid[:, :, :, columns.stop :] = 0
            self.behind[...] = 0
        self.writer.finish()

    def multiply(self, kernel: Array) -> None:
        super().multiply(kernel)
        for term in self.output[1:]:
            np.add(self.output[0], term, out=self.output[0])

    def write(self, out: Array) -> None:
        """The output as (N, rows, width, O)."""
        lines = self._by_line(self.output[0])[0]
        np.copyto(out.transpose(1, 0, 2, 3), lines[:, :, : self.shape.width])

    def to_planes(self) -> None:
        """Nothing is left to be done: the planes are the output."""

    from_planes = to_planes

    def load_gradient(self, grad: Array) -> None:
        """Lay down the gradient (N, rows, width, O) of the output."""
        lines = self._by_line(self.output[0])[0]
        np.copyto(lines[:, :, : self.shape.width], grad.transpose(1, 0, 2, 3))
        lines[:, :, self.shape.width :] = 0


class CombinedRows(Rows):
    """Products of combined rows; their combinations are a group of rows of the output."""

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        self.matrices = _combinations(shape)
        size = self.lines * self.line
        width = -(-(size + self.spare) // _ALIGNED) * _ALIGNED
        combined = self._buffer("combined", shape.products, width)
        self.seen = [(slice(0, shape.products), self._windows(combined))]
        numbers = combined[:, :size].reshape(
            shape.products, self.lines, shape.images, -1, shape.channels
        )
        left = shape.window.padding[1][0]
        columns, self.columns = overlap(-left, numbers.shape[3], shape.pixels)
        self.combined = _rows(numbers[:, :, :, columns])
        self.loads: dict[tuple[int, int], list[tuple[Array | None, Array, int]]] = {}
        beside = numbers[:, :, :, : columns.start], numbers[:, :, :, columns.stop :]
        self.zeros = [part for part in (*beside, combined[:, size:]) if part.size]
        self.writer = Writer("combined")
        if shape.parts == 2:
            lines = self._by_line(self.output)
            planes = self._buffer("planes", shape.group // 2, 2, *lines.shape[1:])
            self._take_planes(planes.transpose(1, 2, 0, 3, 4, 5, 6))
            # as matrices (parts, lines, rows, numbers)
            self._numbers, self._rows = (
                array.reshape(-1, shape.parts, self.lines, lines[0, 0, 0].size).transpose(
                    1, 2, 0, 3
                )
                for array in (lines, planes)
            )

    def load(self, x: Array, tile: Tile) -> None:
        """Lay down the rows of the images under the tile."""
        if not self.writer.begin():  # else the zeros of the last tile are still there
            for part in self.zeros:
                part[...] = 0
        self.writer.finish()
        images = packed(x[tile.images, :, self.columns])
        if not images.size:  # the windows see nothing but zeros
            return
        stride = self.shape.window.stride[0]
        first = tile.rows.start * stride - self.shape.window.padding[0][0]
        step = self.shape.group * stride
        for matrix, target, start in self._loads(first, step, images.shape[1]):
            if matrix is None:
                target[...] = 0
            else:
                rows = _groups(images, start, target.shape[1], step, matrix.shape[1])
                np.matmul(matrix, rows, out=target)

    def _loads(self, first: int, step: int, height: int) -> list[tuple[Array | None, Array, int]]:
        """Which lines come from which rows: matrix (or None, for zeros), lines and first row."""
        found = self.loads.get((first, height))
        if found is None:
            if len(self.loads) >= _LOADS:  # a large image has many tiles
                self.loads.clear()
            of_rows = self.matrices.of_rows
            found = self.loads[first, height] = [
                (
                    of_rows[:, known] if known.start < known.stop else None,
                    self.combined[:, lines],
                    first + lines.start * step + known.start,
                )
                for lines, known in _runs_of_lines(
                    first, step, of_rows.shape[1], self.lines, height
                )
            ]
        return found

    def write(self, out: Array) -> None:
        """The output as (N, rows, width, O)."""
        if not _has_whole_rows(out):
            whole = self._buffer("packed", *out.shape)
            self.write(whole)
            np.copyto(out, whole)
            return
        numbers = _rows(self._by_line(self.output)[:, 0, :, :, : self.shape.width])
        for lines, rows, taken in self._whole_and_rest(out):
            np.matmul(self.matrices.of_output[:taken], numbers[:, lines], out=rows)

    def _whole_and_rest(self, array: Array) -> list[tuple[slice, Array, int]]:
        """The rows of (N, rows, width, O) in groups, and then those that fill none."""
        group = self.shape.group
        whole, rest = divmod(array.shape[1], group)
        found = []
        if whole:
            found.append((slice(0, whole), _groups(array, 0, whole, group, group), group))
        if rest:
            rows = _groups(array, whole * group, 1, group, rest)
            found.append((slice(whole, whole + 1), rows, rest))
        return found

    def load_gradient(self, grad: Array) -> None:
        """Lay down the gradient (N, rows, width, O) of the output."""
        grad = packed(grad)
        lines = self._by_line(self.output)[:, 0]
        lines[:, :, :, self.shape.width :] = 0
        numbers = _rows(lines[:, :, :, : self.shape.width])
        for lines, rows, taken in self._whole_and_rest(grad):
            np.matmul(self.matrices.of_output.T[:, :taken], rows, out=numbers[:, lines])

    def to_planes(self) -> None:
        """The output, from the products."""
        np.matmul(self.matrices.of_output, self._numbers, out=self._rows)

    def from_planes(self) -> None:
        """The gradient of the products, from that of the output."""
        np.matmul(self.matrices.of_output.T, self._rows, out=self._numbers)


def _runs_of_lines(
    first: int, step: int, count: int, lines: int, height: int
) -> list[tuple[slice, slice]]:
    """Runs of lines, each with which of its ``count`` rows are inside an image of that height.

    The first line begins at row ``first`` of the image, every other ``step`` rows below.
    """
    found: list[tuple[slice, slice]] = []
    for line in range(lines):
        begin = first + line * step
        start = min(count, max(0, -begin))
        known = slice(start, max(start, min(count, height - begin)))
        if found and found[-1][1] == known == slice(0, count):
            found[-1] = (slice(found[-1][0].start, line + 1), known)
        else:
            found.append((slice(line, line + 1), known))
    return found


def multiply_rows(a: Array, b: Array, out: Array) -> None:
    """out = a @ b for a long matrix a, in small products where that can be."""
    most = _SMALL_PRODUCT // b.size
    whole = len(a) // most * most if most >= _FEWEST_ROWS else 0
    if whole:
        blocks, results = a[:whole].reshape(-1, most, len(b)), out[:whole]
        np.matmul(blocks, b, out=results.reshape(-1, most, b.shape[1]))
    if whole < len(a):
        np.matmul(a[whole:], b, out=out[whole:])


def _has_whole_rows(array: Array) -> bool:
    """Whether the numbers of a row lie side by side."""
    steps: tuple[int, int] = array.strides[2:]
    return steps == (array.shape[3] * array.itemsize, array.itemsize)


def packed(array: Array) -> Array:
    """The array, or a copy in a buffer of this thread where it has no whole rows."""
    if _has_whole_rows(array):
        return array
    copy = buffer("packed", array.shape, array.dtype)
    np.copyto(copy, array)
    return copy


def fetch(array: Array) -> None:
    """Look at each cache line in the order of memory, which the processor foresees.

    Rows of several images by turns it does not foresee, and waits for each of them.
    """
    if array.flags.c_contiguous and array.nbytes > _FETCHED:
        lines = array.reshape(-1)[:: _CACHE_LINE // array.itemsize]
        np.copyto(buffer("fetched", lines.shape, array.dtype), lines)


def _groups(images: Array, first: int, groups: int, step: int, count: int) -> Array:
    """``count`` rows of (N, H, W, C) from each ``step``: a view (N, groups, count, W·C)."""
    image, row, _, item = images.strides
    sizes = (len(images), groups, count, images.shape[2] * images.shape[3])
    steps = (image, step * row, row, item)
    if images.flags.c_contiguous:  # as_strided takes longer
        return np.ndarray(sizes, images.dtype, images, first * row, steps)
    return as_strided(images[:, first:], sizes, steps)


def _rows(lines: Array) -> Array:
    """(products, lines, images, columns, C) as matrices (images, lines, products, columns · C)."""
    return lines.reshape(*lines.shape[:3], -1).transpose(2, 1, 0, 3)


def _combinations(shape: Shape) -> Combinations:
    return combinations(shape.group, shape.window.kernel[0], shape.window.stride[0], shape.dtype)


def _pitch(shape: Shape) -> int:
    """Output pixels from one row to the next: a row's first zeros end the row before, too."""
    (left, _), stride = shape.window.padding[1], shape.window.stride[1]
    across = (shape.width - 1) * stride + shape.window.extent[1]
    shared = max(0, min(left, across - left - shape.pixels))
    pitch = max(shape.width, -(-(across - shared) // stride))
    return -(-pitch // shape.parts) * shape.parts


def _in_blocks(rows: int, numbers: int) -> tuple[int, int]:
    """Blocks of so many rows whose products with so many numbers are small, if that can be."""
    most = _SMALL_PRODUCT // numbers
    blocks = max(1, -(-rows // most)) if most >= _FEWEST_ROWS else 1
    return blocks, -(-rows // blocks)
