"""The CPU: the reference kernels of ``Backend``, where tiles and threads make them faster.

Work is cut into tiles that stay in the cache until everything is done to them, and tiles run on
several threads.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from tinynn.backend.cpu import elementwise
from tinynn.backend.cpu.buffers import free_buffers, held_bytes, keep_freed_memory
from tinynn.backend.cpu.convolution.kernels import Convolution
from tinynn.backend.cpu.normalization import Normalization
from tinynn.backend.cpu.pooling import Pooling
from tinynn.backend.cpu.system import available_memory
from tinynn.backend.cpu.threads import parallel, single_threaded_blas
from tinynn.backend.cpu.tiles import cut
from tinynn.backend.reference import Array, Arrays

_MATMUL_PARTS = 8  # blocks of a large matrix product, by its size: no result depends on threads
_MATMUL_WORK = 8 * 10**6  # multiply-adds of a block, at least
_CHUNK = 1 << 18  # elements; below it, handing work to a thread costs more than it saves
_SMALL = 1 << 13  # elements; below it, a plain operation of NumPy's is over before it pays to help
_FOR_THREADS = 1 << 20  # parameters of a model whose update is worth several threads


class NumpyBackend(Convolution, Pooling, Normalization):
    """Kernels on the CPU."""

    xp = np
    device = "cpu"

    def __init__(self) -> None:
        keep_freed_memory()

    def session(self) -> AbstractContextManager[None]:
        return single_threaded_blas()

    def to_host(self, array: Array) -> np.ndarray:
        return np.asarray(array)

    def held_memory(self) -> dict[str, int]:
        return {"buffers": held_bytes()}

    def free_memory(self) -> None:
        free_buffers()

    def available_memory(self) -> int:
        return available_memory()

    def peek(self, array: Array) -> Any | None:
        return array.item()

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

    def elementwise(self, name: str, *operands: Any) -> Array:
        function = getattr(np, name)
        arrays = [operand for operand in operands if isinstance(operand, np.ndarray)]
        large = arrays and arrays[0].size >= 2 * _CHUNK
        if not large or any(
            array.shape != arrays[0].shape or not array.flags.c_contiguous for array in arrays
        ):
            return function(*operands)  # others it runs through in the order of their memory
        with np.errstate(all="ignore"):
            first = (o.flat[:1] if isinstance(o, np.ndarray) else o for o in operands)
            dtype = function(*first).dtype
        return _in_chunks(function, dtype, *operands)

    def relu(self, x: Array) -> Array:
        if x.size < _SMALL or x.dtype.kind != "f":
            return np.maximum(x, 0)
        return _in_chunks(elementwise.relu, x.dtype, x)

    def relu_gradient(self, grad: Array, out: Array) -> Array:
        return _in_chunks(lambda g, y, out: np.multiply(g, y > 0, out=out), grad.dtype, grad, out)

    # -- matrix products --------------------------------------------------------------------

    def matmul(self, a: Array, b: Array) -> Array:
        flat = a.ndim == b.ndim == 2
        if flat and a.shape[1] == 1 and a.dtype == b.dtype:
            return np.multiply(a, b)
        # the larger matrix is cut, so that its parts are read once
        columns = flat and b.shape[1] > a.shape[0]
        length = (b.shape[1] if columns else a.shape[0]) if flat else 0
        parts = min(_MATMUL_PARTS, length // 16, a.size * b.shape[-1] // _MATMUL_WORK)
        parts = 1 << parts.bit_length() - 1 if parts else 0  # even shares for 2, 4 or 8 threads
        if parts < 2:
            with single_threaded_blas():
                return np.matmul(a, b)
        out = elementwise.empty((a.shape[0], b.shape[1]), np.result_type(a, b))

        def product(part: slice) -> None:
            if columns:
                np.matmul(a, b[:, part], out=out[:, part])
            else:
                np.matmul(a[part], b, out=out[part])

        parallel(product, cut(length, parts))
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

    # -- updates ----------------------------------------------------------------------------

    def sgd_update(self, parameters: Arrays, grads: Arrays, velocities: Any, *rest: Any) -> None:
        _update(super().sgd_update, (parameters, grads, velocities), rest)

    def adam_update(
        self, parameters: Arrays, grads: Arrays, firsts: Arrays, seconds: Arrays, *rest: Any
    ) -> None:
        _update(super().adam_update, (parameters, grads, firsts, seconds), rest)

    def rmsprop_update(
        self, parameters: Arrays, grads: Arrays, squares: Arrays, velocities: Any, *rest: Any
    ) -> None:
        _update(super().rmsprop_update, (parameters, grads, squares, velocities), rest)


def _update(kernel: Callable[..., None], lists: tuple[Any, ...], rest: tuple[Any, ...]) -> None:
    """The kernel on large arrays a chunk at a time, so that its passes find them in the cache."""
    large = sum(array.size for array in lists[0]) >= _FOR_THREADS
    step = _CHUNK // 2 if large else _CHUNK // 8
    pieces = []
    for arrays in zip(*([None] * len(lists[0]) if a is None else a for a in lists), strict=True):
        size = arrays[0].size
        if size < 2 * step or not all(a is None or a.flags.c_contiguous for a in arrays):
            pieces.append(arrays)
            continue
        flat = [None if a is None else a.reshape(-1) for a in arrays]
        for start in range(0, size, step):
            part = slice(start, start + step)
            pieces.append(tuple(None if a is None else a[part] for a in flat))

    def work(number: int) -> None:
        piece = pieces[number]
        kernel(*(None if a is None else [a] for a in piece), *rest)

    if large:
        parallel(work, range(len(pieces)))
    else:
        for number in range(len(pieces)):
            work(number)


def _in_chunks(function: Callable[..., Any], dtype: Any, *operands: Any) -> Array:
    """An elementwise function of arrays of one shape, on several threads where they are large."""
    shape = next(operand.shape for operand in operands if isinstance(operand, np.ndarray))
    out = elementwise.empty(shape, dtype)
    whole = slice(None)
    flat, results = [_flat(operand, whole) for operand in operands], out.reshape(-1)
    step = _CHUNK if out.size >= 2 * _CHUNK else max(1, out.size)

    def chunk(start: int) -> None:
        part = slice(start, start + step)
        function(*(_flat(operand, part) for operand in flat), out=results[part])

    parallel(chunk, range(0, out.size, step))
    return out


def _flat(operand: Any, part: slice) -> Any:
    """A part of an array as one contiguous run; a number as it is."""
    if isinstance(operand, np.ndarray):
        return np.ascontiguousarray(operand).reshape(-1)[part]
    return operand


def _repeats(index: Any) -> bool:
    """Whether an index may name an element twice: only integer arrays can."""
    parts = index if isinstance(index, tuple) else (index,)
    return any(isinstance(part, np.ndarray) and part.dtype != np.bool_ for part in parts)
