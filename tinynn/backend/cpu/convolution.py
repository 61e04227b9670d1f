"""Convolutions on the CPU, and what is done to their tiles while those are in the cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from tinynn.backend import spectral
from tinynn.backend.base import Array, Backend, Wanted
from tinynn.backend.cpu import depthwise, runs
from tinynn.backend.cpu.buffers import buffer
from tinynn.backend.cpu.lowering import Tile, by_image, by_row, pad_tile, tiles
from tinynn.backend.cpu.pooling import is_tiling, pool_pairs
from tinynn.backend.cpu.threads import parallel
from tinynn.backend.windows import Pair, Window

_LANES = 8  # partial sums of a weight gradient: fixed, so that no result depends on the threads
# OpenBLAS multiplies matrices of up to so many multiply-adds without packing them first
_SMALL_PRODUCT = 10**6
_FEWEST_ROWS = 12  # of such a product
_PRODUCT_BYTES = 1 << 22  # of the products of a tile before they are added up
_DEEP = 128  # outputs from which on one large product beats many that share their numbers


class Convolution(Backend):
    """Tiles of a few images on several threads."""

    def conv2d(
        self, x: Array, weight: Array, bias: Array | None, window: Window, groups: int
    ) -> Array:
        size = window.output_size(*x.shape[1:3])
        out = runs.empty((x.shape[0], *size, weight.shape[3]), x.dtype)
        cut = _spectral(x, window, size, weight.shape[3], groups)
        if cut is not None:
            spectral.conv2d(x, weight, window, cut, out, parallel)
            if bias is not None:
                self.add_bias(out, bias)
            return out
        if depthwise.is_thin(weight, groups):
            depthwise.forward(x, weight, window, groups, out)
            if bias is not None:
                out += bias
            return out
        for source, target in _by_group(groups, x.shape[3], weight.shape[3]):
            shift = None if bias is None else bias[target]
            _correlate(x[..., source], weight[..., target], shift, window, out[..., target])
        return out

    def conv2d_input_gradient(
        self, grad: Array, weight: Array, window: Window, groups: int, shape: tuple[int, ...]
    ) -> Array:
        out = runs.empty(shape, grad.dtype)
        if depthwise.is_thin(weight, groups):
            depthwise.input_gradient(grad, weight, window, groups, out)
            return out
        for source, target in _by_group(groups, shape[3], weight.shape[3]):
            _correlate_back(grad[..., target], weight[..., target], window, out[..., source])
        return out

    def conv2d_weight_gradient(self, x: Array, grad: Array, window: Window, groups: int) -> Array:
        channels = x.shape[3] // groups
        out = np.empty((*window.kernel, channels, grad.shape[3]), dtype=x.dtype)
        if depthwise.is_thin(out, groups):
            depthwise.weight_gradient(x, grad, window, groups, out)
            return out
        for source, target in _by_group(groups, x.shape[3], grad.shape[3]):
            out[..., target] = _weight_gradient(x[..., source], grad[..., target], window)
        return out

    def conv2d_gradients(
        self, x: Array, weight: Array, grad: Array, window: Window, groups: int, wanted: Wanted
    ) -> tuple[Array | None, ...]:
        cut = _spectral(x, window, grad.shape[1:3], weight.shape[3], groups)
        if cut is None:
            return super().conv2d_gradients(x, weight, grad, window, groups, wanted)
        image, kernel = spectral.gradients(x, weight, grad, window, cut, wanted[:2], parallel)
        return image, kernel, self.sum(grad, (0, 1, 2)) if wanted.bias else None

    def conv2d_relu_pool(
        self,
        x: Array,
        weight: Array,
        bias: Array | None,
        window: Window,
        pool: Window,
        keep: bool = True,
    ) -> tuple[Array, Array | None]:
        size, outputs = window.output_size(*x.shape[1:3]), weight.shape[3]
        if not _fits(pool) or _spectral(x, window, size, outputs, 1):
            return super().conv2d_relu_pool(x, weight, bias, window, pool, keep)
        flat = _matrix(weight)
        height, width = pool.output_size(*size)
        best = runs.empty((x.shape[0], height, width, outputs), x.dtype)
        winner = np.empty(best.shape, dtype=np.int8) if keep else None
        shift = None if bias is None else runs.long_row(bias, bias.dtype)

        def work(tile: Tile) -> None:
            rows = tile.rows.stop - tile.rows.start
            padded = pad_tile(x, window, 2 * width, tile)
            seen = by_row(padded, window, rows, 2 * width, 2, outputs >= _DEEP)
            images = len(padded)
            full = buffer("full", (rows, 2, images, width, outputs), x.dtype)
            _product(seen, flat, full.reshape(rows, -1, outputs))
            if 2 * width > size[1]:  # what rounding up adds to the last windows
                full[:, 1, :, -1] = -np.inf
            if tile.rows.stop > size[0]:
                full[-1] = -np.inf
            part = buffer("part", (rows // 2, images, width * outputs), x.dtype)
            shape = (rows // 2, images, width, outputs)
            half = slice(tile.rows.start // 2, tile.rows.stop // 2)
            won = buffer("won", shape, np.dtype(np.int8)) if keep else None
            pool_pairs(full[:, 0], full[:, 1], part.reshape(shape), won)
            if shift is not None:
                runs.spread(np.add, part, shift, part)
            runs.relu(part, part)
            best[tile.images, half] = part.reshape(shape).transpose(1, 0, 2, 3)
            if winner is not None and won is not None:
                winner[tile.images, half] = won.transpose(1, 0, 2, 3)

        parallel(work, tiles(x, window, (2 * height, 2 * width), outputs, multiple=2))
        return best, winner

    def conv2d_relu_pool_gradients(
        self,
        x: Array,
        weight: Array,
        grad: Array,
        out: Array,
        winner: Array,
        window: Window,
        pool: Window,
        wanted: Wanted,
    ) -> tuple[Array | None, ...]:
        height, width, outputs = grad.shape[1:]
        size = (2 * height, 2 * width)
        parts = tiles(x, window, size, outputs)
        whole = all(tile.rows == slice(0, size[0]) for tile in parts)
        if (
            not _fits(pool)
            or not whole
            or window.stride != (1, 1)
            or _spectral(x, window, size, outputs, 1)
        ):
            return super().conv2d_relu_pool_gradients(
                x, weight, grad, out, winner, window, pool, wanted
            )
        image_grad = runs.empty(x.shape, x.dtype) if wanted.x else None
        flipped, turned = _flipped(weight), _turned(window)
        residues = 1 if wanted.x else 2
        taps = int(np.prod(weight.shape[:3]))

        def work(tile: Tile, sums: tuple[Array, Array]) -> None:
            arriving = (out[tile.images] > 0).transpose(1, 0, 2, 3)
            shape = arriving.shape
            values = buffer("part", shape, x.dtype)
            np.multiply(grad[tile.images].transpose(1, 0, 2, 3), arriving, out=values)
            sums[1][...] += _column_sums(values.reshape(-1, outputs))
            images = shape[1]
            full = buffer(
                "full", (size[0], residues, images, size[1] // residues, outputs), x.dtype
            )
            won = winner[tile.images].transpose(1, 0, 2, 3)
            for i, j in np.ndindex(2, 2):
                place = full[i::2, j] if residues == 2 else full[i::2, 0, :, j::2]
                np.multiply(values, won == 2 * i + j, out=place)
            if wanted.weight:
                padded = pad_tile(x, window, size[1], tile)
                rows = full.reshape(size[0], -1, outputs)
                _add_products(padded, window, size, residues, rows, sums[0])
            if image_grad is not None:
                pixels = full[:, 0].transpose(1, 0, 2, 3)
                part = image_grad[tile.images]
                everything = Tile(slice(0, images), slice(0, x.shape[1]))
                _correlate_tile(pixels, flipped, turned, part, everything)

        sums = _in_lanes(parts, (taps, outputs), (outputs,), dtype=x.dtype, work=work)
        return (
            image_grad,
            sums[0].reshape(weight.shape) if wanted.weight else None,
            sums[1] if wanted.bias else None,
        )


def _fits(pool: Window) -> bool:
    """Whether windows of 2 by 2 lie side by side and begin inside the image."""
    return is_tiling(pool) and max(pool.padding) <= (0, 1) and min(pool.padding) >= (0, 0)


def _spectral(
    x: Array, window: Window, size: Pair, outputs: int, groups: int
) -> spectral.Plan | None:
    """How to convolve in the frequency domain, where that pays."""
    if groups != 1 or x.dtype.itemsize < 4 or not x.size:
        return None
    return spectral.plan(window, (size[0], size[1]), x.shape[3], outputs, len(x))


def _by_group(groups: int, channels: int, outputs: int) -> Iterator[tuple[slice, slice]]:
    """The channels and the outputs of each group."""
    c, o = channels // groups, outputs // groups
    for group in range(groups):
        yield slice(group * c, (group + 1) * c), slice(group * o, (group + 1) * o)


def _matrix(weight: Array) -> Array:
    return np.ascontiguousarray(weight.reshape(-1, weight.shape[3]))


def _product(seen: Array, flat: Array, out: Array) -> None:
    """seen (..., M, K) @ flat (K, O)."""
    rows = _small_rows(seen.shape[-2], flat.size)
    if rows >= _FEWEST_ROWS:
        seen = seen.reshape(*seen.shape[:-2], -1, rows, seen.shape[-1])
        out = out.reshape(*out.shape[:-2], -1, rows, out.shape[-1])
    elif seen.flags.c_contiguous and out.flags.c_contiguous:
        seen, out = seen.reshape(-1, seen.shape[-1]), out.reshape(-1, out.shape[-1])
    np.matmul(seen, flat, out=out)


@lru_cache(maxsize=1024)
def _small_rows(rows: int, numbers: int) -> int:
    """The most rows, dividing their number, whose product with so many numbers is a small one."""
    most = _SMALL_PRODUCT // max(1, numbers)
    return next((r for r in range(min(rows, most), 0, -1) if rows % r == 0), 0)


def _correlate(
    x: Array,
    weight: Array,
    bias: Array | None,
    window: Window,
    out: Array,
    spread: Pair = (1, 1),
) -> None:
    """Slide the weight over x, whose pixels lie ``spread`` apart with zeros in between."""
    flat = _matrix(weight)
    outputs = flat.shape[1]
    shift = None if bias is None else runs.long_row(bias, bias.dtype)

    def work(tile: Tile) -> None:
        part = out[tile.images, tile.rows]
        _correlate_tile(x, flat, window, part, tile, spread)
        if shift is not None and part.flags.c_contiguous:
            runs.spread(np.add, part, shift, part)
        elif bias is not None:
            part += bias

    if out.size:
        parallel(work, tiles(x, window, out.shape[1:3], outputs))


def _correlate_tile(
    x: Array, flat: Array, window: Window, out: Array, tile: Tile, spread: Pair = (1, 1)
) -> None:
    rows, width = out.shape[1:3]
    padded = pad_tile(x, window, width, tile, spread)
    if window.kernel == window.stride == (1, 1) and padded.flags.c_contiguous:
        seen = padded
    else:
        seen = by_image(padded, window, rows, width, flat.shape[1] >= _DEEP)
    _product(seen, flat, out)


def _correlate_back(grad: Array, weight: Array, window: Window, out: Array) -> None:
    """The adjoint of the correlation: itself a correlation, with the kernel turned round.

    With a stride each residue of the image's rows and columns sees some taps of the kernel only.
    """
    if window.stride == (1, 1) or window.dilation != (1, 1):
        _correlate(grad, _flip(weight), None, _turned(window), out, window.stride)
        return
    places = [
        list(_residues(*axis))
        for axis in zip(window.kernel, window.stride, window.padding, strict=True)
    ]
    for row, first_row, top in places[0]:
        for column, first_column, left in places[1]:
            sh, sw = window.stride
            taps = weight[row::sh, column::sw]
            part = out[:, first_row::sh, first_column::sw]
            if 0 in taps.shape[:2]:
                part[...] = 0
            else:
                kernel = (taps.shape[0], taps.shape[1])
                turned = Window(kernel, padding=((top, 0), (left, 0)))
                _correlate(grad, _flip(taps), None, turned, part)


def _residues(kernel: int, stride: int, padding: Pair) -> Iterator[tuple[int, int, int]]:
    """For each residue: its first tap, its first pixel of the image, and its padding."""
    for residue in range(stride):
        taps = len(range(residue, kernel, stride))
        first = -((residue - padding[0]) // stride)  # the first window, rounded up
        yield residue, first * stride + residue - padding[0], taps - 1 - first


def _flip(weight: Array) -> Array:
    return weight[::-1, ::-1].transpose(0, 1, 3, 2)


def _flipped(weight: Array) -> Array:
    return _matrix(_flip(weight))


def _turned(window: Window) -> Window:
    """The window with which the turned kernel slides over the gradient."""
    before = [
        extent - 1 - padding[0]
        for extent, padding in zip(window.extent, window.padding, strict=True)
    ]
    return Window(window.kernel, padding=((before[0], 0), (before[1], 0)), dilation=window.dilation)


def _weight_gradient(x: Array, grad: Array, window: Window) -> Array:
    """(kh, kw, C, O): what each tap sees times what arrives, added up over the pixels."""
    height, width, outputs = grad.shape[1:]
    shape = (*window.kernel, x.shape[3], outputs)

    def work(tile: Tile, sums: tuple[Array, ...]) -> None:
        rows = tile.rows.stop - tile.rows.start
        padded = pad_tile(x, window, width, tile)
        arriving = grad[tile.images, tile.rows].transpose(1, 0, 2, 3)
        turned = buffer("full", arriving.shape, grad.dtype)
        np.copyto(turned, arriving)
        _add_products(padded, window, (rows, width), 1, turned.reshape(rows, -1, outputs), sums[0])

    parts = tiles(x, window, (height, width), outputs)
    return _in_lanes(parts, (int(np.prod(shape[:3])), outputs), dtype=x.dtype, work=work)[
        0
    ].reshape(shape)


def _add_products(
    padded: Array, window: Window, size: Pair, parts: int, arriving: Array, total: Array
) -> None:
    """total += Σ seenᵀ @ arriving over the output rows of a tile."""
    rows, pixels, outputs = arriving.shape
    full = outputs >= min(_DEEP, pixels) or rows * total.nbytes > _PRODUCT_BYTES
    seen = by_row(padded, window, *size, parts, full)
    if seen.flags.c_contiguous:
        seen, arriving = seen.reshape(1, rows * pixels, -1), arriving.reshape(1, -1, outputs)
    products = buffer("product", (len(seen), *total.shape), total.dtype)
    np.matmul(seen.transpose(0, 2, 1), arriving, out=products)
    total += products[0] if len(products) == 1 else products.sum(axis=0)


def _in_lanes(
    parts: Sequence[Tile],
    *shapes: tuple[int, ...],
    dtype: np.dtype[Any],
    work: Callable[[Tile, Any], None],
) -> tuple[Array, ...]:
    """Sums over all tiles that ``work(tile, sums)`` adds to, always in the same order."""
    lanes = max(1, min(_LANES, len(parts)))
    partial = [np.zeros((lanes, *shape), dtype=dtype) for shape in shapes]

    def run(lane: int) -> None:
        for tile in parts[lane::_LANES]:
            work(tile, tuple(sums[lane] for sums in partial))

    parallel(run, range(lanes) if parts else ())
    return tuple(sums.sum(axis=0) for sums in partial)


def _column_sums(rows: Array) -> Array:
    return np.ones(len(rows), dtype=rows.dtype) @ rows
