"""Images in another size. Resizing is linear in the image, one small matrix for each direction."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from tinynn.autograd import Tensor
from tinynn.functional.convolution import Pair, pair
from tinynn.functional.elementwise import require_floating
from tinynn.functional.linear import matmul
from tinynn.functional.pooling import check_image
from tinynn.functional.shape import index


def resize_nearest(x: Tensor, size: int | Pair) -> Tensor:
    """Images (N, H, W, C) in ``size`` = (H', W'); output pixel i shows input pixel ⌊i·H/H'⌋."""
    height, width = _size("resize_nearest", x, size)
    rows = np.arange(height) * x.shape[1] // height
    columns = np.arange(width) * x.shape[2] // width
    return index(x, (slice(None), rows[:, None], columns[None, :]))


def resize_bilinear(x: Tensor, size: int | Pair) -> Tensor:
    """Images (N, H, W, C) in ``size`` = (H', W'), interpolated linearly between pixel centers.

    Output pixel i lies at (i + 1/2)·H/H' - 1/2; beyond the outermost centers the edge goes on.
    There is no smoothing when an image shrinks: this is the interpolation of network layers.
    """
    height, width = _size("resize_bilinear", x, size)
    n, h, w, c = x.shape
    xp, dtype = x.backend, x.dtype
    rows = Tensor(xp.from_host(_interpolation(h, height).astype(dtype)))
    columns = Tensor(xp.from_host(_interpolation(w, width).astype(dtype)))
    tall = matmul(rows, x.reshape(n, h, w * c)).reshape(n, height, w, c)
    return matmul(columns, tall)


@lru_cache(maxsize=64)
def _interpolation(size: int, new_size: int) -> np.ndarray:
    """The matrix (new_size, size) that interpolates along one axis."""
    position = np.clip((np.arange(new_size) + 0.5) * size / new_size - 0.5, 0, size - 1)
    below = np.floor(position).astype(int)
    above = np.minimum(below + 1, size - 1)
    matrix = np.zeros((new_size, size))
    np.add.at(matrix, (np.arange(new_size), below), 1 - (position - below))
    np.add.at(matrix, (np.arange(new_size), above), position - below)
    return matrix


def _size(name: str, x: Tensor, size: int | Pair) -> Pair:
    check_image(name, x.shape)
    require_floating(name, x)
    return pair(name, "size", size, 1)
