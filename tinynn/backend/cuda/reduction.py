"""Sums and means on a GPU: one launch, long sums in float64, the same bits in every run."""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from tinynn.backend.cuda.device import CudaDevice
from tinynn.backend.cuda.launch import KernelFile
from tinynn.backend.cuda.tuning import SHORT_REDUCTION
from tinynn.backend.reference import Array, Backend

Shape = tuple[int, ...]
_kernels = KernelFile("reduction")


def sum(backend: CudaDevice, x: Array, axes: tuple[int, ...], keepdims: bool = False) -> Array:
    """The sum over some axes; integers are left to CuPy."""
    if x.dtype.kind != "f":
        return Backend.sum(backend, x, axes, keepdims)
    return _scaled_sum(backend, x, axes, keepdims, 1)


def mean(backend: CudaDevice, x: Array, axes: tuple[int, ...], keepdims: bool = False) -> Array:
    """The mean over some axes."""
    scale = 1 / math.prod(x.shape[axis] for axis in axes)
    return _scaled_sum(backend, x, axes, keepdims, scale)


def _scaled_sum(
    backend: CudaDevice, x: Array, axes: tuple[int, ...], keepdims: bool, scale: float
) -> Array:
    plan = _plan(x.shape, axes, keepdims)
    if plan.order:
        x = x.transpose(plan.order)
    x = backend.contiguous(x)
    outer, reduced, inner = plan.sizes
    out = backend.xp.empty(plan.shape, x.dtype)
    if not out.size:
        return out
    factor = np.float64(scale)
    if reduced <= SHORT_REDUCTION:
        arguments = (x, reduced, inner, out.size, factor, out)
        _kernels.for_each("sum_short", x.dtype, out.size, *arguments)
        return out
    split = backend.split(reduced, inner, outer)
    partial, tickets = out, out  # unused by a single part
    if split.parts > 1:
        partial = backend.xp.empty((outer, split.parts, inner), np.float64)
        tickets = backend.tickets(outer * split.tiles)
    sizes = (reduced, inner, np.int32(split.lanes), np.int32(split.parts), split.each)
    grid = (outer * split.parts * split.tiles,)
    _kernels.launch("sum_parts", x.dtype, grid, x, *sizes, factor, partial, tickets, out)
    return out


class _Plan(NamedTuple):
    order: tuple[int, ...]  # the permutation that makes the axes adjacent; empty: they are
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
    sizes = (math.prod(shape[:first]), math.prod(shape[first:last]), math.prod(shape[last:]))
    return _Plan(order, sizes, result)
