"""Scatter: a plain assignment where no element can be named twice."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinynn.backend.reference import Array, Backend


def scatter_add(backend: Backend, shape: tuple[int, ...], index: Any, values: Array) -> Array:
    """By assignment, unless the index holds integer arrays, which may repeat."""
    parts = index if isinstance(index, tuple) else (index,)
    # only integer arrays can name an element twice
    if any(isinstance(part, np.ndarray) and part.dtype != np.bool_ for part in parts):
        return Backend.scatter_add(backend, shape, index, values)
    out = np.zeros(shape, dtype=values.dtype)
    out[index] = values
    return out
