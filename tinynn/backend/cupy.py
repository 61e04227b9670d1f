"""An NVIDIA GPU through CuPy: the reference kernels, run on CuPy's arrays."""

from __future__ import annotations

import numpy as np

from tinynn.backend.base import Array, Backend


class CupyBackend(Backend):
    """Kernels on one CUDA device."""

    def __init__(self, index: int) -> None:
        import cupy

        self.xp = cupy
        self.array_type = cupy.ndarray
        self.device = "cuda" if index == 0 else f"cuda:{index}"

    def to_host(self, array: Array) -> np.ndarray:
        host: np.ndarray = self.xp.asnumpy(array)
        return host
