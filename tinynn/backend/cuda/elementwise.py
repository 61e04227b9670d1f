"""Elementwise functions that the reference makes of several."""

from __future__ import annotations

import numpy as np

from tinynn.backend.cuda.device import CudaDevice
from tinynn.backend.cuda.launch import DTYPES, THREADS, blocks_for, kernel
from tinynn.backend.reference import Array, Backend


def relu(backend: CudaDevice, x: Array) -> Array:
    """max(x, 0)."""
    return _unary(backend, "relu", x) if x.dtype.name in DTYPES else Backend.relu(backend, x)


def relu_gradient(backend: CudaDevice, grad: Array, out: Array) -> Array:
    """The gradient where the result of ``relu`` is positive, else 0."""
    grad, out = backend.contiguous(grad), backend.contiguous(out)
    result = backend.xp.empty_like(grad)
    if grad.size:
        launch = kernel("elementwise", "relu_gradient", grad.dtype.name)
        launch(blocks_for(grad.size), (THREADS,), (grad, out, grad.size, result))
    return result


def sigmoid(backend: CudaDevice, x: Array) -> Array:
    """1 / (1 + exp(-x))."""
    return _unary(backend, "sigmoid", x)


def softplus(backend: CudaDevice, x: Array) -> Array:
    """log(1 + exp(x))."""
    return _unary(backend, "softplus", x)


def erf(backend: CudaDevice, x: Array) -> Array:
    """The error function of CUDA's own library."""
    return _unary(backend, "error_function", x)


def add_bias(backend: CudaDevice, out: Array, bias: Array) -> Array:
    """The bias added to the last axis, in place."""
    if out.size:
        launch = kernel("elementwise", "add_bias", out.dtype.name)
        columns = np.int32(out.shape[-1])
        arguments = (out, backend.contiguous(bias), out.size, columns)
        launch(blocks_for(out.size), (THREADS,), arguments)
    return out


def _unary(backend: CudaDevice, name: str, x: Array) -> Array:
    x = backend.contiguous(x)
    out = backend.xp.empty_like(x)
    if x.size:
        launch = kernel("elementwise", name, x.dtype.name)
        launch(blocks_for(x.size), (THREADS,), (x, x.size, out))
    return out
