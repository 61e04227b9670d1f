"""Elementwise operations at full speed: aligned arrays, and long runs instead of numbers.

NumPy's vector loops run at about half their speed where an array does not begin at a cache line, as
most of NumPy's own do not, and where a number or a row of less than 8192 elements (the size of its
iterator's buffer) is spread over a large array.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from math import inf, prod
from typing import Any

import numpy as np

from tinynn.backend.cpu.buffers import aligned
from tinynn.backend.reference import Array

_LONG = 8192  # elements
_SMALL = 1 << 15  # bytes; below, to find the cache line takes longer than it saves


def empty(shape: tuple[int, ...], dtype: Any) -> Array:
    """An uninitialized array, which begins at a cache line if it is large."""
    dtype = np.dtype(dtype)
    size = prod(shape) * dtype.itemsize
    if size < _SMALL:
        return np.empty(shape, dtype)
    return aligned(size).view(dtype).reshape(shape)


def long_row(values: Array, dtype: Any, size: float = inf) -> Array:
    """The values again and again, until they are a long run for arrays of that size.

    Only once for small ones: to repeat the values takes longer than it saves.
    """
    times = 1 if size <= 2 * _LONG else -(-_LONG // len(values))
    row = empty((times, len(values)), dtype)
    row[...] = values
    return row.reshape(-1)


def chunks(size: int, row: int, *arrays: Array) -> list[tuple[Array, ...]]:
    """Flat arrays in chunks of about ``size`` numbers, each as lines of ``row`` numbers.

    What does not fill a line comes last, as a line of its own.
    """
    flat = [array.reshape(-1) for array in arrays]
    lines, step = flat[0].size // row, max(1, size // row)
    whole = [array[: lines * row].reshape(lines, row) for array in flat]
    found = [tuple(a[start : start + step] for a in whole) for start in range(0, lines, step)]
    if lines * row < flat[0].size:
        found.append(tuple(array[None, lines * row :] for array in flat))
    return found


def spread(operation: Callable[..., Any], x: Array, row: Array, out: Array) -> None:
    """out = operation(x, row), the row again and again along x; both arrays are contiguous."""
    flat, result = x.reshape(-1), out.reshape(-1)
    if flat.size <= row.size:
        operation(flat, row[: flat.size], out=result)
        return
    whole = flat.size // row.size * row.size
    if whole:
        shape = (-1, row.size)
        operation(flat[:whole].reshape(shape), row, out=result[:whole].reshape(shape))
    if whole < flat.size:
        operation(flat[whole:], row[: flat.size - whole], out=result[whole:])


def relu(x: Array, out: Array) -> None:
    """out = max(x, 0); both are contiguous."""
    length = max(1, x.size) if x.size <= 2 * _LONG else _LONG
    spread(np.maximum, x, zeros(length, x.dtype), out)


@lru_cache(maxsize=64)
def zeros(size: int, dtype: np.dtype[Any]) -> Array:
    """A row of zeros, not to be written to."""
    row = empty((size,), dtype)
    row[...] = 0
    return row
