"""The matrices of Winograd's minimal filtering algorithms F(m, r), in one dimension.

F(m, r) computes m outputs of a filter g with r taps on a sequence d of m + r - 1 elements,
out[i] = Σ_j d[i + j] · g[j], with m + r - 1 products instead of m·r:

    out = Aᵀ @ ((G @ g) * (Bᵀ @ d))        A: (m + r - 1, m), G: (m + r - 1, r), B: square

A product of polynomials is known from its values at as many points as it has coefficients. Taking
values and interpolating are small matrices, and at each point there is one product (Toom 1963,
Cook 1966). F(m, r) is the transpose of that algorithm: Winograd, "Arithmetic complexity of
computations" (1980); Lavin and Gray, "Fast algorithms for convolutional neural networks" (2016),
whose matrices G, Bᵀ and Aᵀ are called ``kernel``, ``input`` and ``output`` here.

The points of interpolation are 0, ±1, ±2, ±1/2 and infinity, which keep rounding errors small:
Barabasz, Anderson, Soodhalter and Gregg, "Error analysis and improving the accuracy of Winograd
convolution for deep neural networks" (2020).

``rows.py`` applies F(m, r) along the rows of an image: m output rows at a time, r = kh.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from tinynn.backend.cpu import tuning
from tinynn.backend.cpu.tiles import cut
from tinynn.backend.reference import Array

_POINTS = (0.0, 1.0, -1.0, 0.5, -2.0, -0.5, 2.0)  # and always infinity


class Transforms(NamedTuple):
    """The matrices of F(m, r)."""

    input: Array  # Bᵀ (products, elements of d)
    kernel: Array  # G (products, r)
    output: Array  # Aᵀ (m, products)


@lru_cache(maxsize=256)
def count_products(rows: int, taps: int, stride: int, m: int) -> int:
    """Row products for ``rows`` output rows, m at a time; m = 1 is the plain sum over the taps."""
    if m == 1:
        return rows * taps
    return -(-rows // m) * (len(split_taps(taps, stride, m)) * (m - 1) + taps)


@lru_cache(maxsize=256)
def fewest_products(rows: int, taps: int, stride: int) -> int:
    """The m of ``tuning.WINOGRAD_ROWS`` with the fewest products; the smallest of equal ones."""
    return min(tuning.WINOGRAD_ROWS, key=lambda m: count_products(rows, taps, stride, m))


@lru_cache(maxsize=256)
def split_taps(taps: int, stride: int, m: int) -> Sequence[range]:
    """Kernel rows that share one F(m, r).

    With a stride, input rows of each residue meet kernel rows of the same residue: a filter of its
    own, without a stride. Filters that would need more than ``tuning.WINOGRAD_MAX_PRODUCTS`` are
    split into nearly equal ones.
    """
    most = tuning.WINOGRAD_MAX_PRODUCTS + 1 - m
    found: list[range] = []
    for residue in range(min(stride, taps)):
        rows = range(residue, taps, stride)
        found += [rows[part] for part in cut(len(rows), -(-len(rows) // most))]
    return tuple(found)


@lru_cache(maxsize=64)
def transforms(m: int, taps: int, stride: int, dtype: np.dtype[Any]) -> Transforms:
    """The matrices for m outputs of a strided filter, stacked from those of its parts.

    ``output`` adds the parts up, so that a split filter costs no extra pass.
    """
    length = (m - 1) * stride + taps
    parts = []
    for run in split_taps(taps, stride, m):
        part = _f(m, len(run))
        count = len(part.kernel)
        rows, kernel = np.zeros((count, length)), np.zeros((count, taps))
        last = run.start + (part.input.shape[1] - 1) * stride
        rows[:, run.start : last + 1 : stride] = part.input
        kernel[:, run.start : run.stop : stride] = part.kernel
        parts.append((rows, kernel, part.output.T))
    rows, kernel, output = (np.concatenate(matrices) for matrices in zip(*parts, strict=True))
    matrices = (rows, kernel, np.ascontiguousarray(output.T))
    return Transforms(*(matrix.astype(dtype) for matrix in matrices))


def _f(m: int, r: int) -> Transforms:
    """F(m, r) for one dense filter, in float64."""
    if r == 1:
        return Transforms(np.eye(m), np.ones((m, 1)), np.eye(m))
    count = m + r - 1
    points = np.array(_POINTS[: count - 1])
    others = [np.delete(points, index) for index in range(len(points))]
    scale = np.prod(points[:, None] - others, axis=1)[:, None]
    rows = np.zeros((count, count))
    rows[:-1, :-1] = [np.poly(roots)[::-1] for roots in others]  # Lagrange polynomials
    rows[-1] = np.poly(points)[::-1]  # the point at infinity
    kernel = np.vstack([np.vander(points, r, increasing=True) / scale, np.eye(r)[-1]])
    output = np.hstack([np.vander(points, m, increasing=True).T, np.eye(m)[:, -1:]])
    # scale the rows of Bᵀ and G to the same size, by powers of two, which round nothing
    balance = np.abs(kernel).max(axis=1) / np.abs(rows).max(axis=1)
    factor = 2.0 ** np.round(np.log2(balance) / 2)[:, None]
    return Transforms(rows * factor, kernel / factor, output)
