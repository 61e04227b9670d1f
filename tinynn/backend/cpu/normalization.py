"""Batch normalization with two passes over the input: one for the sums, one for the result.

The statistics come from Σx and Σx², taken together for each chunk while it is in the cache, as a
matrix product with ones and an ``einsum`` that writes nothing. E[x²] - E[x]² cancels where the mean
is large relative to the standard deviation; then a second pass sums x - mean instead. Chunks are
added up in float64.

The result is one multiply-add per element: x · scale + shift with scale = weight / √(var + eps) and
shift = bias - mean · scale. Backward, with r = 1 / √(var + eps) and y = (x - mean) · r,

    x.grad = r · weight · (g - mean(g) - y · mean(g · y))
           = g · factor + x · tilt + shift        (one constant of each kind for each channel)

Ioffe and Szegedy, "Batch normalization" (2015).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinynn.backend.cpu import elementwise, tuning
from tinynn.backend.cpu.buffers import buffer
from tinynn.backend.cpu.threads import parallel
from tinynn.backend.reference import Array, Backend, BatchNorm, Normalized


def batch_norm(backend: Backend, x: Array, norm: BatchNorm) -> Normalized:
    """In chunks, with the ReLU applied while a chunk is in the cache."""
    if not _is_chunkable(x):
        return Backend.batch_norm(backend, x, norm)
    average, variance = _moments(x)
    norm.update_running(average, variance, x.size // x.shape[-1])
    center = average.astype(x.dtype) if _is_far(average, variance, tuning.NORM_CENTER) else None
    rest = average if center is None else average - center
    scale = (variance + norm.eps) ** -0.5
    if norm.weight is not None:
        scale = scale * norm.weight
    shift = -rest * scale if norm.bias is None else norm.bias - rest * scale
    out = elementwise.empty(x.shape, x.dtype)
    scales, shifts = (elementwise.repeat_row(v, x.dtype, x.size) for v in (scale, shift))
    zeros, centers = elementwise.zeros(scales.size, x.dtype), _repeated(center, x)

    def work(chunk: tuple[Array, ...]) -> None:
        source, result = chunk
        width = source.shape[1]
        np.multiply(_centered(source, centers), scales[:width], out=result)
        np.add(result, shifts[:width], out=result)
        if norm.relu:
            np.maximum(result, zeros[:width], out=result)

    parallel(work, elementwise.split_rows(tuning.CHUNK, scales.size, x, out), _pays(x))
    return Normalized(out, average, variance)


def batch_norm_gradient(
    backend: Backend, grad: Array, x: Array, norm: BatchNorm, saved: Normalized
) -> tuple[Array, Array, Array]:
    """In chunks: one pass for Σg and Σg·y, one for the gradient of x."""
    if not _is_chunkable(x):
        return Backend.batch_norm_gradient(backend, grad, x, norm, saved)
    grad, (_, average, variance) = np.ascontiguousarray(grad), saved
    count = x.size // x.shape[-1]
    root = (variance + norm.eps) ** -0.5
    center = average.astype(x.dtype) if _is_far(average, variance, tuning.NORM_FAR) else None
    result = elementwise.empty(x.shape, x.dtype)
    # with a ReLU, ``result`` first holds the gradient behind it
    relu = (np.ascontiguousarray(saved.out), result) if norm.relu else ()
    total, slope = _sums(x, center, grad, *relu)
    upstream = result if norm.relu else grad
    # Σg·(x - center) to Σg·y, with y = (x - mean)·r; rest is the part of the mean that is left
    rest = average if center is None else average - center
    slope = (slope - rest * total) * root
    factor = root if norm.weight is None else root * norm.weight
    tilt = slope * root / count
    shift = (rest * tilt - total / count) * factor
    rows = [elementwise.repeat_row(v, x.dtype, x.size) for v in (factor, -tilt * factor, shift)]
    centers = _repeated(center, x)

    def work(chunk: tuple[Array, ...]) -> None:
        source, given, target = chunk
        factors, tilts, shifts = (row[: source.shape[1]] for row in rows)
        tilted = buffer("tilted", source.shape, x.dtype)
        np.multiply(_centered(source, centers), tilts, out=tilted)
        np.multiply(given, factors, out=target)
        np.add(target, tilted, out=target)
        np.add(target, shifts, out=target)

    chunks = elementwise.split_rows(tuning.CHUNK, rows[0].size, x, upstream, result)
    parallel(work, chunks, _pays(x))
    return result, slope.astype(x.dtype), total.astype(x.dtype)


def _sums(x: Array, center: Array | None, *gradient: Array) -> Array:
    """Σa and Σa·(x - center) for each channel, in one pass that writes nothing.

    a is x - center, or ``gradient``: the upstream gradient, or (upstream gradient, output of the
    ReLU, array that receives the gradient behind it). A chunk is a matrix whose rows hold
    ``tuning.NORM_ROW`` elements or so, a whole number of pixels; its columns are summed, and then
    the columns of the same channel, in float64.
    """
    channels = x.shape[-1]
    width = channels * max(1, tuning.NORM_ROW // channels)
    chunks = elementwise.split_rows(tuning.CHUNK, width, x, *gradient)
    totals = np.empty((len(chunks), 2, channels), dtype=np.float64)
    centers = _repeated(center, x)
    ones = np.ones(max(len(chunk[0]) for chunk in chunks), x.dtype)

    def add(number: int) -> None:
        source, *given = chunks[number]
        source = _centered(source, centers)
        a = given[0] if given else source
        if len(given) > 1:
            a = np.multiply(a, given[1] > 0, out=given[2])
        both = np.empty((2, a.shape[1]), a.dtype)
        # two passes over a chunk in the cache, neither of which writes: the sum of an elementwise
        # product would need a temporary array
        np.matmul(ones[: len(a)], a, out=both[0])
        np.einsum("ij,ij->j", a, source, out=both[1])
        both.reshape(2, -1, channels).sum(axis=1, out=totals[number])

    parallel(add, range(len(chunks)), _pays(x))
    return totals.sum(axis=0)


def _repeated(center: Array | None, x: Array) -> Array | None:
    return None if center is None else elementwise.repeat_row(center, x.dtype)


def _centered(chunk: Array, centers: Array | None) -> Array:
    """A chunk of x minus the center."""
    if centers is None:
        return chunk
    out = buffer("centered", chunk.shape, chunk.dtype)
    return np.subtract(chunk, centers[: chunk.shape[1]], out=out)


def _is_chunkable(x: Array) -> bool:
    return bool(x.dtype.itemsize > 2 and x.flags.c_contiguous and x.size)


def _pays(x: Array) -> bool:
    """Whether several threads pay."""
    return bool(x.size >= tuning.NORM_PARALLEL_FROM)


def _is_far(average: Array, variance: Array, ratio: float) -> bool:
    """Whether the mean of a channel is large relative to its standard deviation."""
    return bool((average * average > ratio * variance).any())


def _moments(x: Array) -> tuple[Any, Any]:
    """Mean and variance of each channel, in float64; in two passes where the mean is large."""
    average, variance = _moments_about(x, None)
    if _is_far(average, variance, tuning.NORM_FAR):
        center = average.astype(x.dtype)
        rest, variance = _moments_about(x, center)
        average = center + rest
    return average, variance


def _moments_about(x: Array, center: Array | None) -> tuple[Any, Any]:
    """Mean and variance of x - center."""
    average, square = _sums(x, center) * (x.shape[-1] / x.size)
    return average, np.maximum(square - average * average, 0)
