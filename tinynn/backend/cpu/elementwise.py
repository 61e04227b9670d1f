"""Elementwise operations at NumPy's full speed: aligned arrays, long rows, chunks on threads.

NumPy's vector loops run at about half their speed in two cases, which this module avoids:

- an array that does not begin at a cache line (most NumPy arrays start 16 bytes past one), because
  vector loads then straddle two lines. ``empty`` aligns large arrays.
- a scalar or a row shorter than 8192 elements (NumPy's iterator buffer) that is broadcast over a
  large array. ``repeat_row`` repeats a row until it is long enough, ``broadcast_row`` applies it.

Large arrays are evaluated in chunks of contiguous memory, which run on several threads.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from math import inf, prod
from typing import Any

import numpy as np

from tinynn.backend.cpu import tuning
from tinynn.backend.cpu.buffers import aligned
from tinynn.backend.cpu.threads import parallel
from tinynn.backend.formula import Formula, traced
from tinynn.backend.reference import Array, Backend

# -- kernels --------------------------------------------------------------------------------------


def elementwise(backend: Backend, name: str, *operands: Any) -> Array:
    """In chunks where the operands are large, of one shape and contiguous."""
    function = getattr(np, name)
    try:
        if not _is_large_run(*(operand for operand in operands if isinstance(operand, np.ndarray))):
            return function(*operands)
        with np.errstate(all="ignore"):
            first = (o.flat[:1] if isinstance(o, np.ndarray) else o for o in operands)
            dtype = function(*first).dtype
        return in_chunks(function, dtype, *operands)
    except (FloatingPointError, RuntimeWarning):
        return without_underflow(elementwise, backend, name, *operands)


def evaluate(backend: Backend, formula: Formula, *arrays: Array) -> Array:
    """In chunks where the arrays are large, so that the formula's later passes hit the cache."""
    if isinstance(formula, np.ufunc):
        return elementwise(backend, formula.__name__, *arrays)
    traced(formula, arrays)  # an error if it is not elementwise
    first = arrays[0]
    try:
        floating = first.dtype.kind == "f"
        if floating and first.dtype.itemsize == 2:  # in float32, as on a GPU
            wide = (array.astype(np.float32) for array in arrays)
            return evaluate(backend, formula, *wide).astype(first.dtype)
        if not floating or not _is_large_run(*arrays, least=tuning.EVALUATE_FROM):
            result = formula(*arrays)
            if result is not first and (result.dtype is first.dtype or not floating):
                return result
            return np.array(result, dtype=first.dtype)

        def into(*chunks: Array, out: Array) -> None:
            out[...] = formula(*chunks)

        return in_chunks(into, first.dtype, *arrays)
    except (FloatingPointError, RuntimeWarning):
        return without_underflow(evaluate, backend, formula, *arrays)


def without_underflow(kernel: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Repeat a kernel that raised because of ``numpy.seterr``: to round to 0 is no error."""
    if np.geterr()["under"] == "ignore":
        raise
    with np.errstate(under="ignore"):
        return kernel(*arguments, **options)


def relu(backend: Backend, x: Array) -> Array:
    """max(x, 0) in chunks, compared with a long row of zeros."""
    if x.size < tuning.RELU_FROM or x.dtype.kind != "f":
        return np.maximum(x, 0)
    return in_chunks(relu_into, x.dtype, x)


def relu_gradient(backend: Backend, grad: Array, out: Array) -> Array:
    """grad · (out > 0) in chunks."""
    return in_chunks(lambda g, y, out: np.multiply(g, y > 0, out=out), grad.dtype, grad, out)


def _is_large_run(*arrays: Array, least: int = 2 * tuning.CHUNK) -> bool:
    """Whether the arrays are large enough for chunks, of one shape and C-contiguous."""
    return bool(arrays) and all(
        array.size >= least and array.shape == arrays[0].shape and array.flags.c_contiguous
        for array in arrays
    )


def in_chunks(function: Callable[..., Any], dtype: Any, *operands: Any) -> Array:
    """An elementwise function of arrays of one shape and scalars, one chunk at a time."""
    shape = next(operand.shape for operand in operands if isinstance(operand, np.ndarray))
    result = empty(shape, dtype)
    flat = [o.reshape(-1) if isinstance(o, np.ndarray) else o for o in operands]
    out = result.reshape(-1)
    step = tuning.CHUNK if out.size >= 2 * tuning.CHUNK else max(1, out.size)

    def chunk(start: int) -> None:
        part = slice(start, start + step)
        arguments = (o[part] if isinstance(o, np.ndarray) else o for o in flat)
        function(*arguments, out=out[part])

    parallel(chunk, range(0, out.size, step))
    return result


# -- building blocks ------------------------------------------------------------------------------


def empty(shape: tuple[int, ...], dtype: Any) -> Array:
    """An uninitialized array, aligned to a cache line if it is large."""
    dtype = np.dtype(dtype)
    size = prod(shape) * dtype.itemsize
    if size < tuning.ALIGN_FROM:
        return np.empty(shape, dtype)
    return aligned(size).view(dtype).reshape(shape)


def repeat_row(values: Array, dtype: Any, size: float = inf) -> Array:
    """``values`` repeated to at least ``tuning.LONG_ROW`` elements, for arrays of that size.

    Small arrays get them once: repeating takes longer than it saves.
    """
    times = 1 if size <= 2 * tuning.LONG_ROW else -(-tuning.LONG_ROW // len(values))
    row = empty((times, len(values)), dtype)
    row[...] = values
    return row.reshape(-1)


def broadcast_row(operation: Callable[..., Any], x: Array, row: Array, out: Array) -> None:
    """out = operation(x, row), with the row repeated along x. ``x`` and ``out`` are contiguous."""
    flat, result = x.reshape(-1), out.reshape(-1)
    if flat.size <= row.size:
        operation(flat, row[: flat.size], out=result)
        return
    whole = flat.size // row.size * row.size
    shape = (-1, row.size)
    operation(flat[:whole].reshape(shape), row, out=result[:whole].reshape(shape))
    if whole < flat.size:
        operation(flat[whole:], row[: flat.size - whole], out=result[whole:])


def relu_into(x: Array, out: Array) -> None:
    """out = max(x, 0). Both are contiguous."""
    length = max(1, x.size) if x.size <= 2 * tuning.LONG_ROW else tuning.LONG_ROW
    broadcast_row(np.maximum, x, zeros(length, x.dtype), out)


@lru_cache(maxsize=64)
def zeros(size: int, dtype: np.dtype[Any]) -> Array:
    """A shared row of zeros; do not write to it."""
    row = empty((size,), dtype)
    row[...] = 0
    return row


def split_rows(size: int, width: int, *arrays: Array) -> list[tuple[Array, ...]]:
    """Cut flat arrays into chunks of about ``size`` elements, as matrices of ``width`` columns.

    A remainder that does not fill a row comes last, as a shorter row.
    """
    flat = [array.reshape(-1) for array in arrays]
    rows, step = flat[0].size // width, max(1, size // width)
    whole = [array[: rows * width].reshape(rows, width) for array in flat]
    found = [tuple(a[start : start + step] for a in whole) for start in range(0, rows, step)]
    if rows * width < flat[0].size:
        found.append(tuple(array[None, rows * width :] for array in flat))
    return found
