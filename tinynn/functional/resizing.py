"""Resizing of images. It is linear: one small interpolation matrix for each direction."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from tinynn.autograd import Tensor
from tinynn.functional.geometry import Pair, Size, check_image, pair
from tinynn.functional.linear import matmul
from tinynn.functional.operands import require_floating
from tinynn.functional.shape import index

__all__ = ["resize_bilinear", "resize_nearest"]


def resize_nearest(x: Tensor, size: Size) -> Tensor:
    """Nearest-neighbor resizing to ``size`` = (H', W'): out[i] = x[⌊i·H/H'⌋].

    Shape:
        (N, H, W, C) -> (N, H', W', C).
    """
    height, width = _size("resize_nearest", x, size)
    rows = np.arange(height) * x.shape[1] // height
    columns = np.arange(width) * x.shape[2] // width
    return index(x, (slice(None), rows[:, None], columns[None, :]))


def resize_bilinear(x: Tensor, size: Size) -> Tensor:
    """Bilinear resizing to ``size`` = (H', W'), between pixel centers and without antialiasing.

    Output pixel i has the position (i + 1/2)·H/H' - 1/2 in the input; positions outside of the
    outermost pixel centers take the value of the edge.

    Shape:
        (N, H, W, C) -> (N, H', W', C).
    """
    height, width = _size("resize_bilinear", x, size)
    n, h, w, c = x.shape
    matrices = (_interpolation(h, height), _interpolation(w, width))
    rows, columns = (Tensor(x.backend.from_host(m.astype(x.dtype))) for m in matrices)
    tall = matmul(rows, x.reshape(n, h, w * c)).reshape(n, height, w, c)
    return matmul(columns, tall)


@lru_cache(maxsize=64)
def _interpolation(size: int, new_size: int) -> np.ndarray:
    """The matrix (new_size, size) of linear interpolation along one axis."""
    position = np.clip((np.arange(new_size) + 0.5) * size / new_size - 0.5, 0, size - 1)
    below = np.floor(position).astype(int)
    above = np.minimum(below + 1, size - 1)
    matrix = np.zeros((new_size, size))
    np.add.at(matrix, (np.arange(new_size), below), 1 - (position - below))
    np.add.at(matrix, (np.arange(new_size), above), position - below)
    return matrix


def _size(name: str, x: Tensor, size: Size) -> Pair:
    check_image(name, require_floating(name, x).shape)
    return pair(name, "size", size, 1)
