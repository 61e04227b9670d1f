"""Pooling on a GPU: one launch each. Every kernel gathers, so none needs atomics."""

from typing import Any

from tinynn.backend.cuda.device import CudaDevice
from tinynn.backend.cuda.geometry import Shape, packed, sliding
from tinynn.backend.cuda.launch import KernelFile
from tinynn.backend.reference import Array, PooledGrad
from tinynn.backend.window import Window

_kernels = KernelFile("pooling")


def max_pool2d(backend: CudaDevice, x: Array, window: Window) -> tuple[Array, Array]:
    """Maxima and the tap of each (int8 if that can number all taps) in one launch."""
    x, out = backend.contiguous(x), _pooled(backend, x, window)
    wide = window.kernel[0] * window.kernel[1] > 127
    winner = backend.xp.empty(out.shape, backend.xp.int16 if wide else backend.xp.int8)
    _launch("max_pool", x, out, window, x, out, winner, wide=wide)
    return out, winner


def max_pool2d_gather(backend: CudaDevice, x: Array, winner: Array, window: Window) -> Array:
    """One read per pooled element."""
    x, winner = backend.contiguous(x), backend.contiguous(winner)
    out = backend.xp.empty(winner.shape, x.dtype)
    wide = winner.itemsize > 1
    _launch("max_pool_gather", x, out, window, x, winner, out, wide=wide)
    return out


def sum_pool2d(backend: CudaDevice, x: Array, window: Window) -> Array:
    """One thread adds one window."""
    x, out = backend.contiguous(x), _pooled(backend, x, window)
    _launch("sum_pool", x, out, window, x, out)
    return out


def max_pool2d_scatter(
    backend: CudaDevice, values: Array, winner: Array, window: Window, shape: Shape
) -> Array:
    """Each pixel adds the values of the windows whose maximum it was."""
    return relu_max_pool2d_gradient(backend, PooledGrad(values, None, winner, window), shape)


def sum_pool2d_adjoint(backend: CudaDevice, grad: Array, window: Window, shape: Shape) -> Array:
    """Each pixel adds the windows that contain it."""
    return relu_max_pool2d_gradient(backend, PooledGrad(grad, None, None, window), shape)


def relu_max_pool2d_gradient(backend: CudaDevice, pooled: PooledGrad, shape: Shape) -> Array:
    """The backward passes of ReLU and max pooling in one launch.

    Without ``out`` there is no ReLU; without ``winner`` each pixel of a window gets its value.
    """
    values, x = backend.contiguous(pooled.grad), backend.xp.empty(shape, pooled.grad.dtype)
    winner = pooled.winner
    wide = winner is not None and winner.itemsize > 1
    conditions = (backend.pointer(pooled.out), backend.pointer(winner))
    _launch("scatter", x, values, pooled.pool, values, *conditions, x, wide=wide)
    return x


def _pooled(backend: CudaDevice, x: Array, window: Window) -> Array:
    size = window.output_size(*x.shape[1:3])
    return backend.xp.empty((x.shape[0], *size, x.shape[3]), x.dtype)


def _launch(
    name: str, image: Array, pooled: Array, window: Window, *arrays: Any, wide: bool = False
) -> None:
    """Launch a kernel with one thread per element of the last array, a result."""
    g, count = packed(sliding(image.shape, pooled.shape[1:3], window)), arrays[-1].size
    _kernels.for_each(name, image.dtype, count, g, count, *arrays, WIDE=int(wide))
