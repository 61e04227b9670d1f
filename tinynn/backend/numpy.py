"""The CPU: the reference kernels of ``Backend``, where tiles and threads make them faster.

Convolutions gather the pixels under the kernel into columns (im2col) a tile at a time, so that the
columns of a tile stay in the cache until the matrix product has read them, and tiles run on several
threads. The gradient of the input is the same routine with the kernel turned round: a gather, too.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided

from tinynn.backend.base import Array, Backend
from tinynn.backend.threads import parallel, single_threaded_blas
from tinynn.backend.windows import Pair, Window

# Columns of one tile. Smaller ones fit a second-level cache, but threads then wait for each other's
# hold on the interpreter more than the cache saves; see benchmarks/vs_pytorch.py.
_TILE_BYTES = 1 << 21
_LANES = 8  # partial sums of a weight gradient: fixed, so that no result depends on the threads
_MATMUL_PARTS = 4  # row blocks of a large matrix product: fixed, for the same reason
_CHUNK = 1 << 18  # elements; below it, handing work to a thread costs more than it saves


class NumpyBackend(Backend):
    """Kernels on the CPU."""

    xp = np
    array_type = np.ndarray
    device = "cpu"

    def __init__(self) -> None:
        _keep_freed_memory()

    def to_host(self, array: Array) -> np.ndarray:
        return np.asarray(array)

    def scatter_add(self, shape: tuple[int, ...], index: Any, values: Array) -> Array:
        if _repeats(index):
            return super().scatter_add(shape, index, values)
        out = np.zeros(shape, dtype=values.dtype)
        out[index] = values
        return out

    def random_bits(self, seed: int, position: int, count: int) -> Array:
        # numpy.random.Philox steps its counter before it makes a block
        generator = np.random.Philox(
            key=seed & ((1 << 64) - 1), counter=(position - 1) % (1 << 256)
        )
        words = -(-count // 2)
        raw: Array = generator.random_raw(words)
        return raw.view(np.uint32)[:count]

    # -- elementwise ------------------------------------------------------------------------

    def relu(self, x: Array) -> Array:
        return _in_chunks(lambda x, out: np.maximum(x, 0, out=out), x)

    def relu_gradient(self, grad: Array, out: Array) -> Array:
        return _in_chunks(lambda g, y, out: np.multiply(g, y > 0, out=out), grad, out)

    # -- matrix products --------------------------------------------------------------------

    def matmul(self, a: Array, b: Array) -> Array:
        rows = a.shape[-2] if a.ndim == b.ndim == 2 else 0
        parts = min(_MATMUL_PARTS, rows // 16)
        if parts < 2 or a.size * b.shape[1] < _CHUNK * 16:
            with single_threaded_blas():
                return np.matmul(a, b)
        out = np.empty((rows, b.shape[1]), dtype=np.result_type(a, b))

        def product(part: slice) -> None:
            np.matmul(a[part], b, out=out[part])

        parallel(product, _cut(rows, parts))
        return out

    # -- reductions -------------------------------------------------------------------------

    def sum(self, x: Array, axes: tuple[int, ...], keepdims: bool = False) -> Array:
        leading = x.ndim > 1 and axes == tuple(range(x.ndim - 1))
        if not leading or x.dtype not in (np.float32, np.float64) or not x.flags.c_contiguous:
            return super().sum(x, axes, keepdims)
        # over all axes but a short last one NumPy sums in short steps; BLAS does not
        rows = x.reshape(-1, x.shape[-1])
        with single_threaded_blas():
            total = np.ones(rows.shape[0], dtype=x.dtype) @ rows
        return total.reshape((1,) * (x.ndim - 1) + total.shape) if keepdims else total

    # -- convolution ------------------------------------------------------------------------

    def conv2d(
        self, x: Array, weight: Array, bias: Array | None, window: Window, groups: int
    ) -> Array:
        if groups != 1:
            return super().conv2d(x, weight, bias, window, groups)
        return _correlate(x, weight, bias, window, window.output_size(*x.shape[1:3]))

    def conv2d_input_gradient(
        self, grad: Array, weight: Array, window: Window, groups: int, shape: tuple[int, ...]
    ) -> Array:
        if groups != 1:
            return super().conv2d_input_gradient(grad, weight, window, groups, shape)
        flipped = weight[::-1, ::-1].transpose(0, 1, 3, 2)
        before = [
            extent - 1 - padding[0]
            for extent, padding in zip(window.extent, window.padding, strict=True)
        ]
        turned = Window(
            window.kernel, padding=((before[0], 0), (before[1], 0)), dilation=window.dilation
        )
        return _correlate(grad, flipped, None, turned, shape[1:3], spread=window.stride)

    def conv2d_weight_gradient(self, x: Array, grad: Array, window: Window, groups: int) -> Array:
        if groups != 1:
            return super().conv2d_weight_gradient(x, grad, window, groups)
        outputs = grad.shape[3]
        taps = window.kernel[0] * window.kernel[1] * x.shape[3]
        tiles = _tiles(x, window, grad.shape[1:3])
        lanes = [tiles[lane::_LANES] for lane in range(min(_LANES, len(tiles)))]
        partial = np.zeros((max(1, len(lanes)), taps, outputs), dtype=x.dtype)

        def add_lane(lane: int) -> None:
            product = np.empty((taps, outputs), dtype=x.dtype)
            for tile in lanes[lane]:
                columns = _columns(x, window, grad.shape[1:3], tile)
                rows = grad[tile.images, tile.rows].reshape(-1, outputs)
                np.matmul(columns.T, rows, out=product)
                partial[lane] += product

        parallel(add_lane, range(len(lanes)))
        return partial.sum(axis=0).reshape(*window.kernel, x.shape[3], outputs)

    # -- pooling ----------------------------------------------------------------------------

    def max_pool2d(self, x: Array, window: Window) -> tuple[Array, Array]:
        out_h, out_w = window.output_size(*x.shape[1:3])
        best = np.empty((x.shape[0], out_h, out_w, x.shape[3]), dtype=x.dtype)
        winner = np.empty(best.shape, dtype=np.int8 if _is_tiling(window) else np.int16)

        def pool(images: slice) -> None:
            if _is_tiling(window):
                _pool_pairs(
                    self.pad_image(x[images], window, -np.inf), best[images], winner[images]
                )
            else:
                best[images], winner[images] = Backend.max_pool2d(self, x[images], window)

        parallel(pool, _image_chunks(x))
        return best, winner

    def conv2d_relu_pool(
        self, x: Array, weight: Array, bias: Array | None, window: Window, pool: Window
    ) -> tuple[Array, Array]:
        if not _is_tiling(pool) or any(map(any, pool.padding)):
            return super().conv2d_relu_pool(x, weight, bias, window, pool)
        outputs = weight.shape[3]
        matrix = np.ascontiguousarray(weight.reshape(-1, outputs))
        height, width = pool.output_size(*window.output_size(*x.shape[1:3]))
        best = np.empty((x.shape[0], height, width, outputs), dtype=x.dtype)
        winner = np.empty(best.shape, dtype=np.int8)

        def work(tile: _Tile) -> None:
            part = best[tile.images, slice(tile.rows.start // 2, tile.rows.stop // 2)]
            columns = _columns(x, window, (2 * height, 2 * width), tile)
            shape = (part.shape[0], 2 * part.shape[1], 2 * width, outputs)
            full = _buffer("full", shape, x.dtype)
            np.matmul(columns, matrix, out=full.reshape(-1, outputs))
            _pool_pairs(full, part, winner[tile.images, tile.rows.start // 2 : tile.rows.stop // 2])
            if bias is not None:
                part += bias
            np.maximum(part, 0, out=part)

        parallel(work, _tiles(x, window, (2 * height, 2 * width), multiple=2))
        return best, winner

    def max_pool2d_scatter(
        self, values: Array, winner: Array, window: Window, shape: tuple[int, ...]
    ) -> Array:
        out = np.empty(shape, dtype=values.dtype)
        covered = _is_tiling(window) and not any(map(any, window.padding))
        covered = covered and values.shape[1] * 2 == shape[1] and values.shape[2] * 2 == shape[2]

        def scatter(images: slice) -> None:
            if covered:  # each pixel lies in one window: nothing to add up
                for i, j, rows, columns in window.taps(*values.shape[1:3]):
                    won = winner[images] == 2 * i + j
                    np.multiply(values[images], won, out=out[images, rows, columns])
            else:
                part = (len(out[images]), *shape[1:])
                out[images] = Backend.max_pool2d_scatter(
                    self, values[images], winner[images], window, part
                )

        parallel(scatter, _image_chunks(out))
        return out


def _is_tiling(window: Window) -> bool:
    """Whether windows of 2 by 2 pixels lie side by side."""
    return window.kernel == window.stride == (2, 2) and window.dilation == (1, 1)


def _pool_pairs(x: Array, best: Array, winner: Array) -> None:
    """Max-pooling by 2 in two halvings, columns first, so that the first of equal values wins."""
    images, height, width, channels = best.shape
    pairs = x[:, : 2 * height, : 2 * width].reshape(images, 2 * height, width, 2, channels)
    left, right = pairs[..., 0, :], pairs[..., 1, :]
    from_right = np.greater(right, left).reshape(images, height, 2, width, channels)
    across = np.maximum(left, right).reshape(from_right.shape)
    top, bottom = across[:, :, 0], across[:, :, 1]
    from_bottom = np.greater(bottom, top)
    np.maximum(top, bottom, out=best)
    winner[...] = np.where(from_bottom, from_right[:, :, 1] + np.int8(2), from_right[:, :, 0])


class _Tile(NamedTuple):
    """Some output rows of some images; either whole images or rows of a single one."""

    images: slice
    rows: slice


_scratch = threading.local()


def _buffer(name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """An uninitialised array of this thread that is reused from call to call."""
    size = int(np.prod(shape)) * dtype.itemsize
    held = getattr(_scratch, name, None)
    if held is None or held.nbytes < size:
        held = np.empty(size, dtype=np.uint8)
        setattr(_scratch, name, held)
    array: Array = held[:size].view(dtype).reshape(shape)
    return array


def _tiles(x: Array, window: Window, out_size: Pair, multiple: int = 1) -> list[_Tile]:
    """Tiles whose columns take about ``_TILE_BYTES`` each, of a multiple of so many rows."""
    images, (out_h, out_w) = x.shape[0], out_size
    row_bytes = out_w * window.kernel[0] * window.kernel[1] * x.shape[3] * x.itemsize
    image_bytes = max(1, out_h * row_bytes)
    if image_bytes > _TILE_BYTES:
        return [
            _Tile(slice(n, n + 1), rows)
            for n in range(images)
            for rows in _shares(out_h, image_bytes, multiple)
        ]
    return [_Tile(part, slice(0, out_h)) for part in _shares(images, images * image_bytes)]


def _shares(length: int, total_bytes: int, multiple: int = 1) -> list[slice]:
    """An axis cut into an even number of nearly equal parts of at most about ``_TILE_BYTES``."""
    units = length // multiple
    count = min(units, 2 * -(-total_bytes // (2 * _TILE_BYTES)))
    return _cut(units, count, multiple) if count else []


def _cut(units: int, parts: int, multiple: int = 1) -> list[slice]:
    """``units`` runs of ``multiple`` elements cut into nearly equal parts."""
    edges = [units * part // parts * multiple for part in range(parts + 1)]
    return [slice(*edge) for edge in pairwise(edges)]


def _correlate(
    x: Array,
    weight: Array,
    bias: Array | None,
    window: Window,
    out_size: tuple[int, ...],
    spread: Pair = (1, 1),
) -> Array:
    """Slide the weight over x, whose pixels lie ``spread`` apart with zeros in between."""
    out_h, out_w = out_size
    outputs = weight.shape[3]
    matrix = np.ascontiguousarray(weight.reshape(-1, outputs))
    out = np.empty((x.shape[0], out_h, out_w, outputs), dtype=x.dtype)

    def product(tile: _Tile) -> None:
        columns = _columns(x, window, (out_h, out_w), tile, spread)
        part = out[tile.images, tile.rows].reshape(-1, outputs)
        np.matmul(columns, matrix, out=part)
        if bias is not None:
            part += bias

    if out.size:
        parallel(product, _tiles(x, window, (out_h, out_w)))
    return out


def _columns(
    x: Array, window: Window, out_size: tuple[int, ...], tile: _Tile, spread: Pair = (1, 1)
) -> Array:
    """The pixels under the window, one row per output pixel of the tile: (pixels, kh·kw·C)."""
    padded = _padded(x, window, out_size[1], tile, spread)
    images, channels = padded.shape[0], padded.shape[3]
    shape = (images, tile.rows.stop - tile.rows.start, out_size[1], *window.kernel, channels)
    along_n, along_h, along_w, along_c = padded.strides
    (sh, sw), (dh, dw) = window.stride, window.dilation
    view = as_strided(
        padded,
        shape,
        (along_n, along_h * sh, along_w * sw, along_h * dh, along_w * dw, along_c),
        writeable=False,
    )
    width = shape[3] * shape[4] * channels
    if window.kernel == (1, 1) and view.flags.c_contiguous:
        return view.reshape(-1, width)
    columns = _buffer("columns", shape, x.dtype)
    np.copyto(columns, view)
    return columns.reshape(-1, width)


def _padded(x: Array, window: Window, out_w: int, tile: _Tile, spread: Pair) -> Array:
    """The part of the padded image that the tile's windows visit, from the first row they touch."""
    top, left = window.padding[0][0], window.padding[1][0]
    first = tile.rows.start * window.stride[0] - top
    height = (tile.rows.stop - tile.rows.start - 1) * window.stride[0] + window.extent[0]
    width = (out_w - 1) * window.stride[1] + window.extent[1]
    rows = _overlap(first, height, x.shape[1], spread[0])
    columns = _overlap(-left, width, x.shape[2], spread[1])
    part = x[tile.images, rows.source, columns.source]
    if spread == (1, 1) and part.shape[1:3] == (height, width):
        return part
    padded = _buffer("padded", (part.shape[0], height, width, x.shape[3]), x.dtype)
    if spread == (1, 1):
        padded[:, : rows.target.start] = 0
        padded[:, rows.target.stop :] = 0
        padded[:, :, : columns.target.start] = 0
        padded[:, :, columns.target.stop :] = 0
    else:
        padded[...] = 0
    padded[:, rows.target, columns.target] = part
    return padded


class _Overlap(NamedTuple):
    source: slice
    target: slice


def _overlap(first: int, length: int, size: int, spread: int) -> _Overlap:
    """Which of ``size`` pixels, ``spread`` apart, fall into [first, first + length), and where."""
    start = max(0, -(-first // spread))
    stop = max(start, min(size, -(-(first + length) // spread)))
    begin = start * spread - first
    end = begin + (stop - start - 1) * spread + 1 if stop > start else begin
    begin, end = min(begin, length), min(end, length)
    return _Overlap(slice(start, stop), slice(begin, end, spread))


def _image_chunks(x: Array) -> list[slice]:
    """The images of a batch in runs that are worth a thread's while."""
    step = max(1, _CHUNK // max(1, x[0].size)) if x.shape[0] else 1
    return [slice(start, start + step) for start in range(0, x.shape[0], step)]


def _in_chunks(function: Callable[..., Any], *arrays: Array) -> Array:
    """An elementwise function of arrays of one shape, on several threads where they are large."""
    out = np.empty(arrays[0].shape, dtype=arrays[0].dtype)
    if out.size < 2 * _CHUNK or not all(array.flags.c_contiguous for array in arrays):
        function(*arrays, out=out)
        return out
    flat, flat_out = [array.reshape(-1) for array in arrays], out.reshape(-1)

    def chunk(start: int) -> None:
        part = slice(start, start + _CHUNK)
        function(*(array[part] for array in flat), out=flat_out[part])

    parallel(chunk, range(0, out.size, _CHUNK))
    return out


def _repeats(index: Any) -> bool:
    """Whether an index may name an element twice: only integer arrays can."""
    parts = index if isinstance(index, tuple) else (index,)
    return any(isinstance(part, np.ndarray) and part.dtype != np.bool_ for part in parts)


def _keep_freed_memory() -> None:
    """Ask glibc to keep freed memory for the next step instead of returning it to the system.

    Large arrays otherwise come from fresh pages every time, and touching those for the first time
    costs more than many a kernel. TINYNN_KEEP_MEMORY=0 leaves the allocator alone.
    """
    if os.environ.get("TINYNN_KEEP_MEMORY", "1") == "0":
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # not glibc
        return
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
    mallopt(mmap_threshold, 1 << 30)
    mallopt(trim_threshold, 1 << 30)
