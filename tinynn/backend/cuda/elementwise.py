"""Elementwise functions that the reference makes of several."""

from __future__ import annotations

import numpy as np

from tinynn.backend.cuda.launch import DTYPES, THREADS, CudaKernels, blocks_for, kernel
from tinynn.backend.reference import Array


class Elementwise(CudaKernels):
    """One launch each, over arrays of the dtypes that kernels are made for."""

    def relu(self, x: Array) -> Array:
        """max(x, 0)."""
        return self._unary("relu", x) if x.dtype.name in DTYPES else super().relu(x)

    def relu_gradient(self, grad: Array, out: Array) -> Array:
        """The gradient where the result of ``relu`` is positive, else 0."""
        grad, out = self.contiguous(grad), self.contiguous(out)
        result = self.xp.empty_like(grad)
        if grad.size:
            launch = kernel("elementwise", "relu_gradient", grad.dtype.name)
            launch(blocks_for(grad.size), (THREADS,), (grad, out, grad.size, result))
        return result

    def sigmoid(self, x: Array) -> Array:
        """1 / (1 + exp(-x))."""
        return self._unary("sigmoid", x)

    def softplus(self, x: Array) -> Array:
        """log(1 + exp(x))."""
        return self._unary("softplus", x)

    def erf(self, x: Array) -> Array:
        """The error function of CUDA's own library."""
        return self._unary("error_function", x)

    def add_bias(self, out: Array, bias: Array) -> Array:
        """The bias added to the last axis, in place."""
        if out.size:
            launch = kernel("elementwise", "add_bias", out.dtype.name)
            columns = np.int32(out.shape[-1])
            arguments = (out, self.contiguous(bias), out.size, columns)
            launch(blocks_for(out.size), (THREADS,), arguments)
        return out

    def _unary(self, name: str, x: Array) -> Array:
        x = self.contiguous(x)
        out = self.xp.empty_like(x)
        if x.size:
            launch = kernel("elementwise", name, x.dtype.name)
            launch(blocks_for(x.size), (THREADS,), (x, x.size, out))
        return out
