"""Convolution as matrix products: a tile of images at a time, lowered along the width only.

im2col writes each pixel kh·kw times. Lowering along the width writes it kw times: for each output
column x and each padded row y', the kw·C numbers under one row of the kernel lie side by side, and
the rows y' follow one another. What the whole kernel sees at (x, y) is then one run of kh·kw·C
numbers that begins at y' = y·stride; the run of the next y overlaps it. A matrix whose rows are the
runs of one y is an ordinary strided matrix, so one stacked product does all of them:
Cho and Brand, "MEC: memory-efficient convolution for deep neural network" (2017).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided

from tinynn.backend.base import Array
from tinynn.backend.cpu.buffers import buffer
from tinynn.backend.windows import Pair, Window

# What one tile reads and writes. One thread would be as fast with less, but two hand each other the
# interpreter's lock at every operation, and that takes as long as a small one.
_TILE_BYTES = 6 << 20


class Tile(NamedTuple):
    """Some output rows of some images; either whole images or rows of a single one."""

    images: slice
    rows: slice


def by_image(padded: Array, window: Window, rows: int, width: int, full: bool) -> Array:
    """What the window sees at each output pixel: (images, rows, width, kh·kw·C).

    In a buffer of this thread. ``full`` writes the runs of all rows apart (im2col), which a kernel
    with gaps between its rows needs.
    """
    images, channels = padded.shape[0], padded.shape[3]
    (kh, kw), (sh, sw), (dh, dw) = window.kernel, window.stride, window.dilation
    n, y, x, c = padded.strides
    run = kh * kw * channels
    if full or dh > 1:
        shape = (images, rows, width, kh, kw, channels)
        columns = _gather(padded, shape, (n, y * sh, x * sw, y * dh, x * dw, c))
        return columns.reshape(images, rows, width, run)
    high = (rows - 1) * sh + kh
    lowered = _gather(padded, (images, width, high, kw, channels), (n, x * sw, y, x * dw, c))
    n, x, y, _, c = lowered.strides
    return _strided(lowered, (images, rows, width, run), (n, y * sh, x, c))


def by_row(padded: Array, window: Window, rows: int, width: int, parts: int, full: bool) -> Array:
    """The same as one matrix for each output row: (rows, images · width, kh·kw·C).

    The columns come in ``parts`` residues: row (x % parts, n, x // parts) belongs to image n and
    column x.
    """
    images, channels = padded.shape[0], padded.shape[3]
    (kh, kw), (sh, sw), (dh, dw) = window.kernel, window.stride, window.dilation
    n, y, x, c = padded.strides
    run = kh * kw * channels
    lead, steps = (parts, images, width // parts), (x * sw, n, x * sw * parts)
    if full or dh > 1:
        shape = (rows, *lead, kh, kw, channels)
        columns = _gather(padded, shape, (y * sh, *steps, y * dh, x * dw, c))
        return columns.reshape(rows, images * width, run)
    high = (rows - 1) * sh + kh
    lowered = _gather(padded, (*lead, high, kw, channels), (*steps, y, x * dw, c))
    _, _, x, y, _, c = lowered.strides
    return _strided(lowered, (rows, images * width, run), (y * sh, x, c))


def _gather(padded: Array, shape: tuple[int, ...], strides: tuple[int, ...]) -> Array:
    lowered = buffer("lowered", shape, padded.dtype)
    np.copyto(lowered, _strided(padded, shape, strides))
    return lowered


def _strided(array: Array, shape: tuple[int, ...], strides: tuple[int, ...]) -> Array:
    """A view with overlapping elements; ``as_strided``, which is slower, where it must be."""
    if array.flags.c_contiguous:
        return np.ndarray(shape, array.dtype, array, 0, strides)
    return as_strided(array, shape, strides, writeable=False)


def pad_tile(x: Array, window: Window, width: int, tile: Tile, spread: Pair = (1, 1)) -> Array:
    """The part of the padded image that the tile's windows visit, from the first row they touch.

    The pixels lie ``spread`` apart with zeros in between.
    """
    top, left = window.padding[0][0], window.padding[1][0]
    first = tile.rows.start * window.stride[0] - top
    height = (tile.rows.stop - tile.rows.start - 1) * window.stride[0] + window.extent[0]
    across = (width - 1) * window.stride[1] + window.extent[1]
    rows = _overlap(first, height, x.shape[1], spread[0])
    columns = _overlap(-left, across, x.shape[2], spread[1])
    part = x[tile.images, rows.source, columns.source]
    if spread == (1, 1) and part.shape[1:3] == (height, across):
        return part
    padded = buffer("padded", (part.shape[0], height, across, x.shape[3]), x.dtype)
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


def tiles(x: Array, window: Window, size: Pair, outputs: int, multiple: int = 1) -> Sequence[Tile]:
    """The tiles of a convolution of x to ``size`` pixels of so many outputs.

    Their number is even, for two threads, and depends on nothing but the sizes.
    """
    taps = window.kernel[1] * (window.stride[0] if window.dilation[0] == 1 else window.kernel[0])
    return cut_tiles(
        len(x), size[0], size[1] * (taps * x.shape[3] + outputs) * x.itemsize, multiple
    )


@lru_cache(maxsize=256)
def cut_tiles(images: int, rows: int, row_bytes: int, multiple: int = 1) -> Sequence[Tile]:
    """Tiles that begin at a multiple of so many rows, from the bytes of one row of one image."""
    image_bytes = max(1, rows * row_bytes)
    if image_bytes > _TILE_BYTES:
        return [
            Tile(slice(n, n + 1), part)
            for n in range(images)
            for part in _shares(rows, image_bytes, multiple)
        ]
    return [Tile(part, slice(0, rows)) for part in _shares(images, images * image_bytes)]


def _shares(length: int, total_bytes: int, multiple: int = 1) -> list[slice]:
    """An axis cut into an even number of nearly equal parts of at most about a tile's bytes."""
    units = length // multiple
    count = min(units, 2 * -(-total_bytes // (2 * _TILE_BYTES)))
    return cut(units, count, multiple) if count else []


def cut(units: int, parts: int, multiple: int = 1) -> list[slice]:
    """``units`` runs of ``multiple`` elements cut into nearly equal parts."""
    edges = [units * part // parts * multiple for part in range(parts + 1)]
    return [slice(*edge) for edge in pairwise(edges)]
