"""Depthwise and other thin convolutions, whose groups have too few channels for matrix products.

Each tap of the kernel is an elementwise product of the shifted image with one value per channel:

    out[n, y, x, c] += padded[n, y·stride + i, x·stride + j, c] · weight[i, j, 0, c]

With more than one channel or output in a group, every pair of them is one such pass over all
groups at once. A tile of an image stays in the cache for all taps.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tinynn.backend.cpu.buffers import buffer
from tinynn.backend.cpu.reduction import column_sums, sums
from tinynn.backend.cpu.threads import parallel
from tinynn.backend.cpu.tiles import Tile, cut_tiles, overlap
from tinynn.backend.reference import Array, Backend
from tinynn.backend.window import Window


def conv2d(x: Array, weight: Array, window: Window, out: Array) -> None:
    """out = the convolution, without a bias."""
    width = out.shape[2]

    def work(tile: Tile) -> None:
        padded = _pad_tile(x, window, width, tile)
        part = out[tile.images, tile.rows]
        part[...] = 0  # after the padding, so that the first tap finds it in the cache
        for image, result, term, tap in _terms(padded, part, weight, window):
            np.multiply(image, tap, out=term)
            result += term

    row_bytes = width * (2 * out.shape[3] + x.shape[3]) * out.itemsize
    parallel(work, cut_tiles(len(out), out.shape[1], row_bytes))


def input_gradient(
    backend: Backend, grad: Array, weight: Array, window: Window, out: Array
) -> None:
    """out = the gradient of the image."""
    (top, bottom), (left, right) = window.padding
    shape = (1, out.shape[1] + top + bottom, out.shape[2] + left + right, out.shape[3])
    unpadding = window._replace(padding=((-top, -bottom), (-left, -right)))

    def work(n: int) -> None:
        padded = buffer("padded", shape, out.dtype)
        padded[...] = 0
        upstream = grad[n : n + 1]
        for image, gradient, term, tap in _terms(padded, upstream, weight, window):
            np.multiply(gradient, tap, out=term)
            image += term
        out[n] = backend.pad_image(padded, unpadding)[0]

    parallel(work, range(len(out)))


def weight_gradient(x: Array, grad: Array, window: Window, out: Array) -> None:
    """out = the gradient of the weight, summed over the images in their order."""
    rows, width = grad.shape[1:3]
    partial = np.zeros((len(x), *out.shape), dtype=out.dtype)

    def work(n: int) -> None:
        padded = _pad_tile(x, window, width, Tile(slice(n, n + 1), slice(0, rows)))
        upstream = grad[n : n + 1]
        for image, gradient, term, tap in _terms(padded, upstream, partial[n], window):
            np.multiply(image, gradient, out=term)
            tap[...] = column_sums(term.reshape(-1, term.shape[3]))

    parallel(work, range(len(x)))
    out[...] = sums(partial, (0,))[0]


def _terms(
    padded: Array, out: Array, weight: Array, window: Window
) -> Iterator[tuple[Array, Array, Array, Array]]:
    """Views for each tap, and each pair of an input and an output channel of a group.

    Yields:
        The shifted image, the output, a scratch buffer of its shape, and the tap (groups,).
    """
    channels, outputs = weight.shape[2], weight.shape[3] // window.groups
    for a, b in np.ndindex(channels, outputs):
        image, result = padded[..., a::channels], out[..., b::outputs]
        term = buffer("term", result.shape, out.dtype)
        for i, j, rows, columns in window.taps(*out.shape[1:3]):
            yield image[:, rows, columns], result, term, weight[i, j, a, b::outputs]


def _pad_tile(x: Array, window: Window, width: int, tile: Tile) -> Array:
    """The part of the padded image that the tile's windows read."""
    top, left = window.padding[0][0], window.padding[1][0]
    first = tile.rows.start * window.stride[0] - top
    height = (tile.rows.stop - tile.rows.start - 1) * window.stride[0] + window.extent[0]
    across = (width - 1) * window.stride[1] + window.extent[1]
    rows, down = overlap(first, height, x.shape[1])
    columns, along = overlap(-left, across, x.shape[2])
    part = x[tile.images, down, along]
    if part.shape[1:3] == (height, across):
        return part
    padded = buffer("padded", (part.shape[0], height, across, x.shape[3]), x.dtype)
    padded[:, : rows.start] = 0
    padded[:, rows.stop :] = 0
    padded[:, :, : columns.start] = 0
    padded[:, :, columns.stop :] = 0
    padded[:, rows, columns] = part
    return padded
