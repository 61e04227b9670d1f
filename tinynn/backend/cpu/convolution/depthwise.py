"""Convolutions whose groups are a channel or two: too thin for matrix products.

Each tap of the kernel is one elementwise product of an image with a number for each channel.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from tinynn.backend.cpu.buffers import buffer
from tinynn.backend.cpu.threads import parallel
from tinynn.backend.cpu.tiles import Tile, cut_tiles, overlap
from tinynn.backend.reference import Array
from tinynn.backend.window import Window

_THIN = 4  # products of the channels and outputs of a group


def is_thin(weight: Array, groups: int) -> bool:
    """Whether elementwise operations beat a matrix product for each group."""
    return groups > 1 and weight.shape[2] * weight.shape[3] // groups <= _THIN


def forward(x: Array, weight: Array, window: Window, groups: int, out: Array) -> None:
    """out = the convolution, without a bias."""
    width = out.shape[2]

    def work(tile: Tile) -> None:
        padded = _pad_tile(x, window, width, tile)
        part = out[tile.images, tile.rows]
        part[...] = 0
        for source, target, taps in _pairs(weight, groups):
            image, to = padded[..., source], part[..., target]
            term = buffer("full", to.shape, x.dtype)
            for i, j, rows, columns in window.taps(*part.shape[1:3]):
                np.multiply(image[:, rows, columns], taps[i, j], out=term)
                to += term

    parallel(work, _tiles(out, x))


def input_gradient(grad: Array, weight: Array, window: Window, groups: int, out: Array) -> None:
    """out = the adjoint of the convolution in the image."""
    (top, bottom), (left, right) = window.padding
    height, width = out.shape[1:3]
    high, across = height + top + bottom, width + left + right

    def work(images: slice) -> None:
        part = out[images]
        padded = buffer("padded", (len(part), high, across, out.shape[3]), out.dtype)
        padded[...] = 0
        for source, target, taps in _pairs(weight, groups):
            image, arriving = padded[..., source], grad[images][..., target]
            term = buffer("full", arriving.shape, grad.dtype)
            for i, j, rows, columns in window.taps(*grad.shape[1:3]):
                np.multiply(arriving, taps[i, j], out=term)
                image[:, rows, columns] += term
        part[...] = 0
        rows, columns = slice(max(0, -top), None), slice(max(0, -left), None)
        inner = padded[:, max(0, top) :, max(0, left) :]
        target = part[:, rows, columns]
        inner = inner[:, : target.shape[1], : target.shape[2]]
        target[:, : inner.shape[1], : inner.shape[2]] = inner

    parallel(work, [slice(n, n + 1) for n in range(len(out))])


def weight_gradient(x: Array, grad: Array, window: Window, groups: int, out: Array) -> None:
    """out = the adjoint of the convolution in the weight."""
    size = (grad.shape[1], grad.shape[2])
    partial = np.zeros((len(x), *out.shape), dtype=out.dtype)

    def work(n: int) -> None:
        padded = _pad_tile(x, window, size[1], Tile(slice(n, n + 1), slice(0, size[0])))
        arriving = grad[n : n + 1]
        for source, target, taps in _pairs(partial[n], groups):
            image, there = padded[..., source], arriving[..., target]
            term = buffer("full", there.shape, grad.dtype)
            for i, j, rows, columns in window.taps(*size):
                np.multiply(image[:, rows, columns], there, out=term)
                pixels = term.reshape(-1, term.shape[3])
                taps[i, j] = np.ones(len(pixels), dtype=term.dtype) @ pixels

    parallel(work, range(len(x)))
    np.sum(partial, axis=0, out=out)


def _pad_tile(x: Array, window: Window, width: int, tile: Tile) -> Array:
    """The part of the padded image that the tile's windows visit, from the first row they touch."""
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
    """One channel and one output of every group at a time, with their taps (kh, kw, groups)."""
    channels, outputs = weight.shape[2], weight.shape[3] // groups
    for a in range(channels):
        for b in range(outputs):
            yield slice(a, None, channels), slice(b, None, outputs), weight[:, :, a, b::outputs]


def _tiles(out: Array, x: Array) -> Sequence[Tile]:
    row_bytes = out.shape[2] * (2 * out.shape[3] + x.shape[3]) * out.itemsize
    return cut_tiles(len(out), out.shape[1], row_bytes) if out.size else ()
