"""An NVIDIA GPU through CuPy: the reference kernels, run on CuPy's arrays."""

from __future__ import annotations

from typing import Any

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

    def scatter_add(self, shape: tuple[int, ...], index: Any, values: Array) -> Array:
        out = self.xp.zeros(shape, dtype=values.dtype)
        self.xp.add.at(out, index, values)
        return out
