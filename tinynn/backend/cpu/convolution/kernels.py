"""The convolution kernels of the CPU backend: each executes a plan made by ``choice``.

A batch is cut into tiles, which run on several threads. The gradient of the image is again a
convolution, of the upstream gradient with the flipped kernel. Sums over tiles (the gradient of the
weight) go into a fixed number of partial sums, added in a fixed order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

from tinynn.backend.cpu import elementwise, tuning
from tinynn.backend.cpu.buffers import buffer
from tinynn.backend.cpu.convolution import choice, depthwise, fft
from tinynn.backend.cpu.convolution.choice import Adjoint, Joint, Method
from tinynn.backend.cpu.convolution.rows import (
    Layout,
    Rows,
    contiguous_rows,
    matmul_small,
    prefetch,
)
from tinynn.backend.cpu.reduction import column_sums
from tinynn.backend.cpu.threads import parallel
from tinynn.backend.cpu.tiles import Shape, Tile, cut, cut_tiles
from tinynn.backend.reference import Array, Backend, NeedsGrad
from tinynn.backend.window import Window


def conv2d(backend: Backend, x: Array, weight: Array, bias: Array | None, window: Window) -> Array:
    """By FFT, elementwise for thin groups, else by row products."""
    shape = (x.shape[0], *window.output_size(*x.shape[1:3]), weight.shape[3])
    plan = choice.forward(choice.problem(x.shape, shape, window, x.dtype))
    if plan is Method.REFERENCE:
        return Backend.conv2d(backend, x, weight, bias, window)
    out = elementwise.empty(shape, x.dtype)
    if isinstance(plan, Layout):
        for channels, outputs in _groups(window, x.shape[3], weight.shape[3]):
            shift = None if bias is None else bias[outputs]
            kernel = plan.kernel_rows(weight[..., outputs])
            _correlate(x[..., channels], kernel, shift, plan, out[..., outputs])
        return out
    if isinstance(plan, fft.Tiling):
        fft.conv2d(x, weight, window, plan, out)
    elif plan is Method.DEPTHWISE:
        depthwise.conv2d(x, weight, window, out)
    else:
        _multiply_pixels(_visited(x, window, out), weight[0, 0], out)
    return out if bias is None else backend.add_bias(out, bias)


def conv2d_input_gradient(
    backend: Backend, grad: Array, weight: Array, window: Window, shape: Shape
) -> Array:
    """By the convolution of the upstream gradient with the flipped kernel."""
    if not math.prod(shape):
        return np.empty(shape, grad.dtype)
    plan = choice.input_gradient(choice.problem(shape, grad.shape, window, grad.dtype))
    if plan is Method.REFERENCE:
        return Backend.conv2d_input_gradient(backend, grad, weight, window, shape)
    out = elementwise.empty(shape, grad.dtype)
    if plan is Method.DEPTHWISE:
        depthwise.input_gradient(backend, grad, weight, window, out)
        return out
    for channels, outputs in _groups(window, shape[3], weight.shape[3]):
        if isinstance(plan, Adjoint):
            flipped = FlippedConvolution(plan, weight[..., outputs], out[..., channels])
            flipped.run_all(grad[..., outputs])
        else:  # pixels between those that the windows visit have no gradient
            if window.stride != (1, 1):
                out[..., channels] = 0
            matrix = weight[0, 0, :, outputs].T
            _multiply_pixels(grad[..., outputs], matrix, _visited(out[..., channels], window, grad))
    return out


def conv2d_weight_gradient(backend: Backend, x: Array, grad: Array, window: Window) -> Array:
    """By transposed row products, summed over the tiles."""
    plan = choice.weight_gradient(choice.problem(x.shape, grad.shape, window, x.dtype))
    if plan is Method.REFERENCE:
        return Backend.conv2d_weight_gradient(backend, x, grad, window)
    out = np.empty((*window.kernel, x.shape[3] // window.groups, grad.shape[3]), dtype=x.dtype)
    if not isinstance(plan, Layout):
        depthwise.weight_gradient(x, grad, window, out)
        return out
    if choice.is_pointwise(window):
        x = _visited(x, window, grad)
    for channels, outputs in _groups(window, x.shape[3], grad.shape[3]):
        load = _gradient_loader(grad[..., outputs])
        only_weight = NeedsGrad(x=False, weight=True, bias=False)
        out[..., outputs], _ = sum_gradients(plan, x[..., channels], only_weight, load)
    return out


def conv2d_gradients(
    backend: Backend, x: Array, weight: Array, grad: Array, window: Window, needs: NeedsGrad
) -> tuple[Array | None, ...]:
    """Both gradients in one pass: a tile of the upstream gradient is read once."""
    plan = choice.gradients(choice.problem(x.shape, grad.shape, window, x.dtype))
    if isinstance(plan, fft.Tiling):
        image, kernel = fft.gradients(x, weight, grad, window, plan, needs[:2])
        return image, kernel, backend.sum(grad, (0, 1, 2)) if needs.bias else None
    if not isinstance(plan, Joint) or not (needs.x and needs.weight):
        return Backend.conv2d_gradients(backend, x, weight, grad, window, needs)

    image = elementwise.empty(x.shape, x.dtype)
    flipped = FlippedConvolution(plan.image, weight, image)
    return image, *sum_gradients(plan.weight, x, needs, _gradient_loader(grad), flipped)


# -- forward --------------------------------------------------------------------------------------


def _groups(window: Window, channels: int, outputs: int) -> Iterator[tuple[slice, slice]]:
    """The input and the output channels of each group."""
    return zip(cut(channels, window.groups), cut(outputs, window.groups), strict=True)


def _correlate(x: Array, kernel: Array, bias: Array | None, layout: Layout, out: Array) -> None:
    """out = x convolved with ``kernel_rows`` of a weight, plus a bias."""
    row = None if bias is None else elementwise.repeat_row(bias, bias.dtype, out.size)

    def work(tile: Tile) -> None:
        part = out[tile.images, tile.rows]
        layout.prefetch(x, tile)
        _run(layout, kernel, x, tile, part)
        if row is not None and part.flags.c_contiguous:
            elementwise.broadcast_row(np.add, part, row, part)
        elif bias is not None:
            part += bias

    parallel(work, layout.tiles)


def _run(layout: Layout, kernel: Array, x: Array, tile: Tile, out: Array) -> None:
    """Compute one tile of a convolution."""
    rows = layout.at(tile)
    rows.load(x, tile)
    rows.multiply(kernel)
    rows.write(out)


def _visited(x: Array, window: Window, out: Array) -> Array:
    """The pixels that the windows of a 1×1 kernel visit."""
    return x[:, :: window.stride[0], :: window.stride[1]][:, : out.shape[1], : out.shape[2]]


def _multiply_pixels(x: Array, matrix: Array, out: Array) -> None:
    """out (N, H, W, O) = each pixel of x (N, H, W, C) @ matrix (C, O)."""
    row_bytes = x.shape[2] * (x.shape[3] + out.shape[3]) * x.itemsize
    matrix = np.ascontiguousarray(matrix)

    def work(tile: Tile) -> None:
        pixels = contiguous_rows(x[tile.images, tile.rows]).reshape(-1, x.shape[3])
        part = out[tile.images, tile.rows]
        target = part if part.flags.c_contiguous else buffer("pixels", part.shape, part.dtype)
        matmul_small(pixels, matrix, target.reshape(-1, out.shape[3]))
        if target is not part:
            np.copyto(part, target)

    parallel(work, cut_tiles(len(x), x.shape[1], row_bytes))


# -- the gradient of the image --------------------------------------------------------------------


class FlippedConvolution:
    """The gradient ``out`` of images: an ``Adjoint`` with the kernel of a weight."""

    def __init__(self, plan: Adjoint, weight: Array, out: Array) -> None:
        self.out, (self.row_stride, self.stride) = out, plan.window.stride
        kernel = _flip(weight, plan)
        self.parts = [
            (rows, layout, layout.kernel_rows(kernel[residue :: self.row_stride][::-1]))
            for residue, rows, layout in plan.residues
        ]

    def run_all(self, grad: Array) -> None:
        """The gradient of the batch: in tiles of rows without a stride, else of images."""
        out = self.out
        if self.row_stride == self.stride == 1:
            ((_, layout, kernel),) = self.parts
            _correlate(grad, kernel, None, layout, out)
        else:
            image_bytes = math.prod(out.shape[1:3]) * (out.shape[3] + grad.shape[3]) * out.itemsize
            parts = [tile.images for tile in cut_tiles(len(out), 1, image_bytes)]
            parallel(lambda part: self.run(grad[part], part), parts)

    def run(self, grad: Array, images: slice) -> None:
        """The gradient of some images, given the gradient of their outputs."""
        out = self.out[images]
        # columns are computed ``stride`` at a time; the last ones may be beyond the image
        columns = -(-out.shape[2] // self.stride)
        sizes = (*out.shape[:2], columns, self.stride * out.shape[3])
        direct = out.flags.c_contiguous and columns * self.stride == out.shape[2]
        # (N, rows, columns, stride·C): neighboring columns are contiguous, as channels are
        target = out.reshape(sizes) if direct else buffer("image", sizes, out.dtype)
        if len(self.parts) < self.row_stride:
            target[...] = 0
        for rows, layout, kernel in self.parts:
            part = target[:, rows]
            _run(layout, kernel, grad, Tile(slice(0, len(grad)), slice(0, part.shape[1])), part)
        if not direct:
            wide = target.reshape(*out.shape[:2], columns * self.stride, out.shape[3])
            np.copyto(out, wide[:, :, : out.shape[2]])


def _flip(weight: Array, plan: Adjoint) -> Array:
    """The kernel of the ``Adjoint``, its columns flipped and folded: (kh, columns, O, sw·C).

    With a stride sw, sw neighboring columns of the image are computed at once, as outputs of one
    kernel that has zeros where a tap does not reach. Rows are flipped by the caller.
    """
    stride, left = plan.window.stride[1], plan.window.padding[1][0]
    if stride == 1:
        return weight[:, ::-1].transpose(0, 1, 3, 2)
    kh, kw, channels, outputs = weight.shape
    kernel = np.zeros((kh, plan.columns, outputs, stride, channels), weight.dtype)
    for column, offset in np.ndindex(plan.columns, stride):
        tap = stride * (plan.before - column) + offset + left
        if 0 <= tap < kw:
            kernel[:, column, :, offset] = weight[:, tap].transpose(0, 2, 1)
    return kernel.reshape(kh, -1, outputs, stride * channels)


# -- the gradients of weight and bias -------------------------------------------------------------

# Puts the upstream gradient of a tile into its workspace. Returns the pixels that add up to the
# gradient of the bias, and the upstream gradient (N, H', W', O) for a ``FlippedConvolution``.
Loader = Callable[[Rows, Tile], tuple[Array, Array | None]]


def _gradient_loader(grad: Array) -> Loader:
    def load(rows: Rows, tile: Tile) -> tuple[Array, Array]:
        upstream = grad[tile.images, tile.rows]
        prefetch(upstream)
        rows.load_gradient(upstream)
        return upstream, upstream

    return load


def sum_gradients(
    layout: Layout,
    x: Array,
    needs: NeedsGrad,
    load: Loader,
    flipped: FlippedConvolution | None = None,
) -> tuple[Array | None, Array | None]:
    """The gradients of weight and bias, summed over the tiles; None where not needed.

    ``flipped`` computes the gradient of the image in the same pass; then tiles must be whole
    images.
    """
    # the number of partial sums is a constant, not the number of threads, and each adds its tiles
    # in order: thread timing cannot change the result
    tiles = layout.tiles
    count = min(tuning.WEIGHT_GRADIENT_SUMS, len(tiles))
    kernels = np.zeros((count, *layout.kernel_shape), x.dtype)
    biases = np.zeros((count, layout.outputs), np.float64)

    def work(number: int) -> None:
        for tile in tiles[number::count]:
            rows = layout.at(tile)
            pixels, upstream = load(rows, tile)
            if needs.bias:
                biases[number] += column_sums(pixels.reshape(-1, layout.outputs))
            if needs.weight:
                layout.prefetch(x, tile)
                rows.load(x, tile)
                kernels[number] += rows.weight_gradient()
            if flipped is not None:  # last: it overwrites the workspace
                flipped.run(upstream, tile.images)

    parallel(work, range(count))
    kernel = layout.kernel_rows_adjoint(np.add.reduce(kernels)) if needs.weight else None
    return kernel, np.add.reduce(biases).astype(x.dtype) if needs.bias else None
