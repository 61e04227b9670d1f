"""Random numbers on a GPU: generated in the kernel that uses them, the same bits as on the CPU."""

from typing import Any

import numpy as np

from tinynn.backend.cuda.device import CudaDevice
from tinynn.backend.cuda.launch import KernelFile, scalar
from tinynn.backend.philox import WORDS_PER_BLOCK
from tinynn.backend.reference import Array

_MASK64 = 2**64 - 1
_kernels = KernelFile("random")


def random_bits(backend: CudaDevice, seed: int, position: int, count: int) -> Array:
    """One thread generates one Philox block."""
    out = backend.xp.empty(count, backend.xp.uint32)
    arguments = (*_counter(seed, position), count, out)
    _kernels.for_each("random_bits", "float32", -(-count // WORDS_PER_BLOCK), *arguments)
    return out


def dropout(
    backend: CudaDevice, x: Array, seed: int, position: int, p: float
) -> tuple[Array, Array]:
    """Mask and product in one launch."""
    x = backend.contiguous(x)
    out, mask = backend.xp.empty_like(x), backend.xp.empty(x.shape, backend.xp.bool_)
    threshold, factor = np.uint64(round(p * 2**32)), scalar(1 / (1 - p), x)
    arguments = (x, *_counter(seed, position), threshold, factor, x.size, out, mask)
    _kernels.for_each("dropout", x.dtype, -(-x.size // WORDS_PER_BLOCK), *arguments)
    return out, mask


def masked(backend: CudaDevice, x: Array, mask: Array, scale: float) -> Array:
    """x * mask * scale."""
    x, mask = backend.contiguous(x), backend.contiguous(mask)
    out = backend.xp.empty_like(x)
    _kernels.for_each("masked", x.dtype, x.size, x, mask, scalar(scale, x), x.size, out)
    return out


def _counter(seed: int, position: int) -> tuple[Any, Any]:
    return np.uint64(seed & _MASK64), np.uint64(position & _MASK64)
