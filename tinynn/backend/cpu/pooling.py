"""Pooling, a few images at a time on several threads.

Max pooling with 2×2 windows and stride 2 is done in two halvings. The pixels are first copied into
four planes, by the parity of their row and column. Then one comparison of whole planes reduces the
columns, and one the rows: long contiguous arrays, instead of a strided pass for each tap.
"""

from __future__ import annotations

import numpy as np

from tinynn.backend.cpu import tuning
from tinynn.backend.cpu.buffers import buffer
from tinynn.backend.cpu.threads import parallel
from tinynn.backend.reference import Array, Backend
from tinynn.backend.window import Window


def max_pool2d(backend: Backend, x: Array, window: Window) -> tuple[Array, Array]:
    """By halving for 2×2 windows, else the reference on chunks of images."""
    out_h, out_w = window.output_size(*x.shape[1:3])
    halving = is_halving(window)
    best = np.empty((x.shape[0], out_h, out_w, x.shape[3]), dtype=x.dtype)
    winner = np.empty(best.shape, dtype=np.int8 if halving else np.int16)

    def pool(images: slice) -> None:
        if halving:
            padded = backend.pad_image(x[images], window, -np.inf)[:, : 2 * out_h, : 2 * out_w]
            planes = buffer("planes", (2, 2, *best[images].shape), x.dtype)
            for i, j in np.ndindex(2, 2):
                np.copyto(planes[i, j], padded[:, i::2, j::2])
            pool_planes(planes, best[images], winner[images])
        else:
            best[images], winner[images] = Backend.max_pool2d(backend, x[images], window)

    parallel(pool, _image_chunks(x))
    return best, winner


def max_pool2d_scatter(
    backend: Backend, values: Array, winner: Array, window: Window, shape: tuple[int, ...]
) -> Array:
    """By assignment where each pixel lies in one window, else the reference on chunks."""
    out = np.empty(shape, dtype=values.dtype)
    # each pixel is in exactly one window, so that there is nothing to add up
    partition = is_halving(window) and _partitions(window, shape)

    def scatter(images: slice) -> None:
        if partition:
            plane = buffer("planes", values[images].shape, values.dtype)
            for i, j, rows, columns in window.taps(*values.shape[1:3]):
                np.multiply(values[images], winner[images] == 2 * i + j, out=plane)
                np.copyto(out[images, rows, columns], plane)
        else:
            part = (len(out[images]), *shape[1:])
            out[images] = Backend.max_pool2d_scatter(
                backend, values[images], winner[images], window, part
            )

    parallel(scatter, _image_chunks(out))
    return out


def sum_pool2d(backend: Backend, x: Array, window: Window) -> Array:
    """A reshape and a sum where the windows partition the image."""
    rows, columns = window.output_size(*x.shape[1:3])
    if not _partitions(window, x.shape):
        return Backend.sum_pool2d(backend, x, window)
    (kh, kw), (images, _, _, channels) = window.kernel, x.shape
    return backend.sum(x.reshape(images, rows, kh, columns, kw, channels), (2, 4))


def sum_pool2d_adjoint(
    backend: Backend, grad: Array, window: Window, shape: tuple[int, ...]
) -> Array:
    """One broadcast copy where the windows partition the image."""
    if not _partitions(window, shape):
        return Backend.sum_pool2d_adjoint(backend, grad, window, shape)
    (kh, kw), (images, rows, columns, channels) = window.kernel, grad.shape
    out = np.empty((images, rows, kh, columns, kw, channels), dtype=grad.dtype)
    out[...] = grad[:, :, None, :, None]
    return out.reshape(shape)


def is_halving(window: Window) -> bool:
    """Whether the windows are 2×2 pixels side by side."""
    return window.kernel == window.stride == (2, 2) and window.dilation == (1, 1)


def pool_planes(planes: Array, best: Array, winner: Array | None) -> None:
    """Max-pool planes (2, 2, ...) of even and odd rows, then even and odd columns.

    Columns are compared before rows, so that the first of equal values wins. The planes are
    overwritten. ``winner`` gets the number 2·row + column of the maximum; None leaves it out.
    """
    if winner is None:
        np.maximum(planes[0], planes[1], out=planes[0])
        np.maximum(planes[0, 0], planes[0, 1], out=best)
        return
    by_row = buffer("by row", (2, *best.shape), best.dtype)
    flags = buffer("flags", (3, *best.shape), np.dtype(np.bool_))
    np.maximum(planes[:, 0], planes[:, 1], out=by_row)
    np.greater(planes[:, 1], planes[:, 0], out=flags[:2])
    np.maximum(by_row[0], by_row[1], out=best)
    np.greater(by_row[1], by_row[0], out=flags[2])
    # winner = lower ? 2 + below : above, without a branch: above + lower · (below + 2 - above)
    above, below, lower = flags.view(np.int8)
    np.subtract(below, above, out=winner)
    np.add(winner, np.int8(2), out=winner)
    np.multiply(winner, lower, out=winner)
    np.add(winner, above, out=winner)


def _partitions(window: Window, shape: tuple[int, ...]) -> bool:
    """Whether windows side by side cover the image and nothing else."""
    fits = shape[1] % window.kernel[0] == shape[2] % window.kernel[1] == 0
    dense = window.stride == window.kernel and window.dilation == (1, 1)
    return fits and dense and not any(map(any, window.padding))


def _image_chunks(x: Array) -> list[slice]:
    """Slices of a batch with about ``tuning.CHUNK`` elements each."""
    step = max(1, tuning.CHUNK // max(1, x[0].size)) if x.shape[0] else 1
    return [slice(start, start + step) for start in range(0, x.shape[0], step)]
