"""Sums and means on a GPU: one launch, float16 added up in float32, the same bits in each run."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from tinynn.backend.cuda.launch import DTYPES, THREADS, CudaKernels, blocks_for, kernel, scalar
from tinynn.backend.reference import Array

_SHORT = 32  # terms that one thread adds up
_BLOCKS_EACH = 4  # blocks for each multiprocessor
_LEAST = 1024  # elements of a part that is worth a block

Shape = tuple[int, ...]


class Reduction(CudaKernels):
    """``sum`` and ``mean``."""

    def sum(self, x: Array, axes: tuple[int, ...], keepdims: bool = False) -> Array:
        """The sum over some axes."""
        if x.dtype.name not in DTYPES:
            return super().sum(x, axes, keepdims)
        return self._sum(x, axes, keepdims, 1)

    def mean(self, x: Array, axes: tuple[int, ...], keepdims: bool = False) -> Array:
        """The mean over some axes."""
        scale = 1 / math.prod(x.shape[axis] for axis in axes)
        return self._sum(x, axes, keepdims, scale)

    def _sum(self, x: Array, axes: tuple[int, ...], keepdims: bool, scale: float) -> Array:
        plan = _plan(x.shape, axes, keepdims)
        if plan.order:  # the axes do not lie side by side
            x = x.transpose(plan.order)
        x = self.contiguous(x)
        outer, reduced, inner = plan.sizes
        out = self.xp.empty(plan.shape, x.dtype)
        if not out.size:
            return out
        factor = scalar(scale, x)
        if reduced <= _SHORT:
            launch = kernel("reduction", "sum_short", x.dtype.name)
            arguments = (x, reduced, inner, out.size, factor, out)
            launch(blocks_for(out.size), (THREADS,), arguments)
            return out
        across = min(32, 1 << (inner - 1).bit_length())
        tiles = -(-inner // across)
        most = _BLOCKS_EACH * self.multiprocessors // (outer * tiles)
        parts = max(1, min(most, reduced * across // _LEAST))
        each = -(-reduced // parts)
        parts = -(-reduced // each)
        partial, tickets = out, out  # not touched by a single part
        if parts > 1:
            partial = self.xp.empty((outer, parts, inner), factor.dtype)
            tickets = self.tickets(outer * tiles)
        launch = kernel("reduction", "sum_parts", x.dtype.name)
        sizes = (reduced, inner, np.int32(across), np.int32(parts), each)
        launch((outer * parts * tiles,), (THREADS,), (x, *sizes, factor, partial, tickets, out))
        return out


class _Plan(NamedTuple):
    order: tuple[int, ...]  # of the axes, where they have to be moved
    sizes: tuple[int, int, int]  # outer, reduced, inner
    shape: Shape  # of the result


@lru_cache(maxsize=4096)
def _plan(shape: Shape, axes: tuple[int, ...], keepdims: bool) -> _Plan:
    kept = [axis for axis in range(len(shape)) if axis not in axes]
    if keepdims:
        result = tuple(1 if axis in axes else n for axis, n in enumerate(shape))
    else:
        result = tuple(shape[axis] for axis in kept)
    first = min(axes, default=0)
    order: tuple[int, ...] = ()
    if list(axes) != list(range(first, first + len(axes))):
        order, first = (*kept, *axes), len(kept)
        shape = tuple(shape[axis] for axis in order)
    last = first + len(axes)
    sizes = (
        math.prod(shape[:first]),
        math.prod(shape[first:last]),
        math.prod(shape[last:]),
    )
    return _Plan(order, sizes, result)
