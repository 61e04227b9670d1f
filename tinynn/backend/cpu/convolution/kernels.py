"""Convolutions on the CPU, and what is done to their tiles while those are in the cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from tinynn.backend.cpu import elementwise
from tinynn.backend.cpu.buffers import buffer
from tinynn.backend.cpu.convolution import depthwise, fft
from tinynn.backend.cpu.convolution.choice import get_conv2d_algorithm
from tinynn.backend.cpu.convolution.rows import (
    Shape,
    fetch,
    kernel_rows,
    multiply_rows,
    packed,
    shape_of,
    weight_of,
)
from tinynn.backend.cpu.linalg import column_sums
from tinynn.backend.cpu.pooling import is_halving, pool_planes
from tinynn.backend.cpu.threads import parallel
from tinynn.backend.cpu.tiles import Tile, cut_tiles
from tinynn.backend.reference import Array, Backend, NeedsGrad
from tinynn.backend.window import Pair, Window

_LANES = 8  # partial sums of a weight gradient: fixed, so that no result depends on the threads


def conv2d(
    backend: Backend, x: Array, weight: Array, bias: Array | None, window: Window, groups: int
) -> Array:
    """By FFT, elementwise for thin groups, else by row products."""
    if not _is_wide(x):
        return Backend.conv2d(backend, x, weight, bias, window, groups)
    size = window.output_size(*x.shape[1:3])
    out = elementwise.empty((x.shape[0], *size, weight.shape[3]), x.dtype)
    cut = _spectral(x.shape, x.dtype, window, size, weight.shape[3], groups)
    if cut is not None:
        fft.conv2d(x, weight, window, cut, out, parallel)
        if bias is not None:
            backend.add_bias(out, bias)
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
    backend: Backend,
    grad: Array,
    weight: Array,
    window: Window,
    groups: int,
    shape: tuple[int, ...],
) -> Array:
    """A convolution with the flipped kernel."""
    if not _is_plain(window) or not _is_wide(grad):
        return Backend.conv2d_input_gradient(backend, grad, weight, window, groups, shape)
    out = elementwise.empty(shape, grad.dtype)
    if depthwise.is_thin(weight, groups):
        depthwise.input_gradient(grad, weight, window, groups, out)
        return out
    for source, target in _by_group(groups, shape[3], weight.shape[3]):
        _input_gradient(grad[..., target], weight[..., target], window, out[..., source])
    return out


def conv2d_weight_gradient(
    backend: Backend, x: Array, grad: Array, window: Window, groups: int
) -> Array:
    """Transposed row products, summed over tiles."""
    if not _is_wide(x):
        return Backend.conv2d_weight_gradient(backend, x, grad, window, groups)
    channels = x.shape[3] // groups
    out = np.empty((*window.kernel, channels, grad.shape[3]), dtype=x.dtype)
    if depthwise.is_thin(out, groups):
        depthwise.weight_gradient(x, grad, window, groups, out)
        return out
    for source, target in _by_group(groups, x.shape[3], grad.shape[3]):
        out[..., target] = _weight_gradient(x[..., source], grad[..., target], window)
    return out


def conv2d_gradients(
    backend: Backend,
    x: Array,
    weight: Array,
    grad: Array,
    window: Window,
    groups: int,
    needs_grad: NeedsGrad,
) -> tuple[Array | None, ...]:
    """Both gradients in one pass over the upstream gradient."""
    cut = _spectral(x.shape, x.dtype, window, grad.shape[1:3], weight.shape[3], groups)
    if cut is not None:
        image, kernel = fft.gradients(x, weight, grad, window, cut, needs_grad[:2], parallel)
        return image, kernel, backend.sum(grad, (0, 1, 2)) if needs_grad.bias else None
    joint = groups == 1 and window.kernel != (1, 1) and needs_grad.x and needs_grad.weight
    if not joint or not _is_wide(x) or not _is_plain(window):
        return Backend.conv2d_gradients(backend, x, weight, grad, window, groups, needs_grad)
    shape = shape_of(x.shape, x.dtype, window, grad.shape[1:3], grad.shape[3], backward=True)
    parts = shape.tiles()
    if not _are_whole(parts, shape):
        return Backend.conv2d_gradients(backend, x, weight, grad, window, groups, needs_grad)
    back = _Back(weight, window, x.shape, grad.shape)
    image_grad = elementwise.empty(x.shape, x.dtype)

    def work(tile: Tile, sums: tuple[Array, Array]) -> None:
        arriving = grad[tile.images]
        if needs_grad.bias:
            sums[1][...] += column_sums(arriving.reshape(-1, shape.outputs))
        _add_weight_gradient(shape, x, arriving, tile, sums[0])
        back.run(arriving, image_grad[tile.images])

    sums = _in_lanes(parts, shape.kernel, (shape.outputs,), dtype=x.dtype, work=work)
    return image_grad, weight_of(sums[0], shape), sums[1] if needs_grad.bias else None


def conv2d_relu_pool(
    backend: Backend,
    x: Array,
    weight: Array,
    bias: Array | None,
    window: Window,
    pool: Window,
    keep: bool = True,
) -> tuple[Array, Array | None]:
    """Each tile is pooled, shifted and rectified in the cache."""
    shape = _pooled(x, window, pool, weight.shape[3], False)
    if shape is None:
        return Backend.conv2d_relu_pool(backend, x, weight, bias, window, pool, keep)
    size, width = window.output_size(*x.shape[1:3]), shape.width // 2
    kernel = kernel_rows(weight, shape)
    best = elementwise.empty((x.shape[0], shape.rows // 2, width, shape.outputs), x.dtype)
    winner = np.empty(best.shape, dtype=np.int8) if keep else None
    shift = None if bias is None else elementwise.repeat_row(bias, bias.dtype, best.size)

    def work(tile: Tile) -> None:
        shape.fetch(x, tile)
        rows = shape.at(tile)
        rows.load(x, tile)
        rows.multiply(kernel)
        rows.to_planes()
        planes = rows.planes
        if 2 * width > size[1]:  # what rounding up adds to the last windows
            planes[:, 1, :, :, :, width - 1] = -np.inf
        if tile.rows.stop > size[0]:
            line, pair = divmod((tile.rows.stop - tile.rows.start) // 2 - 1, planes.shape[2])
            planes[1, :, pair, line] = -np.inf
        won = None if winner is None else buffer("won", planes.shape[2:], winner.dtype)
        pool_planes(planes, rows.pooled, won)
        half = slice(tile.rows.start // 2, tile.rows.stop // 2)
        result = best[tile.images, half]
        _from_pairs(rows.pooled, result)
        if shift is not None:
            elementwise.broadcast_row(np.add, result, shift, result)
        elementwise.relu_into(result, result)
        if winner is not None and won is not None:
            _from_pairs(won, winner[tile.images, half])

    parallel(work, shape.tiles())
    return best, winner


def conv2d_relu_pool_gradients(
    backend: Backend,
    x: Array,
    weight: Array,
    grad: Array,
    out: Array,
    winner: Array,
    window: Window,
    pool: Window,
    needs_grad: NeedsGrad,
) -> tuple[Array | None, ...]:
    """Both gradients, from a full-size upstream gradient made tile by tile."""
    shape = _pooled(x, window, pool, grad.shape[3], True)
    parts = () if shape is None else shape.tiles()
    if shape is None or not _are_whole(parts, shape) or window.stride != (1, 1):
        return Backend.conv2d_relu_pool_gradients(
            backend, x, weight, grad, out, winner, window, pool, needs_grad
        )
    image_grad = elementwise.empty(x.shape, x.dtype) if needs_grad.x else None
    full, outputs = (len(x), shape.rows, shape.width, shape.outputs), shape.outputs
    back = _Back(weight, window, x.shape, full) if needs_grad.x else None

    def work(tile: Tile, sums: tuple[Array, Array]) -> None:
        rows = shape.at(tile)
        planes, values = rows.planes, rows.pooled
        _to_pairs(grad[tile.images], values)
        passed, won = (
            _to_pairs(array[tile.images], buffer(name, values.shape, array.dtype))
            for name, array in (("passed", out), ("won", winner))
        )
        np.multiply(values, passed > 0, out=values)
        for i, j in np.ndindex(2, 2):
            np.multiply(values, won == 2 * i + j, out=planes[i, j])
        if needs_grad.bias:
            sums[1][...] += column_sums(values.reshape(-1, outputs))
        if needs_grad.weight:
            shape.fetch(x, tile)
            rows.load(x, tile)
            rows.from_planes()
            sums[0][...] += rows.against()
        if back is not None and image_grad is not None:
            arriving = buffer("arriving", (len(x[tile.images]), *full[1:]), x.dtype)
            for i, j in np.ndindex(2, 2):
                _from_pairs(planes[i, j], arriving[:, i::2, j::2])
            back.run(arriving, image_grad[tile.images])

    sums = _in_lanes(parts, shape.kernel, (outputs,), dtype=x.dtype, work=work)
    return (
        image_grad,
        weight_of(sums[0], shape) if needs_grad.weight else None,
        sums[1] if needs_grad.bias else None,
    )


def _is_wide(x: Array) -> bool:
    """Whether BLAS knows the dtype; sums of halves are left to the reference."""
    return bool(x.dtype.itemsize > 2)


def _fits(pool: Window) -> bool:
    """Whether windows of 2 by 2 lie side by side and begin inside the image."""
    return is_halving(pool) and max(pool.padding) <= (0, 1) and min(pool.padding) >= (0, 0)


def _pooled(x: Array, window: Window, pool: Window, outputs: int, backward: bool) -> Shape | None:
    """The convolution with the output that pooling sees, or None where it is not done in tiles."""
    if not _is_wide(x) or not _fits(pool):
        return None
    algorithm = get_conv2d_algorithm()
    return _pooled_shape(x.shape, x.dtype, window, pool, outputs, backward, algorithm)


@lru_cache(maxsize=256)
def _pooled_shape(
    images: tuple[int, ...],
    dtype: np.dtype[Any],
    window: Window,
    pool: Window,
    outputs: int,
    backward: bool,
    algorithm: str,  # what the choices below depend on
) -> Shape | None:
    size = window.output_size(*images[1:3])
    if _spectral(images, dtype, window, size, outputs, 1):
        return None
    height, width = pool.output_size(*size)
    return shape_of(images, dtype, window, (2 * height, 2 * width), outputs, 2, backward)


def _spectral(
    images: tuple[int, ...],
    dtype: np.dtype[Any],
    window: Window,
    size: Pair,
    outputs: int,
    groups: int,
) -> fft.Plan | None:
    """How to convolve in the frequency domain, where that pays."""
    if groups != 1 or dtype.itemsize < 4 or 0 in images:
        return None
    return fft.plan(window, (size[0], size[1]), images[3], outputs, images[0])


def _by_group(groups: int, channels: int, outputs: int) -> Iterator[tuple[slice, slice]]:
    """The channels and the outputs of each group."""
    c, o = channels // groups, outputs // groups
    for group in range(groups):
        yield slice(group * c, (group + 1) * c), slice(group * o, (group + 1) * o)


class _Correlation:
    """A weight that slides over images (N, H, W, C), a tile at a time."""

    def __init__(
        self, weight: Array, window: Window, images: tuple[int, ...], size: tuple[int, ...]
    ) -> None:
        sizes = (size[0], size[1])
        self.shape = shape_of(images, weight.dtype, window, sizes, weight.shape[3])
        self.kernel = kernel_rows(weight, self.shape)

    def run(self, x: Array, tile: Tile, out: Array) -> None:
        """The part ``out`` of the output that the tile names."""
        rows = self.shape.at(tile)
        rows.load(x, tile)
        rows.multiply(self.kernel)
        rows.write(out)


def _correlate(x: Array, weight: Array, bias: Array | None, window: Window, out: Array) -> None:
    """Slide the weight over x."""
    seen = x[:, :: window.stride[0], :: window.stride[1]]
    # as an adjoint it may have more pixels to fill than there are gradients
    if _is_pointwise(window) and out.flags.c_contiguous and seen.shape[1:3] == out.shape[1:3]:
        _multiply_pixels(seen, weight[0, 0], out)
        if bias is not None:
            out += bias
        return
    correlation = _Correlation(weight, window, x.shape, out.shape[1:3])
    shift = None if bias is None else elementwise.repeat_row(bias, bias.dtype, out.size)

    def work(tile: Tile) -> None:
        part = out[tile.images, tile.rows]
        correlation.shape.fetch(x, tile)
        correlation.run(x, tile, part)
        if shift is not None and part.flags.c_contiguous:
            elementwise.broadcast_row(np.add, part, shift, part)
        elif bias is not None:
            part += bias

    if out.size:
        parallel(work, correlation.shape.tiles())


def _are_whole(parts: Sequence[Tile], shape: Shape) -> bool:
    """Whether the tiles are whole images."""
    return all(tile.rows == slice(0, shape.rows) for tile in parts)


def _is_plain(window: Window) -> bool:
    """Whether the adjoint is made of correlations: not with both a stride and a dilation."""
    return window.stride == (1, 1) or window.dilation == (1, 1)


def _is_pointwise(window: Window) -> bool:
    return window.kernel == (1, 1) and not any(map(any, window.padding))


def _multiply_pixels(x: Array, matrix: Array, out: Array) -> None:
    """out (N, H, W, O) = each pixel of x (N, H, W, C) times the matrix (C, O)."""
    row_bytes = x.shape[2] * (x.shape[3] + out.shape[3]) * x.itemsize
    matrix = np.ascontiguousarray(matrix)

    def work(tile: Tile) -> None:
        pixels = packed(x[tile.images, tile.rows]).reshape(-1, x.shape[3])
        multiply_rows(pixels, matrix, out[tile.images, tile.rows].reshape(-1, out.shape[3]))

    if out.size:
        parallel(work, cut_tiles(len(x), x.shape[1], row_bytes))


class _Back:
    """The adjoint of a correlation in the images, for whole images at a time.

    It is itself a correlation, with the kernel turned round. With a stride each residue of the
    image's rows sees some rows of the kernel only, and is a correlation of its own; columns are
    computed ``stride`` at a time, as if they were channels.
    """

    def __init__(
        self, weight: Array, window: Window, images: tuple[int, ...], grads: tuple[int, ...]
    ) -> None:
        (sh, self.stride), ((top, _), (left, _)) = window.stride, window.padding
        _, height, self.width, _ = images
        self.parts: list[tuple[slice, _Correlation | None]] = []
        if window.stride == (1, 1):
            turned = _Correlation(_flip(weight), _turned(window), grads, images[1:3])
            self.parts.append((slice(None), turned))
            return
        kernel, before = _folded(weight, self.stride, left)
        for row in range(sh):
            first = -((row - top) // sh)  # the first window that sees such a row, rounded up
            rows = range(first * sh + row - top, height, sh)
            size = (len(rows), -(-self.width // self.stride))
            taps = kernel[row::sh]
            part: _Correlation | None = None
            if 0 not in taps.shape[:2] and rows:
                place = Window(taps.shape[:2], padding=((len(taps) - 1 - first, 0), (before, 0)))
                part = _Correlation(taps[::-1], place, grads, size)
            self.parts.append((slice(rows.start, None, sh), part))

    def run(self, grad: Array, out: Array) -> None:
        """out = the gradient of some images, from that of their outputs."""
        columns = -(-self.width // self.stride)
        sizes = (*out.shape[:2], columns, self.stride * out.shape[3])
        direct = out.flags.c_contiguous and columns * self.stride == self.width
        target = out.reshape(sizes) if direct else buffer("image", sizes, out.dtype)
        for rows, turned in self.parts:
            part = target[:, rows]
            if turned is None:
                part[...] = 0
            else:
                turned.run(grad, Tile(slice(0, len(grad)), slice(0, part.shape[1])), part)
        if not direct:
            wide = target.reshape(*out.shape[:2], columns * self.stride, out.shape[3])
            np.copyto(out, wide[:, :, : self.width])


def _input_gradient(grad: Array, weight: Array, window: Window, out: Array) -> None:
    """The adjoint of the correlation in the images."""
    if window.stride == (1, 1):
        _correlate(grad, _flip(weight), None, _turned(window), out)
    elif out.size:
        back = None if _is_pointwise(window) else _Back(weight, window, out.shape, grad.shape)

        def work(part: slice) -> None:
            if back is not None:
                back.run(grad[part], out[part])
            else:
                _spread_pixels(grad[part], weight[0, 0].T, out[part], window.stride)

        image_bytes = out.shape[1] * out.shape[2] * (out.shape[3] + grad.shape[3]) * out.itemsize
        parallel(work, [tile.images for tile in cut_tiles(len(out), 1, image_bytes)])


def _spread_pixels(grad: Array, matrix: Array, out: Array, stride: Pair) -> None:
    """out = each pixel of the gradient times the matrix, ``stride`` pixels apart; zeros between."""
    pixels = buffer("pixels", (*grad.shape[:3], out.shape[3]), out.dtype)
    multiply_rows(packed(grad).reshape(-1, grad.shape[3]), matrix, pixels.reshape(-1, out.shape[3]))
    out[...] = 0
    out[:, :: stride[0], :: stride[1]][:, : grad.shape[1], : grad.shape[2]] = pixels


def _folded(weight: Array, stride: int, left: int) -> tuple[Array, int]:
    """A kernel (kh, columns, O, stride · C) for ``stride`` columns of the image at a time.

    And how many columns of the gradient lie before the one of the same number.
    """
    kh, kw, channels, outputs = weight.shape
    before = (kw - 1 - left) // stride
    behind = (stride - 1 + left) // stride
    kernel = np.zeros((kh, max(0, before + behind + 1), outputs, stride, channels), weight.dtype)
    for column, offset in np.ndindex(kernel.shape[1], stride):
        tap = stride * (before - column) + offset + left
        if 0 <= tap < kw:
            kernel[:, column, :, offset] = weight[:, tap].transpose(0, 2, 1)
    return kernel.reshape(kh, -1, outputs, stride * channels), before


def _flip(weight: Array) -> Array:
    return weight[::-1, ::-1].transpose(0, 1, 3, 2)


def _turned(window: Window) -> Window:
    """The window with which the turned kernel slides over the gradient."""
    before = [
        extent - 1 - padding[0]
        for extent, padding in zip(window.extent, window.padding, strict=True)
    ]
    return Window(window.kernel, padding=((before[0], 0), (before[1], 0)), dilation=window.dilation)


def _weight_gradient(x: Array, grad: Array, window: Window) -> Array:
    """(kh, kw, C, O): what each tap sees times what arrives, added up over the pixels."""
    if _is_pointwise(window):
        x = x[:, :: window.stride[0], :: window.stride[1]][:, : grad.shape[1], : grad.shape[2]]
        window = Window((1, 1))
    shape = shape_of(x.shape, x.dtype, window, grad.shape[1:3], grad.shape[3], backward=True)

    def work(tile: Tile, sums: tuple[Array, ...]) -> None:
        _add_weight_gradient(shape, x, grad[tile.images, tile.rows], tile, sums[0])

    (total,) = _in_lanes(shape.tiles() if grad.size else (), shape.kernel, dtype=x.dtype, work=work)
    return weight_of(total, shape)


def _add_weight_gradient(shape: Shape, x: Array, grad: Array, tile: Tile, total: Array) -> None:
    """total += what a tile, whose outputs have the gradient ``grad``, adds to ``kernel_rows``."""
    rows = shape.at(tile)
    shape.fetch(x, tile)
    rows.load(x, tile)
    fetch(grad)
    rows.load_gradient(grad)
    total += rows.against()


def _to_pairs(array: Array, pairs: Array) -> Array:
    """Rows of (N, H, W, O) by turns in (pairs, lines, N, columns, O); zeros fill what is left."""
    pairs[:, :, :, array.shape[2] :] = 0
    for lines, rows in _by_turns(pairs, array):
        np.copyto(lines[:, : rows.shape[1], :, : array.shape[2]], rows)
        if rows.shape[1] < pairs.shape[1]:
            lines[:, rows.shape[1] :] = 0
    return pairs


def _from_pairs(pairs: Array, out: Array) -> None:
    """The reverse: out = what ``_to_pairs`` would have taken."""
    for lines, rows in _by_turns(pairs, out):
        np.copyto(rows, lines[:, : rows.shape[1], :, : out.shape[2]])


def _by_turns(pairs: Array, array: Array) -> Iterator[tuple[Array, Array]]:
    """Parts of (pairs, lines, N, columns, O) with the rows of (N, H, W, O) that belong to them.

    All at once where the rows fill the pairs, else one after the other.
    """
    count, length = pairs.shape[:2]
    if array.shape[1] == count * length:
        rows = array.reshape(len(array), length, count, *array.shape[2:])
        yield pairs, rows.transpose(2, 1, 0, 3, 4)
        return
    for pair in range(count):
        yield pairs[pair : pair + 1], array[None, :, pair::count].transpose(0, 2, 1, 3, 4)


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
