"""Pooling on a GPU: one launch each. Every kernel gathers, so none needs atomics."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from tinynn.backend.cuda.device import CudaDevice
from tinynn.backend.cuda.geometry import Shape, packed, sliding
from tinynn.backend.cuda.launch import KernelFile
from tinynn.backend.reference import Array
from tinynn.backend.window import Window

_kernels = KernelFile("pooling")


def max_pool2d(backend: CudaDevice, x: Array, window: Window) -> tuple[Array, Array]:
    """Maxima and the tap of each (int8 if that can number all taps) in one launch."""
    x = backend.contiguous(x)
    wide = window.kernel[0] * window.kernel[1] > 127
    out = _pooled(backend, x, window)
    winner = backend.xp.empty(out.shape, backend.xp.int16 if wide else backend.xp.int8)
    g = _geometry(x.shape, out.shape, window)
    _kernels.for_each("max_pool", x.dtype, out.size, x, g, out, winner, WIDE=int(wide))
    return out, winner


def max_pool2d_scatter(
    backend: CudaDevice, values: Array, winner: Array, window: Window, shape: Shape
) -> Array:
    """Each pixel adds the values of the windows that it won."""
    return _scatter(backend, values, 0, winner, window, shape)


def relu_max_pool2d_gradient(
    backend: CudaDevice, grad: Array, out: Array, winner: Array, window: Window, shape: Shape
) -> Array:
    """The backward passes of ReLU and max-pooling in one launch."""
    return _scatter(backend, grad, backend.contiguous(out), winner, window, shape)


def max_pool2d_gather(backend: CudaDevice, x: Array, winner: Array, window: Window) -> Array:
    """One read per pooled element."""
    x, winner = backend.contiguous(x), backend.contiguous(winner)
    out = backend.xp.empty(winner.shape, x.dtype)
    g, wide = _geometry(x.shape, out.shape, window), winner.dtype.itemsize > 1
    _kernels.for_each("max_pool_gather", x.dtype, out.size, x, winner, g, out, WIDE=int(wide))
    return out


def sum_pool2d(backend: CudaDevice, x: Array, window: Window) -> Array:
    """One thread adds one window."""
    x = backend.contiguous(x)
    out = _pooled(backend, x, window)
    g = _geometry(x.shape, out.shape, window)
    _kernels.for_each("sum_pool", x.dtype, out.size, x, g, out, WIDE=0)
    return out


def sum_pool2d_adjoint(backend: CudaDevice, grad: Array, window: Window, shape: Shape) -> Array:
    """One thread adds the windows that contain its pixel."""
    grad = backend.contiguous(grad)
    x = backend.xp.empty(shape, grad.dtype)
    g = _geometry(shape, grad.shape, window)
    _kernels.for_each("sum_pool_adjoint", grad.dtype, x.size, grad, g, x, WIDE=0)
    return x


def _pooled(backend: CudaDevice, x: Array, window: Window) -> Array:
    size = window.output_size(*x.shape[1:3])
    return backend.xp.empty((x.shape[0], *size, x.shape[3]), x.dtype)


def _scatter(
    backend: CudaDevice, values: Array, out: Any, winner: Array, window: Window, shape: Shape
) -> Array:
    values, winner = backend.contiguous(values), backend.contiguous(winner)
    x = backend.xp.empty(shape, values.dtype)
    g, wide = _geometry(shape, values.shape, window), winner.dtype.itemsize > 1
    arguments = (values, out, winner, g, x)
    _kernels.for_each("max_pool_scatter", x.dtype, x.size, *arguments, WIDE=int(wide))
    return x


@lru_cache(maxsize=1024)
def _geometry(image: Shape, pooled: Shape, window: Window) -> Any:
    return packed(sliding(image, pooled[1:3], window))
