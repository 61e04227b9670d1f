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
from tinynn.backend.cpu.linalg import column_sums
from tinynn.backend.cpu.threads import parallel
from tinynn.backend.cpu.tiles import Tile, cut_tiles, overlap
from tinynn.backend.reference import Array
from tinynn.backend.window import Window


def conv2d(x: Array, weight: Array, window: Window, groups: int, out: Array) -> None:
    """out = the convolution, without a bias."""
    width = out.shape[2]

    def work(tile: Tile) -> None:
        padded = _pad_tile(x, window, width, tile)
        part = out[tile.images, tile.rows]
        part[...] = 0
        for source, target, taps in _pairs(weight, groups):
            image, result = padded[..., source], part[..., target]
            term = buffer("term", result.shape, x.dtype)
            for i, j, rows, columns in window.taps(*part.shape[1:3]):
                np.multiply(image[:, rows, columns], taps[i, j], out=term)
                result += term

    if out.size:
        row_bytes = width * (2 * out.shape[3] + x.shape[3]) * out.itemsize
        parallel(work, cut_tiles(len(out), out.shape[1], row_bytes))


def input_gradient(grad: Array, weight: Array, window: Window, groups: int, out: Array) -> None:
    """out = the gradient of the image."""
    (top, bottom), (left, right) = window.padding
    height, width = out.shape[1:3]
    shape = (height + top + bottom, width + left + right, out.shape[3])
    target_rows, rows_inside = overlap(top, height, shape[0])
    target_columns, columns_inside = overlap(left, width, shape[1])

    def work(n: int) -> None:
        padded = buffer("padded", shape, out.dtype)
        padded[...] = 0
        for source, target, taps in _pairs(weight, groups):
            image, upstream = padded[..., source], grad[n, ..., target]
            term = buffer("term", upstream.shape, grad.dtype)
            for i, j, rows, columns in window.taps(*grad.shape[1:3]):
                np.multiply(upstream, taps[i, j], out=term)
                image[rows, columns] += term
        out[n] = 0
        out[n, target_rows, target_columns] = padded[rows_inside, columns_inside]

    parallel(work, range(len(out)))


def weight_gradient(x: Array, grad: Array, window: Window, groups: int, out: Array) -> None:
    """out = the gradient of the weight, summed over the images in their order."""
    size = (grad.shape[1], grad.shape[2])
    partial = np.zeros((len(x), *out.shape), dtype=out.dtype)

    def work(n: int) -> None:
        padded = _pad_tile(x, window, size[1], Tile(slice(n, n + 1), slice(0, size[0])))
        for source, target, taps in _pairs(partial[n], groups):
            image, upstream = padded[..., source], grad[n : n + 1, ..., target]
            term = buffer("term", upstream.shape, grad.dtype)
            for i, j, rows, columns in window.taps(*size):
                np.multiply(image[:, rows, columns], upstream, out=term)
                taps[i, j] = column_sums(term.reshape(-1, term.shape[3]))

    parallel(work, range(len(x)))
    np.sum(partial, axis=0, out=out)


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


def _pairs(weight: Array, groups: int) -> Iterator[tuple[slice, slice, Array]]:
    """Each pair of a channel and an output of a group, for all groups: (kh, kw, groups) taps."""
    channels, outputs = weight.shape[2], weight.shape[3] // groups
    for a, b in np.ndindex(channels, outputs):
        yield slice(a, None, channels), slice(b, None, outputs), weight[:, :, a, b::outputs]
