"""Batch normalisation on the CPU: chunks that stay in the cache, on several threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tinynn.backend.base import Array, Backend
from tinynn.backend.cpu import runs
from tinynn.backend.cpu.buffers import buffer
from tinynn.backend.cpu.threads import parallel, single_threaded_blas

_CHUNK = 1 << 17  # elements; four times as many where threads share the work
_FOR_THREADS = 1 << 21  # elements that are worth several threads
_WIDTH = 512  # elements of the rows that are added up at once
_FAR = 4.0  # a squared mean of so many variances costs no more than a digit


class Normalisation(Backend):
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
        out = runs.empty(x.shape, x.dtype)
        flat, results = x.reshape(-1), out.reshape(-1)
        shift = -average * scale if bias is None else bias - average * scale
        factors, shifts = (runs.long_row(values, x.dtype) for values in (scale, shift))

        def work(part: slice) -> None:
            result = results[part]
            runs.spread(np.multiply, flat[part], factors, result)
            runs.spread(np.add, result, shifts, result)
            if relu:
                runs.relu(result, result)

        _over(x, work, _chunks(x))
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
        channels = x.shape[-1]
        root = (variance + eps) ** -0.5
        flat, passed = x.reshape(-1), grad.reshape(-1)
        centre = average if _is_far(average, variance) else np.zeros_like(average)
        centres = runs.long_row(centre, x.dtype) if centre.any() else None
        chunks = _chunks(x)
        totals = np.empty((len(chunks), 2, channels), dtype=x.dtype)
        result = runs.empty(x.shape, x.dtype)
        results = result.reshape(-1)
        kept = None if out is None else np.ascontiguousarray(out).reshape(-1)
        arriving = passed if kept is None else results

        def add(number: int) -> None:
            part = chunks[number]
            if kept is not None:
                np.multiply(passed[part], kept[part] > 0, out=arriving[part])
            totals[number, 0] = _sums(arriving[part], channels)
            seen = _centred(flat[part], centres)
            totals[number, 1] = _sums_of_products(arriving[part], seen, channels)

        _over(x, add, range(len(chunks)))
        total, slope = totals.sum(axis=0)
        slope -= (average - centre) * total
        slope *= root
        count = x.size // channels
        # factor · (grad - mean(grad) - (x - average) · tilt), with what x is multiplied by as one
        factor = root if weight is None else root * weight
        tilt = slope * root / count
        shift = ((average - centre) * tilt - total / count) * factor
        rows = [runs.long_row(values, x.dtype) for values in (factor, -tilt * factor, shift)]

        def work(part: slice) -> None:
            arrived = results[part]
            tilted = buffer("tilted", arrived.shape, x.dtype)
            runs.spread(np.multiply, arriving[part], rows[0], arrived)
            runs.spread(np.multiply, _centred(flat[part], centres), rows[1], tilted)
            np.add(arrived, tilted, out=arrived)
            runs.spread(np.add, arrived, rows[2], arrived)

        _over(x, work, chunks)
        return result, slope, total


def _is_chunkable(x: Array) -> bool:
    return bool(x.dtype.itemsize > 2 and x.flags.c_contiguous and x.size)


def _chunks(x: Array) -> list[slice]:
    """Runs of whole pixels in the flat array."""
    size = _CHUNK if x.size < _FOR_THREADS else 4 * _CHUNK
    step = max(1, size // x.shape[-1]) * x.shape[-1]
    return [slice(start, start + step) for start in range(0, x.size, step)]


def _over(x: Array, work: Callable[[Any], object], items: Sequence[Any]) -> None:
    """On several threads where x is large: they share the bandwidth of the memory, and wait for
    each other's Python between two operations.
    """
    if x.size >= _FOR_THREADS:
        parallel(work, items)
        return
    with single_threaded_blas():
        for item in items:
            work(item)


def _is_far(average: Array, variance: Array) -> bool:
    """Whether means are so large that sums of squares would lose the digits of the variance."""
    return bool((average * average > _FAR * variance).any())


def _centred(part: Array, centres: Array | None) -> Array:
    if centres is None:
        return part
    out = buffer("full", part.shape, part.dtype)
    runs.spread(np.subtract, part, centres, out)
    return out


def _sums(part: Array, channels: int) -> Any:
    """Σ x by channel."""
    pixels = part.reshape(-1, channels)
    return np.ones(len(pixels), dtype=part.dtype) @ pixels


def _sums_of_products(a: Array, b: Array, channels: int) -> Any:
    """Σ a · b by channel, in one pass that writes nothing."""
    width = channels * max(1, _WIDTH // channels)
    whole = a.size // width * width
    wide = np.einsum("ij,ij->j", a[:whole].reshape(-1, width), b[:whole].reshape(-1, width))
    rest = np.einsum("ij,ij->j", a[whole:].reshape(-1, channels), b[whole:].reshape(-1, channels))
    return wide.reshape(-1, channels).sum(axis=0, dtype=np.float64) + rest


def _moments(x: Array) -> tuple[Any, Any]:
    """Mean and variance of each channel; those of the chunks are put together.

    Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample
    variances" (1979). Sums of squares are enough unless means are large beside the variance: then
    a second look sums the squares of what is left without the mean.
    """
    average, variance = _moments_about(x, None)
    if _is_far(average, variance):
        centre = average.astype(x.dtype)
        rest, variance = _moments_about(x, centre)
        average = centre + rest
    return average.astype(x.dtype), variance.astype(x.dtype)


def _moments_about(x: Array, centre: Array | None) -> tuple[Any, Any]:
    """Mean and variance of x less ``centre``."""
    channels = x.shape[-1]
    flat, chunks = x.reshape(-1), _chunks(x)
    centres = None if centre is None else runs.long_row(centre, x.dtype)
    means = np.empty((len(chunks), channels), dtype=np.float64)
    squares = np.empty_like(means)
    counts = np.empty((len(chunks), 1), dtype=np.float64)

    def work(number: int) -> None:
        part = _centred(flat[chunks[number]], centres)
        counts[number] = count = part.size // channels
        means[number] = mean = _sums(part, channels) / count
        squares[number] = _sums_of_products(part, part, channels) - count * mean * mean

    _over(x, work, range(len(chunks)))
    count = counts.sum()
    average = (means * counts).sum(axis=0) / count
    variance = (squares + counts * (means - average) ** 2).sum(axis=0) / count
    return average, np.maximum(variance, 0)
