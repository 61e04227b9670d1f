"""Batch normalization on the CPU: chunks that stay in the cache, on several threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tinynn.backend.cpu import elementwise
from tinynn.backend.cpu.buffers import buffer
from tinynn.backend.cpu.threads import parallel, single_threaded_blas
from tinynn.backend.reference import Array, Backend

_CHUNK = 1 << 18  # numbers
_FOR_THREADS = 1 << 19  # numbers that are worth several threads
_WIDTH = 512  # elements of the rows that are added up at once
_FAR = 4.0  # a squared mean of so many variances costs no more than a digit


class Normalization(Backend):
    """Each image is read twice, once for the statistics and once for the result."""

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
        if not _is_chunkable(x):
            return super().batch_norm(x, weight, bias, running, momentum, eps, relu)
        average, variance = _moments(x)
        self._follow(running, average, variance, momentum, x.size // x.shape[-1])
        scale = (variance + eps) ** -0.5
        if weight is not None:
            scale = scale * weight
        out = elementwise.empty(x.shape, x.dtype)
        shift = -average * scale if bias is None else bias - average * scale
        factors, shifts = (
            elementwise.long_row(values, x.dtype, x.size) for values in (scale, shift)
        )
        zeros = elementwise.zeros(factors.size, x.dtype)

        def work(part: tuple[Array, ...]) -> None:
            seen, result = part
            width = seen.shape[1]
            np.multiply(seen, factors[:width], out=result)
            np.add(result, shifts[:width], out=result)
            if relu:
                np.maximum(result, zeros[:width], out=result)

        _over(x, work, elementwise.chunks(_CHUNK, factors.size, x, out))
        return out, average, variance

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
        if not _is_chunkable(x) or not grad.flags.c_contiguous:
            return super().batch_norm_gradient(grad, x, weight, average, variance, eps, out)
        count = x.size // x.shape[-1]
        root = (variance + eps) ** -0.5
        center = average if _is_far(average, variance) else None
        result = elementwise.empty(x.shape, x.dtype)
        kept = None if out is None else np.ascontiguousarray(out)
        arriving = grad if kept is None else result
        sums = _Sums(x, center, arriving, *(() if kept is None else (grad, kept)))

        def add(number: int) -> None:
            if kept is not None:
                _, arrived, passed, active = sums.parts[number]
                np.multiply(passed, active > 0, out=arrived)
            sums.add(number, 1)

        _over(x, add, range(len(sums.parts)))
        total, slope = sums.totals.sum(axis=0).astype(x.dtype)
        rest = average if center is None else average - center
        slope = (slope - rest * total) * root
        # factor · (grad - mean(grad) - (x - average) · tilt), with what x is multiplied by as one
        factor = root if weight is None else root * weight
        tilt = slope * root / count
        shift = (rest * tilt - total / count) * factor
        rows = [
            elementwise.long_row(values, x.dtype, x.size)
            for values in (factor, -tilt * factor, shift)
        ]

        def work(part: tuple[Array, ...]) -> None:
            seen, given, arrived = part
            factors, tilts, shifts = (row[: seen.shape[1]] for row in rows)
            tilted = buffer("tilted", seen.shape, x.dtype)
            np.multiply(sums.centered(seen), tilts, out=tilted)
            np.multiply(given, factors, out=arrived)
            np.add(arrived, tilted, out=arrived)
            np.add(arrived, shifts, out=arrived)

        _over(x, work, elementwise.chunks(_CHUNK, rows[0].size, x, arriving, result))
        return result, slope, total


class _Sums:
    """Sums by channel of arrays and of products of arrays, taken in one pass that writes nothing.

    The numbers of each chunk are added up in rows of some hundred, the chunks in float64.
    """

    def __init__(self, x: Array, center: Array | None, *others: Array) -> None:
        self.channels = x.shape[-1]
        width = self.channels * max(1, _WIDTH // self.channels)
        self.parts = elementwise.chunks(_CHUNK, width, x, *others)
        self.totals = np.empty((len(self.parts), 2, self.channels), dtype=np.float64)
        self.centers = None if center is None else elementwise.long_row(center, x.dtype)
        self.ones = np.ones(max(len(part[0]) for part in self.parts), x.dtype)

    def centered(self, part: Array) -> Array:
        """A part of x less the center."""
        if self.centers is None:
            return part
        width = part.shape[1]
        return np.subtract(part, self.centers[:width], out=buffer("full", part.shape, part.dtype))

    def add(self, number: int, place: int) -> None:
        """Σ a and Σ a · x over a chunk, of the array a in this place; x is without its center."""
        x = self.centered(self.parts[number][0])
        a = x if place == 0 else self.parts[number][place]
        both = np.empty((2, a.shape[1]), a.dtype)
        np.matmul(self.ones[: len(a)], a, out=both[0])
        np.einsum("ij,ij->j", a, x, out=both[1])
        both.reshape(2, -1, self.channels).sum(axis=1, out=self.totals[number])


def _is_chunkable(x: Array) -> bool:
    return bool(x.dtype.itemsize > 2 and x.flags.c_contiguous and x.size)


def _over(x: Array, work: Callable[[Any], object], items: Sequence[Any]) -> None:
    """On several threads where x is large: to wake them costs as much as a small x."""
    if x.size >= _FOR_THREADS:
        parallel(work, items)
        return
    with single_threaded_blas():
        for item in items:
            work(item)


def _is_far(average: Array, variance: Array) -> bool:
    """Whether means are so large that sums of squares would lose the digits of the variance."""
    return bool((average * average > _FAR * variance).any())


def _moments(x: Array) -> tuple[Any, Any]:
    """Mean and variance of each channel.

    Sums of squares are enough unless means are large beside the variance: then a second look sums
    the squares of what is left without the mean.
    """
    average, variance = _moments_about(x, None)
    if _is_far(average, variance):
        center = average.astype(x.dtype)
        rest, variance = _moments_about(x, center)
        average = center + rest
    return average.astype(x.dtype), variance.astype(x.dtype)


def _moments_about(x: Array, center: Array | None) -> tuple[Any, Any]:
    """Mean and variance of x less ``center``."""
    sums = _Sums(x, center)
    _over(x, lambda number: sums.add(number, 0), range(len(sums.parts)))
    average, square = sums.totals.sum(axis=0) * (sums.channels / x.size)
    return average, np.maximum(square - average * average, 0)
