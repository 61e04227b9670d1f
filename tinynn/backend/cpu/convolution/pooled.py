"""Convolution, 2×2 max pooling, bias and ReLU in one pass over tiles, and their gradients.

The result of the convolution in full size, four times as large as the pooled one, never reaches
main memory: a tile is convolved, pooled, shifted and rectified while it is in the cache. Pooling
commutes with adding the bias and with ReLU, which then process a quarter of the elements.

The products are laid out in planes of even and odd output rows and columns, (2, 2, pairs, blocks,
N, W/2, O), so that pooling compares whole planes (``pooling.pool_planes``). A block has ``pairs``
pairs of output rows; output row y of the pooled image is pair y mod pairs of block y // pairs.

The backward pass needs the result and the index of each winner, one byte for each pooled pixel. It
rebuilds the full-size gradient tile by tile, and both gradients read it while it is in the cache.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tinynn.backend.cpu import elementwise
from tinynn.backend.cpu.buffers import buffer
from tinynn.backend.cpu.convolution import choice
from tinynn.backend.cpu.convolution.choice import Joint, Problem
from tinynn.backend.cpu.convolution.kernels import FlippedConvolution, sum_gradients
from tinynn.backend.cpu.convolution.rows import Layout, Rows
from tinynn.backend.cpu.pooling import pool_planes
from tinynn.backend.cpu.threads import parallel
from tinynn.backend.cpu.tiles import Tile
from tinynn.backend.reference import Array, Backend, NeedsGrad, PooledGrad
from tinynn.backend.window import Window


def conv2d_relu_pool(
    backend: Backend,
    x: Array,
    weight: Array,
    bias: Array | None,
    window: Window,
    pool: Window,
    keep: bool = True,
) -> tuple[Array, Array | None]:
    """Each tile is convolved, pooled, shifted and rectified in the cache."""
    problem = _problem(x, weight, window)
    layout = choice.pooled(problem, pool)
    if not isinstance(layout, Layout):
        return Backend.conv2d_relu_pool(backend, x, weight, bias, window, pool, keep)
    height, width = problem.size
    kernel = layout.kernel_rows(weight)
    shape = (x.shape[0], layout.rows // 2, layout.width // 2, layout.outputs)
    best = elementwise.empty(shape, x.dtype)
    winner = np.empty(shape, dtype=np.int8) if keep else None
    row = None if bias is None else elementwise.repeat_row(bias, bias.dtype, best.size)

    def work(tile: Tile) -> None:
        layout.prefetch(x, tile)
        rows = layout.at(tile)
        rows.load(x, tile)
        rows.multiply(kernel)
        rows.to_planes()
        planes = rows.planes
        # a pooling that rounds up reads a column and a row beyond the convolution's output
        if layout.width > width:
            planes[:, 1, :, :, :, shape[2] - 1] = -np.inf
        if tile.rows.stop > height:
            block, pair = divmod((tile.rows.stop - tile.rows.start) // 2 - 1, planes.shape[2])
            planes[1, :, pair, block] = -np.inf
        won = None if winner is None else buffer("won", planes.shape[2:], winner.dtype)
        pool_planes(planes, rows.pooled, won)
        half = slice(tile.rows.start // 2, tile.rows.stop // 2)
        result = best[tile.images, half]
        _from_pairs(rows.pooled, result)
        if row is not None:
            elementwise.broadcast_row(np.add, result, row, result)
        elementwise.relu_into(result, result)
        if winner is not None and won is not None:
            _from_pairs(won, winner[tile.images, half])

    parallel(work, layout.tiles)
    return best, winner


def conv2d_relu_pool_gradients(
    backend: Backend, x: Array, weight: Array, pooled: PooledGrad, window: Window, needs: NeedsGrad
) -> tuple[Array | None, ...]:
    """Both gradients from one full-size upstream gradient, which is rebuilt tile by tile."""
    plan = choice.pooled_gradients(_problem(x, weight, window), pooled.pool)
    if not isinstance(plan, Joint):
        return Backend.conv2d_relu_pool_gradients(backend, x, weight, pooled, window, needs)

    def load(rows: Rows, tile: Tile) -> tuple[Array, Array | None]:
        # the gradient behind pooling and ReLU, then routed to the winner of each window
        planes, values = rows.planes, rows.pooled
        _to_pairs(pooled.grad[tile.images], values)
        active, won = (
            _to_pairs(array[tile.images], buffer(name, values.shape, array.dtype))
            for name, array in (("active", pooled.out), ("won", pooled.winner))
        )
        np.multiply(values, active > 0, out=values)
        for i, j in np.ndindex(2, 2):
            np.multiply(values, won == 2 * i + j, out=planes[i, j])
        rows.from_planes()
        if not needs.x:
            return values, None
        layout = plan.weight
        shape = (values.shape[2], layout.rows, layout.width, layout.outputs)
        upstream = buffer("upstream", shape, x.dtype)
        for i, j in np.ndindex(2, 2):
            _from_pairs(planes[i, j], upstream[:, i::2, j::2])
        return values, upstream

    image = elementwise.empty(x.shape, x.dtype) if needs.x else None
    flipped = None if image is None else FlippedConvolution(plan.image, weight, image)
    return image, *sum_gradients(plan.weight, x, needs, load, flipped)


def _problem(x: Array, weight: Array, window: Window) -> Problem:
    size = window.output_size(*x.shape[1:3])
    return choice.problem(x.shape, (len(x), *size, weight.shape[3]), window, x.dtype)


def _to_pairs(array: Array, pairs: Array) -> Array:
    """Copy pooled rows (N, H, W, O) into (pairs, blocks, N, columns, O); zeros fill the rest."""
    pairs[:, :, :, array.shape[2] :] = 0
    for blocks, rows in _matching(pairs, array):
        np.copyto(blocks[:, : rows.shape[1], :, : array.shape[2]], rows)
        if rows.shape[1] < pairs.shape[1]:
            blocks[:, rows.shape[1] :] = 0
    return pairs


def _from_pairs(pairs: Array, out: Array) -> None:
    """The reverse of ``_to_pairs``."""
    for blocks, rows in _matching(pairs, out):
        np.copyto(rows, blocks[:, : rows.shape[1], :, : out.shape[2]])


def _matching(pairs: Array, array: Array) -> Iterator[tuple[Array, Array]]:
    """Parts of (pairs, blocks, N, columns, O) with the rows of (N, H, W, O) that belong to them.

    One part if the rows fill the blocks, else one for each pair.
    """
    count, blocks = pairs.shape[:2]
    if array.shape[1] == count * blocks:
        rows = array.reshape(len(array), blocks, count, *array.shape[2:])
        yield pairs, rows.transpose(2, 1, 0, 3, 4)
        return
    for pair in range(count):
        yield pairs[pair : pair + 1], array[None, :, pair::count].transpose(0, 2, 1, 3, 4)
