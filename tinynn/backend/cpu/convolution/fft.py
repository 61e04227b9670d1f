"""Convolution with large kernels by FFT, as matrix products throughout.

The image is cut into tiles that overlap by the kernel size - 1 (overlap-save forward, overlap-add
backward: Oppenheim and Schafer, "Discrete-time signal processing"). In the spectrum of a tile the
convolution is a product at each frequency, over the channels:

    out[f] (tiles, O) = spectrum of x[f] (tiles, C) @ conj(spectrum of weight[f]) (C, O)

**Transforms.** At sizes of 8 to 64 a Fourier transform is fastest as a product with its dense
matrix, because BLAS runs near its peak: along the width, real to complex (width // 2 + 1
frequencies; the others are conjugates), then along the height.

**Three real products for a complex one** (Gauss): for (a + ib)(c + id),

    k₁ = (a + b)·c,  k₂ = a·(d - c),  k₃ = b·(c + d);   real = k₁ - k₃,  imaginary = k₁ + k₂

Everything but the three products is linear, so it is folded into the transforms' matrices. An image
becomes three real planes (a + b, a, b) for each frequency, a kernel (c, d - c, c + d), and the
inverse transform reads k₁, k₂ and k₃. So the complex product costs three GEMMs and no other pass.

**Backward.** With the planes of the upstream gradient taken as those of a kernel, one spectrum
serves both gradients: the conjugate of a kernel has the planes (c, -(c + d), -(d - c)), a
permutation that goes into the other operand's matrix.

**Memory layout.** Planes are (frequencies, 3·height, tiles, channels): a frequency along the width
is one item of work for the threads, with a stack of 3·height GEMMs that are contiguous in memory.
"""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import Literal, NamedTuple

import numpy as np

from tinynn.backend.cpu import tuning
from tinynn.backend.cpu.threads import parallel
from tinynn.backend.cpu.tiles import cut, overlap
from tinynn.backend.reference import Array
from tinynn.backend.window import Pair, Window

_NO_PADDING = ((0, 0), (0, 0))


class Tiling(NamedTuple):
    """How an image is cut: tiles of ``size`` pixels, of which ``valid`` are results."""

    size: Pair
    valid: Pair
    grid: Pair  # tiles down and across

    @property
    def frequencies(self) -> int:
        """Frequencies along the width."""
        return self.size[1] // 2 + 1


def tiling_of(size: Pair, kernel: Pair, out_size: Pair) -> Tiling | None:
    """The tiling with tiles of a size, or None if the kernel does not fit into them."""
    valid = (size[0] - kernel[0] + 1, size[1] - kernel[1] + 1)
    if min(valid) < 1:
        return None
    return Tiling(size, valid, (-(-out_size[0] // valid[0]), -(-out_size[1] // valid[1])))


def cheapest_tiling(
    kernel: Pair, out_size: Pair, channels: int, outputs: int, images: int, limit: float
) -> Tiling | None:
    """The tiling with the fewest multiplications for one image, if it takes less than ``limit``."""
    sizes = [(height, width) for height in tuning.FFT_SIZES for width in tuning.FFT_SIZES]
    tilings = [found for size in sizes if (found := tiling_of(size, kernel, out_size))]
    costs = [_cost(found, channels, outputs, images, kernel) for found in tilings]
    least = min(costs, default=np.inf)
    return tilings[costs.index(least)] if least < limit else None


def _cost(tiling: Tiling, channels: int, outputs: int, images: int, kernel: Pair) -> float:
    """Multiplications for one image: transforms, products, inverse transforms; the kernel's share.

    The kernel is transformed once for the batch.
    """
    (height, width), (rows, columns), half = tiling.size, tiling.valid, 2 * tiling.frequencies
    forward = half * width * height + tiling.frequencies * 3 * height * 2 * height
    inverse = tiling.frequencies * 2 * rows * 3 * height + columns * half * rows
    products = 3 * height * tiling.frequencies * channels * outputs
    tiles = prod(tiling.grid)
    weight = (
        (half * kernel[1] + tiling.frequencies * 3 * height * 2) * kernel[0] * channels * outputs
    )
    return tiles * (forward * channels + inverse * outputs + products) + weight / max(1, images)


# -- the matrices ---------------------------------------------------------------------------------

Planes = Literal["image", "swapped image", "kernel", "conjugate kernel"]


@lru_cache(maxsize=64)
def _along_width(size: int, used: int, dtype: str) -> Array:
    """(2·frequencies, used): real and imaginary parts of the DFT of ``used`` elements."""
    angle = 2 * np.pi * np.outer(np.arange(size // 2 + 1), np.arange(used)) / size
    return np.stack([np.cos(angle), -np.sin(angle)], axis=1).reshape(-1, used).astype(dtype)


@lru_cache(maxsize=64)
def _along_height(size: int, used: int, kind: Planes, dtype: str) -> Array:
    """(3·size, 2·used): from columns of ``used`` complex elements to three planes of ``size``."""
    angle = 2 * np.pi * np.outer(np.arange(size), np.arange(used)) / size
    real = np.concatenate([np.cos(angle), np.sin(angle)], axis=1)
    imaginary = np.concatenate([-np.sin(angle), np.cos(angle)], axis=1)
    planes = {
        "image": (real + imaginary, real, imaginary),
        "swapped image": (real + imaginary, imaginary, real),
        "kernel": (real, imaginary - real, real + imaginary),
        "conjugate kernel": (real, -imaginary - real, real - imaginary),
    }[kind]
    return np.concatenate(planes).astype(dtype)


@lru_cache(maxsize=64)
def _inverse_along_height(size: int, rows: int, swapped: bool, dtype: str) -> Array:
    """(2·rows, 3·size): from the products k₁, k₂, k₃ to the first ``rows`` complex elements.

    ``swapped`` belongs to the planes of a "swapped image".
    """
    angle = 2 * np.pi * np.outer(np.arange(rows), np.arange(size)) / size
    cos, sin = np.cos(angle) / size, np.sin(angle) / size
    # signs of k₁, k₂ and k₃ in the real and the imaginary part of the product
    signs = ((1, 1, 0), (1, 0, -1)) if swapped else ((1, 0, -1), (1, 1, 0))
    real = [cos * a - sin * b for a, b in zip(*signs, strict=True)]
    imaginary = [sin * a + cos * b for a, b in zip(*signs, strict=True)]
    return np.concatenate([np.hstack(real), np.hstack(imaginary)]).astype(dtype)


@lru_cache(maxsize=64)
def _inverse_along_width(size: int, columns: int, dtype: str) -> Array:
    """(columns, 2·frequencies): the first real elements of a row from half of its spectrum."""
    frequencies = np.arange(size // 2 + 1)
    twice = np.where((frequencies == 0) | (2 * frequencies == size), 1.0, 2.0) / size
    angle = 2 * np.pi * np.outer(np.arange(columns), frequencies) / size
    parts = np.stack([twice * np.cos(angle), -twice * np.sin(angle)], axis=2)
    return parts.reshape(columns, -1).astype(dtype)


# -- the three convolutions -----------------------------------------------------------------------


def conv2d(x: Array, weight: Array, window: Window, tiling: Tiling, out: Array) -> None:
    """out = the convolution (N, H', W', O), without a bias."""
    height, dtype, (channels, outputs) = tiling.size[0], x.dtype.name, weight.shape[2:]
    to_planes = _along_height(height, window.kernel[0], "conjugate kernel", dtype)
    kernel = _transform_kernel(weight, tiling)
    inverse = _inverse_along_height(height, tiling.valid[0], False, dtype)

    def convolve(part: slice) -> None:
        # planes (frequencies, 3·height, tiles, C), rows (frequencies, 2·valid rows, tiles·O)
        planes = _transform(x[part], window.padding, tiling, tiling.size, "image")
        shape = (tiling.frequencies, 2 * tiling.valid[0], planes.shape[2] * outputs)
        rows = np.empty(shape, x.dtype)

        def multiply(f: int) -> None:
            # (3·height, tiles, C) @ (3·height, C, O): k₁, k₂ and k₃ of each frequency; the kernel's
            # spectrum is made here, as it is small and then still in the cache
            products = planes[f] @ (to_planes @ kernel[f]).reshape(-1, channels, outputs)
            np.matmul(inverse, products.reshape(3 * height, -1), out=rows[f])

        parallel(multiply, range(tiling.frequencies))
        _add_tiles(rows, tiling, tiling.valid, _NO_PADDING, out[part])

    for part in _batches(len(x), tiling, channels + outputs, x.itemsize):
        convolve(part)


def gradients(
    x: Array, weight: Array, grad: Array, window: Window, tiling: Tiling, needs: tuple[bool, bool]
) -> tuple[Array | None, Array | None]:
    """The gradients of image and weight, from one spectrum of the upstream gradient."""
    height, dtype = tiling.size[0], x.dtype.name
    (kh, kw), (_, _, channels, outputs) = window.kernel, weight.shape
    kernel = _transform_kernel(weight, tiling)
    to_planes = _along_height(height, kh, "image", dtype)
    inverse_image = _inverse_along_height(height, height, False, dtype)
    inverse_weight = _inverse_along_height(height, kh, True, dtype)
    image_grad = np.empty(x.shape, x.dtype) if needs[0] else None
    total = np.zeros((tiling.frequencies, 2 * kh, channels * outputs), x.dtype)

    def differentiate(part: slice) -> None:
        upstream = _transform(grad[part], _NO_PADDING, tiling, tiling.valid, "kernel")
        shape = (tiling.frequencies, 2 * height, upstream.shape[2] * channels)
        rows = np.empty(shape if needs[0] else 0, x.dtype)
        if needs[1]:
            image = _transform(x[part], window.padding, tiling, tiling.size, "swapped image")

        def multiply(f: int) -> None:
            if needs[1]:
                products = image[f].transpose(0, 2, 1) @ upstream[f]
                total[f] += inverse_weight @ products.reshape(3 * height, -1)
            if needs[0]:
                spectrum = (to_planes @ kernel[f]).reshape(-1, channels, outputs)
                products = upstream[f] @ spectrum.transpose(0, 2, 1)
                np.matmul(inverse_image, products.reshape(3 * height, -1), out=rows[f])

        parallel(multiply, range(tiling.frequencies))
        if image_grad is not None:
            _add_tiles(rows, tiling, tiling.size, window.padding, image_grad[part])

    for part in _batches(len(x), tiling, 2 * channels + outputs, x.itemsize):
        differentiate(part)
    if not needs[1]:
        return image_grad, None
    inverse = _inverse_along_width(tiling.size[1], kw, dtype)
    columns = inverse @ total.reshape(2 * tiling.frequencies, -1)
    by_column = columns.reshape(kw, kh, channels, outputs)
    return image_grad, np.ascontiguousarray(by_column.transpose(1, 0, 2, 3))


def _batches(images: int, tiling: Tiling, channels: int, itemsize: int) -> list[slice]:
    """Parts of the batch whose spectra fit into ``tuning.FFT_SPECTRA_BYTES``."""
    each = tiling.frequencies * 3 * tiling.size[0] * prod(tiling.grid) * channels * itemsize
    step = max(1, tuning.FFT_SPECTRA_BYTES // each)
    return [slice(n, min(n + step, images)) for n in range(0, images, step)]


def _parts(images: int) -> list[slice]:
    """Parts of the batch for the threads; their number depends on the batch only."""
    return [part for part in cut(images, tuning.FFT_PARTS) if part.stop > part.start]


def _transform_kernel(weight: Array, tiling: Tiling) -> Array:
    """The weight transformed along the width: (frequencies, 2·kh, C·O)."""
    kh, kw = weight.shape[:2]
    by_column = np.ascontiguousarray(weight.transpose(1, 0, 2, 3)).reshape(kw, -1)
    matrix = _along_width(tiling.size[1], kw, weight.dtype.name)
    return (matrix @ by_column).reshape(tiling.frequencies, 2 * kh, -1)


def _transform(
    x: Array, padding: tuple[Pair, Pair], tiling: Tiling, used: Pair, kind: Planes
) -> Array:
    """The planes of all tiles: (frequencies, 3·height, tiles, channels).

    Tile (i, j) is the ``used`` pixels from (i, j) · valid on, of the image with zeros around it.
    """
    dtype, channels = x.dtype.name, x.shape[3]
    along_width = _along_width(tiling.size[1], used[1], dtype)
    along_height = _along_height(tiling.size[0], used[0], kind, dtype)
    each = prod(tiling.grid)
    planes = np.empty((tiling.frequencies, 3 * tiling.size[0], len(x) * each, channels), x.dtype)
    flat = planes.reshape(*planes.shape[:2], -1)
    high, wide = ((g - 1) * v + u for g, v, u in zip(tiling.grid, tiling.valid, used, strict=True))
    target_rows, rows = overlap(-padding[0][0], high, x.shape[1])
    target_columns, columns = overlap(-padding[1][0], wide, x.shape[2])

    def transform(part: slice) -> None:
        images = x[part]
        # pad, copy the overlapping tiles with their width first, transform the width, then the
        # height: each transform is one GEMM with contiguous rows
        padded = np.zeros((len(images), high, wide, channels), x.dtype)
        padded[:, target_rows, target_columns] = images[:, rows, columns]
        n, y, w, c = padded.strides
        shape = (used[1], used[0], len(images), *tiling.grid, channels)
        strides = (w, y, n, y * tiling.valid[0], w * tiling.valid[1], c)
        overlapping = np.ndarray(shape, x.dtype, padded, 0, strides)
        tiles = np.ascontiguousarray(overlapping).reshape(used[1], -1)
        spectra = (along_width @ tiles).reshape(tiling.frequencies, 2 * used[0], -1)
        first = part.start * each * channels
        np.matmul(along_height, spectra, out=flat[:, :, first : first + spectra.shape[2]])

    parallel(transform, _parts(len(x)))
    return planes


def _add_tiles(
    spectra: Array, tiling: Tiling, used: Pair, padding: tuple[Pair, Pair], out: Array
) -> None:
    """Transform tiles of ``used`` pixels back along the width and add them up in ``out``.

    The valid pixels of the forward pass are side by side; in the backward pass the tiles overlap,
    and what falls on the padding is dropped.
    """
    inverse = _inverse_along_width(tiling.size[1], used[1], out.dtype.name)
    shape = (2 * tiling.frequencies, used[0], len(out), *tiling.grid, out.shape[3])
    spectra, (top, left) = spectra.reshape(shape), (padding[0][0], padding[1][0])

    def add(part: slice) -> None:
        target = out[part]
        rows = np.ascontiguousarray(spectra[:, :, part]).reshape(len(spectra), -1)
        tiles = (inverse @ rows).reshape(*used[::-1], len(target), *tiling.grid, out.shape[3])
        target[...] = 0
        for i, j in np.ndindex(tiling.grid):
            inside_rows, y = overlap(i * tiling.valid[0] - top, used[0], out.shape[1])
            inside_columns, x = overlap(j * tiling.valid[1] - left, used[1], out.shape[2])
            tile = tiles[inside_columns, inside_rows, :, i, j]
            target[:, y, x] += tile.transpose(2, 1, 0, 3)

    parallel(add, _parts(len(out)))
