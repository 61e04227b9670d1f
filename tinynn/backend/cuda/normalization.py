"""Normalization on a GPU: two launches over the batch, one over whole rows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinynn.backend.cuda.launch import (
    THREADS,
    CudaKernels,
    accumulate,
    blocks_for,
    kernel,
    scalar,
)
from tinynn.backend.reference import Array

_BLOCKS_EACH = 4  # blocks for each multiprocessor
_LEAST = 1024  # elements of a part that is worth a block


class Normalization(CudaKernels):
    """Means and variances are made in float32 for float16, by Welford's and Chan's formulas."""

    def batch_norm(
        self,
        x: Array,
        weight: Array | None,
        bias: Array | None,
        running: tuple[Array, Array] | None,
        momentum: float,
        eps: float,
        relu: bool = False,
    ) -> tuple[Array, Array, Array]:
        """Statistics and running statistics in one launch, the rest in another."""
        x, weight, bias = (a if a is None else self.contiguous(a) for a in (x, weight, bias))
        channels = x.shape[-1]
        average, variance = (self.xp.empty(channels, accumulate(x)) for _ in range(2))
        grid, split = self._split(x)
        partial = self.xp.empty((grid[0], channels, 3), average.dtype)
        places = (partial, self.tickets(grid[1]), average, variance, *(running or (0, 0)))
        launch = kernel("normalization", "batch_statistics", x.dtype.name)
        launch(grid, (THREADS,), (x, *split, scalar(momentum, x), *places))
        out = self.xp.empty_like(x)
        launch = kernel("normalization", "batch_normalize", x.dtype.name)
        numbers = (x.size, np.int32(channels), average, variance, scalar(eps, x))
        arguments = (x, *numbers, _given(weight), _given(bias), out)
        launch(blocks_for(x.size), (THREADS,), arguments)
        return self.relu(out) if relu else out, average, variance

    def batch_norm_gradient(
        self,
        grad: Array,
        x: Array,
        weight: Array | None,
        average: Array,
        variance: Array,
        eps: float,
        out: Array | None = None,
    ) -> tuple[Array, Array, Array]:
        """Both sums in one launch, the gradient of x in another."""
        if out is not None:
            grad = self.relu_gradient(grad, out)
        grad, x, weight = (a if a is None else self.contiguous(a) for a in (grad, x, weight))
        channels = x.shape[-1]
        grid, split = self._split(x)
        partial = self.xp.empty((grid[0], 2, channels), average.dtype)
        sums = self.xp.empty((2, channels), average.dtype)
        weight_grad, bias_grad = (self.xp.empty(channels, x.dtype) for _ in range(2))
        moments = (average, variance, scalar(eps, x))
        launch = kernel("normalization", "batch_sums", x.dtype.name)
        places = (partial, self.tickets(grid[1]), sums, weight_grad, bias_grad)
        launch(grid, (THREADS,), (grad, x, *split, *moments, *places))
        result = self.xp.empty_like(x)
        launch = kernel("normalization", "batch_gradient", x.dtype.name)
        arguments = (grad, x, split[0], split[1], *moments, _given(weight), sums, result)
        launch(blocks_for(x.size), (THREADS,), arguments)
        return result, weight_grad, bias_grad

    def normalize(self, x: Array, axes: tuple[int, ...], eps: float) -> tuple[Array, Array, Array]:
        """One launch where the axes are the last ones."""
        if not _are_last(x, axes):
            return super().normalize(x, axes, eps)
        x = self.contiguous(x)
        kept = x.shape[: axes[0]]
        average, variance = (self.xp.empty(kept + (1,) * len(axes), accumulate(x)) for _ in "mv")
        out = self.xp.empty_like(x)
        if x.size:
            rows = math.prod(kept)
            launch = kernel("normalization", "normalize_rows", x.dtype.name)
            numbers = (rows, x.size // rows, scalar(eps, x))
            launch(blocks_for(rows, 1), (THREADS,), (x, *numbers, out, average, variance))
        return out, average, variance

    def normalize_gradient(
        self, grad: Array, out: Array, variance: Array, axes: tuple[int, ...], eps: float
    ) -> Array:
        """One launch where the axes are the last ones."""
        if not _are_last(grad, axes):
            return super().normalize_gradient(grad, out, variance, axes, eps)
        grad, out = self.contiguous(grad), self.contiguous(out)
        result = self.xp.empty_like(grad)
        if grad.size:
            rows = math.prod(grad.shape[: axes[0]])
            launch = kernel("normalization", "normalize_rows_gradient", grad.dtype.name)
            numbers = (rows, grad.size // rows, scalar(eps, grad))
            launch(blocks_for(rows, 1), (THREADS,), (grad, out, variance, *numbers, result))
        return result

    def _split(self, x: Array) -> tuple[tuple[int, int], tuple[Any, ...]]:
        """The grid over parts of the rows and tiles of channels; rows, channels, across, each."""
        channels = x.shape[-1]
        rows = x.size // channels
        across = min(32, 1 << (channels - 1).bit_length())
        tiles = -(-channels // across)
        most = _BLOCKS_EACH * self.multiprocessors // tiles
        each = -(-rows // max(1, min(most, rows * across // _LEAST)))
        return (-(-rows // each), tiles), (rows, np.int32(channels), np.int32(across), each)


def _given(array: Array | None) -> Any:
    """The array, or a null pointer."""
    return 0 if array is None else array


def _are_last(x: Array, axes: tuple[int, ...]) -> bool:
    return bool(axes) and axes == tuple(range(axes[0], x.ndim))
