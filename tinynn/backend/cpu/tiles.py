"""Tiles: parts of a batch whose work is done while their numbers are in the cache."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

# What one tile reads and writes. One thread would be as fast with less, but two hand each other the
# interpreter's lock at every operation, and that takes as long as a small one.
_TILE_BYTES = 3 << 20


class Tile(NamedTuple):
    """Some output rows of some images; either whole images or rows of a single one."""

    images: slice
    rows: slice


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
