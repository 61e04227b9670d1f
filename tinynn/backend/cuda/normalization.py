"""Normalization on a GPU: two launches over the batch, one over rows.

Statistics are computed in float32 for float16, with Welford's formula and sums in float64.
"""

import math
from typing import Any

import numpy as np

from tinynn.backend.cuda.device import CudaDevice
from tinynn.backend.cuda.launch import KernelFile, accumulate, blocks_for, scalar
from tinynn.backend.reference import Array, Backend, BatchNorm, Normalized

_kernels = KernelFile("normalization")


def batch_norm(backend: CudaDevice, x: Array, norm: BatchNorm) -> Normalized:
    """Statistics and running statistics in one launch, the normalized result in another."""
    x, channels = backend.contiguous(x), np.int32(x.shape[-1])
    average, variance = (backend.xp.empty(x.shape[-1], accumulate(x)) for _ in range(2))
    grid, split = _split(backend, x)
    partial = backend.xp.empty((grid[0], x.shape[-1], 2), np.float64)
    results = (average, variance, *(norm.running or (0, 0)))
    arguments = (x, *split, scalar(norm.momentum, x), partial, backend.tickets(grid[1]), *results)
    _kernels.launch("batch_statistics", x.dtype, grid, *arguments)
    out = backend.xp.empty_like(x)
    affine = (backend.pointer(norm.weight), backend.pointer(norm.bias))
    arguments = (x, x.size, channels, average, variance, scalar(norm.eps, x), *affine, out)
    _kernels.for_each("batch_normalize", x.dtype, x.size, *arguments)
    return Normalized(backend.relu(out) if norm.relu else out, average, variance)


def batch_norm_gradient(
    backend: CudaDevice, grad: Array, x: Array, norm: BatchNorm, saved: Normalized
) -> tuple[Array, Array, Array]:
    """Both sums over the batch in one launch, the gradient of x in another."""
    out, average, variance = saved
    if norm.relu:
        grad = backend.relu_gradient(grad, out)
    grad, x = backend.contiguous(grad), backend.contiguous(x)
    channels = x.shape[-1]
    grid, split = _split(backend, x)
    partial = backend.xp.empty((grid[0], channels, 2), np.float64)
    sums = backend.xp.empty((channels, 2), average.dtype)
    weight_grad, bias_grad = (backend.xp.empty(channels, x.dtype) for _ in range(2))
    statistics = (average, variance, scalar(norm.eps, x))
    results = (partial, backend.tickets(grid[1]), sums, weight_grad, bias_grad)
    _kernels.launch("batch_sums", x.dtype, grid, grad, x, *split, *statistics, *results)
    result = backend.xp.empty_like(x)
    arguments = (grad, x, *split[:2], *statistics, backend.pointer(norm.weight), sums, result)
    _kernels.for_each("batch_gradient", x.dtype, x.size, *arguments)
    return result, weight_grad, bias_grad


def normalize(backend: CudaDevice, x: Array, axes: tuple[int, ...], eps: float) -> Normalized:
    """One launch if the axes are the last ones."""
    if not _are_last(x, axes):
        return Backend.normalize(backend, x, axes, eps)
    x, kept = backend.contiguous(x), x.shape[: axes[0]]
    shape = kept + (1,) * len(axes)
    average, variance = (backend.xp.empty(shape, accumulate(x)) for _ in range(2))
    out = backend.xp.empty_like(x)
    arguments = (scalar(eps, x), out, average, variance)
    _launch_rows("normalize_rows", x, math.prod(kept), (x,), arguments)
    return Normalized(out, average, variance)


def normalize_gradient(
    backend: CudaDevice, grad: Array, out: Array, variance: Array, axes: tuple[int, ...], eps: float
) -> Array:
    """One launch if the axes are the last ones."""
    if not _are_last(grad, axes):
        return Backend.normalize_gradient(backend, grad, out, variance, axes, eps)
    grad, out = backend.contiguous(grad), backend.contiguous(out)
    result = backend.xp.empty_like(grad)
    rows, inputs = math.prod(grad.shape[: axes[0]]), (grad, out, variance)
    _launch_rows("normalize_rows_gradient", grad, rows, inputs, (scalar(eps, grad), result))
    return result


def _launch_rows(
    name: str, x: Array, rows: int, inputs: tuple[Any, ...], others: tuple[Any, ...]
) -> None:
    """A block for each row of x."""
    if x.size:
        grid = blocks_for(rows, 1)
        _kernels.launch(name, x.dtype, grid, *inputs, rows, x.size // rows, *others)


def _split(backend: CudaDevice, x: Array) -> tuple[tuple[int, int], tuple[Any, ...]]:
    """The grid (parts of the rows, tiles of channels); rows, channels, lanes, rows per part."""
    channels = x.shape[-1]
    rows = x.size // channels
    split = backend.split(rows, channels)
    sizes = (rows, np.int32(channels), np.int32(split.lanes), split.each)
    return (split.parts, split.tiles), sizes


def _are_last(x: Array, axes: tuple[int, ...]) -> bool:
    return bool(axes) and axes == tuple(range(axes[0], x.ndim))
