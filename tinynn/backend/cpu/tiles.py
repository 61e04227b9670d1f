"""Tiles: parts of a batch small enough to stay in the cache while a kernel works on them.

How a batch is cut depends on its sizes only, never on the number of threads. Each tile is computed
by one thread from start to end, so results are bitwise the same for any number of threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

from tinynn.backend.cpu import tuning

Shape = tuple[int, ...]


class Tile(NamedTuple):
    """Some output rows of some images: either all rows of several images, or rows of one."""

    images: slice
    rows: slice


@lru_cache(maxsize=1024)
def overlap(first: int, count: int, size: int, step: int = 1) -> tuple[slice, slice]:
    """Which of the ``count`` positions first, first + step, ... lie in [0, size).

    Returns:
        The slice of the positions, and the slice of the ``size`` pixels that they select.
    """
    start = min(count, max(0, -(first // step)))
    stop = max(start, min(count, -((first - size) // step)))
    begin = max(0, first + start * step)
    return slice(start, stop), slice(begin, begin + (stop - start) * step, step)


@lru_cache(maxsize=256)
def cut_tiles(images: int, rows: int, row_bytes: int, multiple: int = 1) -> Sequence[Tile]:
    """Cut a batch into tiles of about ``tuning.TILE_BYTES``.

    Args:
        images: Images of the batch.
        rows: Output rows of each image.
        row_bytes: Bytes that are read and written for one row of one image.
        multiple: Tiles of a single image begin at multiples of this many rows.
    """
    image_bytes = rows * row_bytes
    if not image_bytes:  # the output is empty
        return []
    if image_bytes > tuning.TILE_BYTES:
        return [
            Tile(slice(n, n + 1), part)
            for n in range(images)
            for part in _shares(rows, image_bytes, multiple)
        ]
    return [Tile(part, slice(0, rows)) for part in _shares(images, images * image_bytes)]


def _shares(length: int, total_bytes: int, multiple: int = 1) -> list[slice]:
    """An even number of nearly equal parts, so that two threads finish at the same time."""
    count = min(-(-length // multiple), 2 * -(-total_bytes // (2 * tuning.TILE_BYTES)))
    return cut(length, count, multiple) if count else []


def cut(length: int, parts: int, multiple: int = 1) -> list[slice]:
    """Cut an axis into nearly equal parts that begin at multiples of ``multiple`` elements."""
    units = -(-length // multiple)
    edges = [min(length, units * part // parts * multiple) for part in range(parts + 1)]
    return [slice(*edge) for edge in pairwise(edges)]
