"""Batch normalisation on the CPU: chunks that stay in the cache, on several threads."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinynn.backend.base import Array, Backend
from tinynn.backend.cpu.buffers import buffer
from tinynn.backend.cpu.threads import parallel

_CHUNK = 1 << 17  # elements


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
        out = np.empty(x.shape, dtype=x.dtype)
        rows, results = _wide_rows(x), _wide_rows(out)
        shift = -average * scale if bias is None else bias - average * scale
        factor, shift = _repeated(scale, rows), _repeated(shift, rows)

        def work(part: slice) -> None:
            result = results[part]
            np.multiply(rows[part], factor, out=result)
            result += shift
            if relu:
                np.maximum(result, 0, out=result)

        parallel(work, _chunks(rows))
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
        rows, passed = _wide_rows(x), _wide_rows(grad)
        centre = _repeated(average, rows)
        chunks = _chunks(rows)
        totals = np.empty((len(chunks), 2, channels), dtype=x.dtype)
        result = np.empty(x.shape, dtype=x.dtype)
        results = _wide_rows(result)
        kept = None if out is None else _wide_rows(np.ascontiguousarray(out))
        arriving = passed if kept is None else results

        def add(number: int) -> None:
            part = chunks[number]
            if kept is not None:
                np.multiply(passed[part], kept[part] > 0, out=arriving[part])
            product = buffer("full", rows[part].shape, x.dtype)
            np.subtract(rows[part], centre, out=product)
            product *= arriving[part]
            totals[number, 0] = _sum_rows(arriving[part], channels)
            totals[number, 1] = _sum_rows(product, channels)

        parallel(add, range(len(chunks)))
        total, slope = totals.sum(axis=0)
        slope *= root
        count = x.size // channels
        mean = _repeated(total / count, rows)
        tilt = _repeated(slope * root / count, rows)
        factor = _repeated(root if weight is None else root * weight, rows)

        def work(part: slice) -> None:
            tilted = buffer("full", rows[part].shape, x.dtype)
            np.subtract(rows[part], centre, out=tilted)
            tilted *= tilt
            tilted += mean
            np.subtract(arriving[part], tilted, out=tilted)
            np.multiply(tilted, factor, out=results[part])

        parallel(work, chunks)
        return result, slope, total


def _is_chunkable(x: Array) -> bool:
    return bool(x.dtype.itemsize > 2 and x.flags.c_contiguous and x.size)


def _wide_rows(x: Array) -> Array:
    """x (..., C) as rows of several pixels: long runs for elementwise operations."""
    return x.reshape(-1, x.shape[-1] * _pixels(x))


def _pixels(x: Array) -> int:
    """How many pixels make a row: a whole image's row if there is one."""
    return int(x.shape[-2]) if x.ndim > 2 else 1


def _repeated(values: Array, rows: Array) -> Array:
    return np.tile(values.astype(rows.dtype, copy=False), rows.shape[1] // len(values))


def _chunks(rows: Array) -> list[slice]:
    step = max(1, _CHUNK // rows.shape[1])
    return [slice(start, start + step) for start in range(0, len(rows), step)]


def _sum_rows(rows: Array, channels: int) -> Array:
    pixels = rows.reshape(-1, channels)
    return np.ones(len(pixels), dtype=rows.dtype) @ pixels


def _moments(x: Array) -> tuple[Any, Any]:
    """Mean and variance of each channel; those of the chunks are put together.

    Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample
    variances" (1979).
    """
    channels = x.shape[-1]
    rows = _wide_rows(x)
    chunks = _chunks(rows)
    means = np.empty((len(chunks), channels), dtype=np.float64)
    squares = np.empty_like(means)
    counts = np.empty((len(chunks), 1), dtype=np.float64)

    def work(number: int) -> None:
        part = rows[chunks[number]]
        counts[number] = part.size // channels
        mean = _sum_rows(part, channels) / (part.size // channels)
        centred = buffer("full", part.shape, x.dtype)
        np.subtract(part, _repeated(mean, part), out=centred)
        centred *= centred
        means[number], squares[number] = mean, _sum_rows(centred, channels)

    parallel(work, range(len(chunks)))
    count = counts.sum()
    average = (means * counts).sum(axis=0) / count
    variance = (squares + counts * (means - average) ** 2).sum(axis=0) / count
    return average.astype(x.dtype), variance.astype(x.dtype)
