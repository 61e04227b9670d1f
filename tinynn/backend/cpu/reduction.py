"""Sums in blocks, whose rounding error does not grow with the number of terms.

NumPy adds in pairs, in a tree, only along contiguous memory. Along all other axes it adds one term
after the other, and in float32 the error of such a sum grows with the number of terms: the mean of
some million pixels by channel has lost half of its digits. Here runs of ``tuning.SUM_BLOCK`` terms
are added in the precision of the array, as matrix products with ones: BLAS adds many short rows at
once. The sums of the runs are added up in float64, in the same way.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from functools import lru_cache
from itertools import groupby
from typing import Any

import numpy as np

from tinynn.backend.cpu import tuning
from tinynn.backend.cpu.threads import single_threaded_blas
from tinynn.backend.reference import Array, Backend


def total(backend: Backend, x: Array, axes: tuple[int, ...], keepdims: bool = False) -> Array:
    """The sum over some axes; integers are left to NumPy."""
    if x.dtype.kind != "f":
        return Backend.sum(backend, x, axes, keepdims)
    if x.dtype.itemsize > 2 and _is_short(x, axes):
        return x.sum(axis=axes, keepdims=keepdims)
    return _shaped(sums(x, axes), axes, keepdims).astype(x.dtype)


def mean(backend: Backend, x: Array, axes: tuple[int, ...], keepdims: bool = False) -> Array:
    """The mean over some axes, rounded once."""
    count = math.prod([x.shape[axis] for axis in axes])
    return (_shaped(sums(x, axes), axes, keepdims) / count).astype(x.dtype)


def sum_of_squares(backend: Backend, x: Array) -> Array:
    """In chunks that stay in the cache, as products of vectors."""
    flat, total = x.ravel(order="K"), np.zeros(())
    with single_threaded_blas():
        for start in range(0, x.size, tuning.SUM_CHUNK):
            wide = flat[start : start + tuning.SUM_CHUNK].astype(np.float64)
            total += wide @ wide
    return total


def sums(x: Array, axes: tuple[int, ...]) -> Array:
    """The sum of a floating-point array over some axes, which keep length 1, in float64."""
    if x.dtype.itemsize < 8 and x.size <= tuning.SUM_IN_FLOAT64:
        return np.add.reduce(x, axes, np.float64, keepdims=True)
    # a broadcast axis holds one value n times
    repeated = [axis for axis in axes if x.strides[axis] == 0]
    times = math.prod([x.shape[axis] for axis in repeated])
    x = x[tuple(slice(1) if axis in repeated else slice(None) for axis in range(x.ndim))]
    if x.dtype.itemsize == 2:
        x = x.astype(np.float32)
    if _is_short(x, axes):
        return np.add.reduce(x, axes, keepdims=True).astype(np.float64) * times
    first, behind = min(axes), max(axes) + 1
    if behind - first == len(axes) and x.flags.c_contiguous:
        return _run_sums(x, first, behind) * times
    # with the axes in their order in memory, reduce neighboring ones together, the last ones first
    order = sorted(range(x.ndim), key=lambda axis: -abs(x.strides[axis]))
    x = x.transpose(order)
    grouped = groupby(range(x.ndim), lambda i: order[i] in axes)
    runs = [tuple(run) for is_reduced, run in grouped if is_reduced]
    for run in reversed(runs):
        x = _run_sums(x, run[0], run[-1] + 1)
    return x.transpose(np.argsort(order)) * times


def _run_sums(x: Array, first: int, behind: int) -> Array:
    """The sum over the neighboring axes from ``first`` to ``behind``, which keep length 1."""
    outer, own, inner = x.shape[:first], x.shape[first:behind], x.shape[behind:]
    rows = x.reshape(math.prod(outer), math.prod(own), math.prod(inner))
    with nullcontext() if rows.shape[2] == 1 else single_threaded_blas():
        return _middle_sums(rows).reshape(*outer, *(1 for _ in own), *inner)


def column_sums(rows: Array) -> Array:
    """The sum over the rows of a contiguous matrix that fits into the cache, in float64."""
    count, inner = rows.shape
    block, length = tuning.SUM_BLOCK, count // tuning.SUM_BLOCK
    if rows.dtype.itemsize == 8 or not length:
        return _middle_sums(rows[None])[0]
    whole = block * length
    parts = _ones(block, rows.dtype) @ rows[:whole].reshape(block, length * inner)
    result = np.add.reduce(parts.reshape(length, inner), 0, np.float64)
    return result + np.add.reduce(rows[whole:], 0) if whole < count else result


def _middle_sums(x: Array) -> Array:
    """The sum of (outer, n, inner) over n, in float64; the caller limits BLAS's threads."""
    outer, count, inner = x.shape
    block = tuning.SUM_BLOCK
    if inner == 1:  # in pairs
        return np.add.reduce(x[:, :, 0], 1).astype(np.float64)[:, None]
    if count <= block:
        return np.add.reduce(x, 1).astype(np.float64)
    if x.strides[2] != x.itemsize:
        x = np.ascontiguousarray(x)  # for BLAS
    # a matrix row is about SUM_ROW elements: several rows of x, if there are enough for a block
    number = max(1, count // (block * max(1, tuning.SUM_ROW // inner)))
    together = count // (block * number)
    whole = block * number * together
    blocks = x[:, :whole].reshape(outer, number, block, together * inner)
    parts = np.matmul(_ones(block, x.dtype), blocks).astype(np.float64, copy=False)
    result = _middle_sums(parts.reshape(outer, whole // block, inner))
    return result + _middle_sums(x[:, whole:]) if whole < count else result


def _is_short(x: Array, axes: tuple[int, ...]) -> bool:
    return bool(math.prod([x.shape[axis] for axis in axes]) <= tuning.SUM_BLOCK)


def _shaped(result: Array, axes: tuple[int, ...], keepdims: bool) -> Array:
    """The result without the axes of length 1, unless they are kept."""
    return result if keepdims else result.squeeze(axes)


@lru_cache(maxsize=8)
def _ones(size: int, dtype: np.dtype[Any]) -> Array:
    return np.ones(size, dtype)
