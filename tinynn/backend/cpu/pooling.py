"""Max-pooling on the CPU: windows of 2 by 2 side by side, in two halvings."""

from __future__ import annotations

import numpy as np

from tinynn.backend.cpu.buffers import buffer
from tinynn.backend.cpu.threads import parallel
from tinynn.backend.reference import Array, Backend
from tinynn.backend.window import Window

_CHUNK = 1 << 18  # elements; below it, handing work to a thread costs more than it saves


class Pooling(Backend):
    """Max-pooling a few images at a time."""

    def max_pool2d(self, x: Array, window: Window) -> tuple[Array, Array]:
        out_h, out_w = window.output_size(*x.shape[1:3])
        best = np.empty((x.shape[0], out_h, out_w, x.shape[3]), dtype=x.dtype)
        halving = is_tiling(window)
        winner = np.empty(best.shape, dtype=np.int8 if halving else np.int16)

        def pool(images: slice) -> None:
            if halving:
                padded = self.pad_image(x[images], window, -np.inf)[:, : 2 * out_h, : 2 * out_w]
                planes = buffer("planes", (2, 2, *best[images].shape), x.dtype)
                for i, j in np.ndindex(2, 2):
                    np.copyto(planes[i, j], padded[:, i::2, j::2])
                pool_planes(planes, best[images], winner[images])
            else:
                best[images], winner[images] = Backend.max_pool2d(self, x[images], window)

        parallel(pool, image_chunks(x))
        return best, winner

    def sum_pool2d(self, x: Array, window: Window) -> Array:
        rows, columns = window.output_size(*x.shape[1:3])
        if not _divides(window, x.shape):
            return super().sum_pool2d(x, window)
        (kh, kw), (images, _, _, channels) = window.kernel, x.shape
        return self.sum(x.reshape(images, rows, kh, columns, kw, channels), (2, 4))

    def sum_pool2d_adjoint(self, grad: Array, window: Window, shape: tuple[int, ...]) -> Array:
        if not _divides(window, shape):
            return super().sum_pool2d_adjoint(grad, window, shape)
        (kh, kw), (images, rows, columns, channels) = window.kernel, grad.shape
        out = np.empty((images, rows, kh, columns, kw, channels), dtype=grad.dtype)
        out[...] = grad[:, :, None, :, None]
        return out.reshape(shape)

    def max_pool2d_scatter(
        self, values: Array, winner: Array, window: Window, shape: tuple[int, ...]
    ) -> Array:
        out = np.empty(shape, dtype=values.dtype)
        covered = is_tiling(window) and not any(map(any, window.padding))
        covered = covered and values.shape[1] * 2 == shape[1] and values.shape[2] * 2 == shape[2]

        def scatter(images: slice) -> None:
            if covered:  # each pixel lies in one window: nothing to add up
                plane = buffer("planes", values[images].shape, values.dtype)
                for i, j, rows, columns in window.taps(*values.shape[1:3]):
                    np.multiply(values[images], winner[images] == 2 * i + j, out=plane)
                    np.copyto(out[images, rows, columns], plane)
            else:
                part = (len(out[images]), *shape[1:])
                out[images] = Backend.max_pool2d_scatter(
                    self, values[images], winner[images], window, part
                )

        parallel(scatter, image_chunks(out))
        return out


def _divides(window: Window, shape: tuple[int, ...]) -> bool:
    """Whether windows side by side cover the image and nothing else."""
    fits = shape[1] % window.kernel[0] == shape[2] % window.kernel[1] == 0
    dense = window.stride == window.kernel and window.dilation == (1, 1)
    return fits and dense and not any(map(any, window.padding))


def is_tiling(window: Window) -> bool:
    """Whether windows of 2 by 2 pixels lie side by side."""
    return window.kernel == window.stride == (2, 2) and window.dilation == (1, 1)


def pool_planes(planes: Array, best: Array, winner: Array | None) -> None:
    """Max-pooling of even and odd rows and columns of images: planes (2, 2, ...), written over.

    Columns are compared first, then rows, so that the first of equal values wins.
    """
    if winner is None:
        np.maximum(planes[0], planes[1], out=planes[0])
        np.maximum(planes[0, 0], planes[0, 1], out=best)
        return
    across = buffer("across", (2, *best.shape), best.dtype)
    places = buffer("places", (3, *best.shape), np.dtype(np.bool_))
    np.maximum(planes[:, 0], planes[:, 1], out=across)
    np.greater(planes[:, 1], planes[:, 0], out=places[:2])
    np.maximum(across[0], across[1], out=best)
    np.greater(across[1], across[0], out=places[2])
    above, below, lower = places.view(np.int8)
    np.subtract(below, above, out=winner)  # above + lower · (below + 2 - above): no branch
    np.add(winner, np.int8(2), out=winner)
    np.multiply(winner, lower, out=winner)
    np.add(winner, above, out=winner)


def image_chunks(x: Array) -> list[slice]:
    """The images of a batch in runs that are worth a thread's while."""
    step = max(1, _CHUNK // max(1, x[0].size)) if x.shape[0] else 1
    return [slice(start, start + step) for start in range(0, x.shape[0], step)]
