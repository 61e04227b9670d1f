"""The library's random sequence on a GPU: made where it is used, the same bits as on the CPU."""

from __future__ import annotations

import numpy as np

from tinynn.backend.cuda.launch import THREADS, CudaKernels, blocks_for, kernel, scalar
from tinynn.backend.philox import WORDS_PER_BLOCK
from tinynn.backend.reference import Array

_MASK64 = 2**64 - 1


class Random(CudaKernels):
    """Random words, and dropout."""

    def random_bits(self, seed: int, position: int, count: int) -> Array:
        """A thread makes one block of the sequence."""
        out = self.xp.empty(count, self.xp.uint32)
        if count:
            place = (np.uint64(seed & _MASK64), np.uint64(position & _MASK64))
            launch = kernel("random", "random_bits", "float32")
            launch(blocks_for(-(-count // WORDS_PER_BLOCK)), (THREADS,), (*place, count, out))
        return out

    def dropout(self, x: Array, seed: int, position: int, p: float) -> tuple[Array, Array]:
        """Mask and product in one launch."""
        x = self.contiguous(x)
        out, mask = self.xp.empty_like(x), self.xp.empty(x.shape, self.xp.bool_)
        if x.size:
            place = (np.uint64(seed & _MASK64), np.uint64(position & _MASK64))
            limit, factor = np.uint64(round(p * 2**32)), scalar(1 / (1 - p), x)
            launch = kernel("random", "dropout", x.dtype.name)
            blocks = blocks_for(-(-x.size // WORDS_PER_BLOCK))
            launch(blocks, (THREADS,), (x, *place, limit, factor, x.size, out, mask))
        return out, mask

    def masked(self, x: Array, mask: Array, scale: float) -> Array:
        """x * mask * scale."""
        x, mask = self.contiguous(x), self.contiguous(mask)
        out = self.xp.empty_like(x)
        if x.size:
            launch = kernel("random", "masked", x.dtype.name)
            launch(blocks_for(x.size), (THREADS,), (x, mask, scalar(scale, x), x.size, out))
        return out
