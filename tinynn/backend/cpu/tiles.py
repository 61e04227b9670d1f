"""Tiles: parts of a batch whose work is done while their numbers are in the cache."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

from tinynn.backend.base import Array
from tinynn.backend.cpu.buffers import buffer
from tinynn.backend.windows import Window

# What one tile reads and writes. One thread would be as fast with less, but two hand each other the
# interpreter's lock at every operation, and that takes as long as a small one.
_TILE_BYTES = 3 << 20


class Tile(NamedTuple):
    """Some output rows of some images; either whole images or rows of a single one."""

    images: slice
    rows: slice


def pad_tile(x: Array, window: Window, width: int, tile: Tile) -> Array:
    """The part of the padded image that the tile's windows visit, from the first row they touch."""
    top, left = window.padding[0][0], window.padding[1][0]
    first = tile.rows.start * window.stride[0] - top
    height = (tile.rows.stop - tile.rows.start - 1) * window.stride[0] + window.extent[0]
    across = (width - 1) * window.stride[1] + window.extent[1]
    rows, down = overlap(first, height, x.shape[1])
    columns, along = overlap(-left, across, x.shape[2])
    part = x[tile.images, down, along]
    if part.shape[1:3] == (height, across):
        return part
    padded = buffer("padded", (part.shape[0], height, across, x.shape[3]), x.dtype)
    padded[:, : rows.start] = 0
    padded[:, rows.stop :] = 0
    padded[:, :, : columns.start] = 0
    padded[:, :, columns.stop :] = 0
    padded[:, rows, columns] = part
    return padded


@lru_cache(maxsize=1024)
def overlap(first: int, count: int, size: int, step: int = 1) -> tuple[slice, slice]:
    """Which of the places first, first + step, ... (``count`` of them) are among ``size`` pixels.

    As a slice of the places, and as one of the pixels.
    """
    start = min(count, max(0, -(first // step)))
    stop = max(start, min(count, -((first - size) // step)))
    begin = max(0, first + start * step)
    return slice(start, stop), slice(begin, begin + (stop - start) * step, step)


@lru_cache(maxsize=256)
def cut_tiles(images: int, rows: int, row_bytes: int, multiple: int = 1) -> Sequence[Tile]:
    """Tiles that begin at a multiple of so many rows, from the bytes of one row of one image.

    Their number is even, for two threads, and depends on nothing but the sizes.
    """
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
    count = min(-(-length // multiple), 2 * -(-total_bytes // (2 * _TILE_BYTES)))
    return cut(length, count, multiple) if count else []


def cut(length: int, parts: int, multiple: int = 1) -> list[slice]:
    """An axis cut into nearly equal parts that begin at a multiple of so many elements."""
    units = -(-length // multiple)
    edges = [min(length, units * part // parts * multiple) for part in range(parts + 1)]
    return [slice(*edge) for edge in pairwise(edges)]
