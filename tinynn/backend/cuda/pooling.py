"""Pooling on a GPU: one launch each, in gather form."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from tinynn.backend.cuda.launch import THREADS, CudaKernels, blocks_for, kernel, struct
from tinynn.backend.reference import Array
from tinynn.backend.window import Window

Shape = tuple[int, ...]


class Pooling(CudaKernels):
    """Largest and sums of windows, and what leads back."""

    def max_pool2d(self, x: Array, window: Window) -> tuple[Array, Array]:
        """Values and winners (int8 where that can number the taps) in one launch."""
        x = self.contiguous(x)
        wide = window.kernel[0] * window.kernel[1] > 127
        out = self._pooled(x, window)
        winner = self.xp.empty(out.shape, self.xp.int16 if wide else self.xp.int8)
        _launch("max_pool", x, out, wide, (x, _geometry(x.shape, out.shape, window), out, winner))
        return out, winner

    def max_pool2d_scatter(
        self, values: Array, winner: Array, window: Window, shape: Shape
    ) -> Array:
        """Each pixel gathers from the windows that it may have won."""
        return self._scatter(values, 0, winner, window, shape)

    def relu_max_pool2d_gradient(
        self, grad: Array, out: Array, winner: Array, window: Window, shape: Shape
    ) -> Array:
        """ReLU's and the pooling's gradient in one launch."""
        return self._scatter(grad, self.contiguous(out), winner, window, shape)

    def max_pool2d_gather(self, x: Array, winner: Array, window: Window) -> Array:
        """One read for each pooled element."""
        x, winner = self.contiguous(x), self.contiguous(winner)
        out = self.xp.empty(winner.shape, x.dtype)
        arguments = (x, winner, _geometry(x.shape, out.shape, window), out)
        _launch("max_pool_gather", x, out, winner.dtype.itemsize > 1, arguments)
        return out

    def sum_pool2d(self, x: Array, window: Window) -> Array:
        """One thread adds up one window."""
        x = self.contiguous(x)
        out = self._pooled(x, window)
        _launch("sum_pool", x, out, False, (x, _geometry(x.shape, out.shape, window), out))
        return out

    def sum_pool2d_adjoint(self, grad: Array, window: Window, shape: Shape) -> Array:
        """One thread adds up the windows that hold its pixel."""
        grad = self.contiguous(grad)
        x = self.xp.empty(shape, grad.dtype)
        geometry = _geometry(shape, grad.shape, window)
        _launch("sum_pool_adjoint", grad, x, False, (grad, geometry, x))
        return x

    def _pooled(self, x: Array, window: Window) -> Array:
        size = window.output_size(*x.shape[1:3])
        return self.xp.empty((x.shape[0], *size, x.shape[3]), x.dtype)

    def _scatter(
        self, values: Array, out: Any, winner: Array, window: Window, shape: Shape
    ) -> Array:
        values, winner = self.contiguous(values), self.contiguous(winner)
        x = self.xp.empty(shape, values.dtype)
        arguments = (values, out, winner, _geometry(shape, values.shape, window), x)
        _launch("max_pool_scatter", values, x, winner.dtype.itemsize > 1, arguments)
        return x


def _launch(name: str, x: Array, result: Array, wide: bool, arguments: tuple[Any, ...]) -> None:
    if result.size:
        launch = kernel("pooling", name, x.dtype.name, WIDE=int(wide))
        launch(blocks_for(result.size), (THREADS,), arguments)


@lru_cache(maxsize=1024)
def _geometry(image: Shape, pooled: Shape, window: Window) -> Any:
    """The struct ``Pool`` of ``pooling.cu``."""
    (kh, kw), (stride_h, stride_w) = window.kernel, window.stride
    return struct(
        images=image[0],
        height=image[1],
        width=image[2],
        channels=image[3],
        out_height=pooled[1],
        out_width=pooled[2],
        kh=kh,
        kw=kw,
        stride_h=stride_h,
        stride_w=stride_w,
        top=window.padding[0][0],
        left=window.padding[1][0],
        dilation_h=window.dilation[0],
        dilation_w=window.dilation[1],
    )
