"""Convolution with large kernels in the frequency domain, as matrix products throughout.

The image is cut into tiles that overlap by the kernel's size less one; in the frequencies of a tile
a convolution is one product for each (Oppenheim and Schafer, "Discrete-time signal processing",
overlap-save and overlap-add). At these sizes a Fourier transform is fastest as a product with its
matrix, for BLAS runs near its peak: first along the width, real to complex, then along the height.

A product of complex numbers (a + ib)(c + id) takes three real ones (Gauss):
k₁ = (a + b)·c, k₂ = a·(d - c), k₃ = b·(c + d), and then k₁ - k₃ + i(k₁ + k₂). All of this but the
three products is linear, so it is part of the transforms' matrices: an image becomes three planes
(a + b, a, b) for each frequency, a kernel (c, d - c, c + d), and the way back reads k₁, k₂ and k₃.
The planes of the output's gradient, taken as those of a kernel, serve both gradients: the conjugate
of a kernel has the planes (c, -(c + d), -(d - c)).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from tinynn.backend.cpu.convolution.choice import get_conv2d_algorithm, row_products, rows_together
from tinynn.backend.reference import Array
from tinynn.backend.window import Pair, Window

_SIZES = (8, 12, 16, 24, 32, 48, 64)  # of tiles, in pixels
_LEAST = 5  # pixels of a kernel's longer side
# by how much fewer multiplications must pay for the copies in between: the least wrong choice
# where both ways were timed, for kernels of 5 to 15 pixels and 3 to 128 channels
_MARGIN = 1.6
_PLANE_BYTES = 1 << 26  # spectra held at a time; a batch that has more is done in parts

ForEach = Callable[[Callable[[Any], object], Sequence[Any]], object]


class Plan(NamedTuple):
    """How an image is cut: tiles of ``size`` pixels, of which ``valid`` are results."""

    size: Pair
    valid: Pair
    grid: Pair  # tiles down and across

    @property
    def frequencies(self) -> int:
        """Along the width; the others are their conjugates."""
        return self.size[1] // 2 + 1


def plan(window: Window, out_size: Pair, channels: int, outputs: int, images: int) -> Plan | None:
    """The cheapest way to cut, or None where plain products serve better."""
    algorithm = get_conv2d_algorithm()
    if window.stride != (1, 1) or window.dilation != (1, 1):
        return None
    if algorithm != "spectral" and (algorithm != "auto" or max(window.kernel) < _LEAST):
        return None
    margin = _MARGIN if algorithm == "auto" else 0.0
    return _cheapest(window, out_size, channels, outputs, images, margin)


@lru_cache(maxsize=256)
def _cheapest(
    window: Window, out_size: Pair, channels: int, outputs: int, images: int, margin: float
) -> Plan | None:
    """The plan with the fewest multiplications, ``margin`` times fewer than those by rows."""
    rows = row_products(window, out_size[0], rows_together(window, out_size[0]))
    direct = float(rows * out_size[1] * window.kernel[1]) * channels * outputs
    best, least = None, direct / margin if margin else np.inf
    for height in _SIZES:
        for width in _SIZES:
            found = cut_tiles((height, width), window.kernel, out_size)
            if (
                found is not None
                and (cost := _cost(found, channels, outputs, images, window.kernel)) < least
            ):
                best, least = found, cost
    return best


def cut_tiles(size: Pair, kernel: Pair, out_size: Pair) -> Plan | None:
    """Tiles of a size for a kernel, or None if they are smaller than it."""
    valid = (size[0] - kernel[0] + 1, size[1] - kernel[1] + 1)
    if min(valid) < 1:
        return None
    grid = (-(-out_size[0] // valid[0]), -(-out_size[1] // valid[1]))
    return Plan(size, valid, grid)


def _cost(cut: Plan, channels: int, outputs: int, images: int, kernel: Pair) -> float:
    """Multiplications for one image: forward transforms, products, and the way back."""
    (height, width), (rows, columns), half = cut.size, cut.valid, 2 * cut.frequencies
    forward = half * width * height + cut.frequencies * 3 * height * 2 * height
    back = cut.frequencies * 2 * rows * 3 * height + columns * half * rows
    products = 3 * height * cut.frequencies * channels * outputs
    tiles = cut.grid[0] * cut.grid[1]
    weight = (half * kernel[1] + cut.frequencies * 3 * height * 2) * kernel[0] * channels * outputs
    return tiles * (forward * channels + back * outputs + products) + weight / max(1, images)


# -- the matrices ---------------------------------------------------------------------------------


@lru_cache(maxsize=64)
def _along_width(size: int, used: int, dtype: str) -> Array:
    """(2·frequencies, used): real and imaginary part of the transform of ``used`` numbers."""
    angle = 2 * np.pi * np.outer(np.arange(size // 2 + 1), np.arange(used)) / size
    return np.stack([np.cos(angle), -np.sin(angle)], axis=1).reshape(-1, used).astype(dtype)


@lru_cache(maxsize=64)
def _along_height(size: int, used: int, kind: str, dtype: str) -> Array:
    """(3·size, 2·used): from complex columns of ``used`` numbers to three planes of ``size``."""
    angle = 2 * np.pi * np.outer(np.arange(size), np.arange(used)) / size
    real = np.concatenate([np.cos(angle), np.sin(angle)], axis=1)
    imaginary = np.concatenate([-np.sin(angle), np.cos(angle)], axis=1)
    planes = {
        "image": (real + imaginary, real, imaginary),
        "turned image": (real + imaginary, imaginary, real),
        "kernel": (real, imaginary - real, real + imaginary),
        "conjugate kernel": (real, -imaginary - real, real - imaginary),
    }[kind]
    return np.concatenate(planes).astype(dtype)


@lru_cache(maxsize=64)
def _back_along_height(size: int, rows: int, turned: bool, dtype: str) -> Array:
    """(2·rows, 3·size): from the three products to the first ``rows`` complex numbers."""
    angle = 2 * np.pi * np.outer(np.arange(rows), np.arange(size)) / size
    cos, sin = np.cos(angle) / size, np.sin(angle) / size
    # real and imaginary part of the product are sums of k₁, k₂ and k₃ with these signs
    signs = ((1, 1, 0), (1, 0, -1)) if turned else ((1, 0, -1), (1, 1, 0))
    real = [cos * a - sin * b for a, b in zip(*signs, strict=True)]
    imaginary = [sin * a + cos * b for a, b in zip(*signs, strict=True)]
    return np.concatenate([np.hstack(real), np.hstack(imaginary)]).astype(dtype)


@lru_cache(maxsize=64)
def _back_along_width(size: int, columns: int, dtype: str) -> Array:
    """(columns, 2·frequencies): the first real numbers of a row from half of its frequencies."""
    frequencies = np.arange(size // 2 + 1)
    twice = np.where((frequencies == 0) | (2 * frequencies == size), 1.0, 2.0) / size
    angle = 2 * np.pi * np.outer(np.arange(columns), frequencies) / size
    parts = np.stack([twice * np.cos(angle), -twice * np.sin(angle)], axis=2)
    return parts.reshape(columns, -1).astype(dtype)


# -- the three convolutions -----------------------------------------------------------------------


def conv2d(x: Array, weight: Array, window: Window, cut: Plan, out: Array, run: ForEach) -> None:
    """out = the convolution (N, H', W', O), without a bias."""
    height, dtype, (channels, outputs) = cut.size[0], x.dtype.name, weight.shape[2:]
    to_planes = _along_height(height, window.kernel[0], "conjugate kernel", dtype)
    kernel = _weight_columns(weight, cut)
    back = _back_along_height(height, cut.valid[0], False, dtype)
    for part in _batches(len(x), cut, channels + outputs, x.itemsize):
        planes = _image_planes(x[part], window.padding, cut, cut.size, cut.size, "image", run)
        rows = np.empty((cut.frequencies, 2 * cut.valid[0], planes.shape[2] * outputs), x.dtype)

        def multiply(f: int, planes: Array = planes, rows: Array = rows) -> None:
            products = planes[f] @ (to_planes @ kernel[f]).reshape(-1, channels, outputs)
            np.matmul(back, products.reshape(3 * height, -1), out=rows[f])

        run(multiply, range(cut.frequencies))
        _lay_side_by_side(rows, cut, out[part], run)


def gradients(
    x: Array,
    weight: Array,
    grad: Array,
    window: Window,
    cut: Plan,
    wanted: tuple[bool, bool],
    run: ForEach,
) -> tuple[Array | None, Array | None]:
    """The gradients of image and weight; both read the same spectra of what arrives."""
    height, dtype = cut.size[0], x.dtype.name
    (kh, kw), (_, _, channels, outputs) = window.kernel, weight.shape
    kernel = _weight_columns(weight, cut)
    to_planes = _along_height(height, kh, "image", dtype)
    back_image = _back_along_height(height, height, False, dtype)
    back_weight = _back_along_height(height, kh, True, dtype)
    image_grad = np.empty(x.shape, x.dtype) if wanted[0] else None
    total = np.zeros((cut.frequencies, 2 * kh, channels * outputs), x.dtype)
    none = ((0, 0), (0, 0))
    for part in _batches(len(x), cut, 2 * channels + outputs, x.itemsize):
        arriving = _image_planes(grad[part], none, cut, cut.valid, cut.valid, "kernel", run)
        tiles = arriving.shape[2]
        seen = rows = None
        if wanted[1]:
            seen = _image_planes(
                x[part], window.padding, cut, cut.size, cut.size, "turned image", run
            )
        if wanted[0]:
            rows = np.empty((cut.frequencies, 2 * height, tiles * channels), x.dtype)

        def multiply(
            f: int, arriving: Array = arriving, seen: Any = seen, rows: Any = rows
        ) -> None:
            if seen is not None:
                products = seen[f].transpose(0, 2, 1) @ arriving[f]
                total[f] += back_weight @ products.reshape(3 * height, -1)
            if rows is not None:
                spectrum = (to_planes @ kernel[f]).reshape(-1, channels, outputs)
                products = arriving[f] @ spectrum.transpose(0, 2, 1)
                np.matmul(back_image, products.reshape(3 * height, -1), out=rows[f])

        run(multiply, range(cut.frequencies))
        if rows is not None and image_grad is not None:
            _add_overlapping(rows, cut, window, image_grad[part], run)
    if not wanted[1]:
        return image_grad, None
    numbers = _back_along_width(cut.size[1], kw, dtype) @ total.reshape(2 * cut.frequencies, -1)
    by_column = numbers.reshape(kw, kh, channels, outputs)
    return image_grad, np.ascontiguousarray(by_column.transpose(1, 0, 2, 3))


def _batches(images: int, cut: Plan, channels: int, itemsize: int) -> list[slice]:
    each = cut.frequencies * 3 * cut.size[0] * cut.grid[0] * cut.grid[1] * channels * itemsize
    step = max(1, _PLANE_BYTES // each)
    return [slice(n, min(n + step, images)) for n in range(0, images, step)]


def _weight_columns(weight: Array, cut: Plan) -> Array:
    """The weight transformed along the width: (frequencies, 2·kh, C·O)."""
    kh, kw = weight.shape[:2]
    turned = np.ascontiguousarray(weight.transpose(1, 0, 2, 3)).reshape(kw, -1)
    matrix = _along_width(cut.size[1], kw, weight.dtype.name)
    return (matrix @ turned).reshape(cut.frequencies, 2 * kh, -1)


def _image_planes(
    x: Array,
    padding: tuple[Pair, Pair],
    cut: Plan,
    extent: Pair,
    used: Pair,
    kind: str,
    run: ForEach,
) -> Array:
    """The planes of all tiles: (frequencies, 3·height, tiles, channels).

    Tile (i, j) is the ``used`` pixels from (i, j) times the valid size on; the image has zeros
    around it.
    """
    dtype, channels = x.dtype.name, x.shape[3]
    along_width = _along_width(cut.size[1], used[1], dtype)
    along_height = _along_height(cut.size[0], used[0], kind, dtype)
    each = cut.grid[0] * cut.grid[1]
    planes = np.empty((cut.frequencies, 3 * cut.size[0], len(x) * each, channels), x.dtype)
    (top, _), (left, _) = padding
    high = (cut.grid[0] - 1) * cut.valid[0] + used[0]
    wide = (cut.grid[1] - 1) * cut.valid[1] + used[1]
    target_rows, rows = _inside(top, high, x.shape[1])
    target_columns, columns = _inside(left, wide, x.shape[2])

    def transform(part: slice) -> None:
        images = x[part]
        padded = np.zeros((len(images), high, wide, channels), x.dtype)
        padded[:, target_rows, target_columns] = images[:, rows, columns]
        n, y, w, c = padded.strides
        view = np.ndarray(
            (used[1], used[0], len(images), *cut.grid, channels),
            x.dtype,
            padded,
            0,
            (w, y, n, y * cut.valid[0], w * cut.valid[1], c),
        )
        tiles = np.ascontiguousarray(view).reshape(used[1], -1)
        lines = (along_width @ tiles).reshape(cut.frequencies, 2 * used[0], -1)
        place = planes.reshape(*planes.shape[:2], -1)
        ahead = part.start * each * channels
        np.matmul(along_height, lines, out=place[:, :, ahead : ahead + lines.shape[2]])

    run(transform, _parts(len(x)))
    return planes


def _inside(before: int, length: int, size: int) -> tuple[slice, slice]:
    """Where an image with ``before`` zeros in front lies in ``length`` pixels, and which of it."""
    first = max(0, -before)
    stop = max(first, min(size, length - before))
    return slice(first + before, stop + before), slice(first, stop)


def _parts(images: int) -> list[slice]:
    """At most eight runs of images: what does not depend on the number of threads."""
    edges = [images * i // 8 for i in range(9)]
    return [slice(a, b) for a, b in pairwise(edges) if b > a]


def _lay_side_by_side(rows: Array, cut: Plan, out: Array, run: ForEach) -> None:
    """The results of the tiles, from rows of frequencies: (N, H', W', O)."""
    back = _back_along_width(cut.size[1], cut.valid[1], out.dtype.name)
    images = len(out)
    lines_of = rows.reshape(cut.frequencies * 2, cut.valid[0], images, *cut.grid, out.shape[3])

    def place(part: slice) -> None:
        lines = np.ascontiguousarray(lines_of[:, :, part]).reshape(len(lines_of), -1)
        count = part.stop - part.start
        tiles = (back @ lines).reshape(*cut.valid[::-1], count, *cut.grid, out.shape[3])
        target = out[part]
        for i in range(cut.grid[0]):
            for j in range(cut.grid[1]):
                spot = target[:, i * cut.valid[0] :, j * cut.valid[1] :][
                    :, : cut.valid[0], : cut.valid[1]
                ]
                tile = tiles[: spot.shape[2], : spot.shape[1], :, i, j]
                spot[...] = tile.transpose(2, 1, 0, 3)

    run(place, _parts(images))


def _add_overlapping(rows: Array, cut: Plan, window: Window, out: Array, run: ForEach) -> None:
    """The sum of the tiles where they overlap, without what fell on the padding: (N, H, W, C)."""
    (height, width), (top, left) = cut.size, (window.padding[0][0], window.padding[1][0])
    back = _back_along_width(width, width, out.dtype.name)
    images, channels = out.shape[0], out.shape[3]
    lines_of = rows.reshape(cut.frequencies * 2, height, images, *cut.grid, channels)
    high = (cut.grid[0] - 1) * cut.valid[0] + height
    wide = (cut.grid[1] - 1) * cut.valid[1] + width
    source_rows, target_rows = _inside(top, high, out.shape[1])
    source_columns, target_columns = _inside(left, wide, out.shape[2])

    def add(part: slice) -> None:
        lines = np.ascontiguousarray(lines_of[:, :, part]).reshape(len(lines_of), -1)
        count = part.stop - part.start
        tiles = (back @ lines).reshape(width, height, count, *cut.grid, channels)
        padded = np.zeros((count, high, wide, channels), out.dtype)
        for i in range(cut.grid[0]):
            for j in range(cut.grid[1]):
                y, x = i * cut.valid[0], j * cut.valid[1]
                padded[:, y : y + height, x : x + width] += tiles[:, :, :, i, j].transpose(
                    2, 1, 0, 3
                )
        target = out[part]
        target[...] = 0
        target[:, target_rows, target_columns] = padded[:, source_rows, source_columns]

    run(add, _parts(images))
