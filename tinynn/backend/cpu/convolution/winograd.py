"""A convolution of short sequences with the fewest products, by interpolation.

The product of two polynomials is known from its values at as many points as it has coefficients;
taking the values and going back to the coefficients are small matrices, and at each point there is
one product (Toom 1963, Cook 1966). Read backwards (Winograd, "Arithmetic complexity of
computations", 1980; Lavin and Gray, "Fast algorithms for convolutional neural networks", 2016) it
gives m outputs y of a filter g of r taps on a sequence d with m + r - 1 products:

    y = of_output @ ((of_kernel @ g) * (of_rows @ d))

The points are 0, small numbers and their reciprocals, and infinity: Barabasz, Anderson, Soodhalter
and Gregg, "Error analysis and improving the accuracy of Winograd convolution" (2020), on why.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from tinynn.backend.cpu.convolution.choice import runs_of_taps
from tinynn.backend.reference import Array

_POINTS = (0.0, 1.0, -1.0, 0.5, -2.0, -0.5, 2.0)  # and infinity, always


class Combinations(NamedTuple):
    """The three matrices, for so many products."""

    of_rows: Array  # (products, elements of d)
    of_kernel: Array  # (products, r)
    of_output: Array  # (m, products)


@lru_cache(maxsize=64)
def combinations(outputs: int, taps: int, stride: int, dtype: np.dtype[Any]) -> Combinations:
    """The matrices for m ``outputs`` of a filter of r ``taps`` that moves on by ``stride``.

    The taps are taken in runs (see ``runs_of_taps``), and the outputs are the sums over them.
    """
    length = (outputs - 1) * stride + taps
    blocks = []
    for run in runs_of_taps(taps, stride, outputs):
        some = _in_one_run(outputs, len(run))
        count = len(some.of_kernel)
        rows, kernel = np.zeros((count, length)), np.zeros((count, taps))
        last = run.start + (some.of_rows.shape[1] - 1) * stride
        rows[:, run.start : last + 1 : stride] = some.of_rows
        kernel[:, run.start : run.stop : stride] = some.of_kernel
        blocks.append((rows, kernel, some.of_output.T))
    rows, kernel, output = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    matrices = (rows, kernel, np.ascontiguousarray(output.T))
    return Combinations(*(matrix.astype(dtype) for matrix in matrices))


def _in_one_run(outputs: int, taps: int) -> Combinations:
    if taps == 1:
        return Combinations(np.eye(outputs), np.ones((outputs, 1)), np.eye(outputs))
    count = outputs + taps - 1
    points = np.array(_POINTS[: count - 1])
    others = [np.delete(points, index) for index in range(len(points))]
    scale = np.prod(points[:, None] - others, axis=1)[:, None]
    of_rows = np.zeros((count, count))
    of_rows[:-1, :-1] = [np.poly(roots)[::-1] for roots in others]
    of_rows[-1] = np.poly(points)[::-1]
    of_kernel = np.vstack([np.vander(points, taps, increasing=True) / scale, np.eye(taps)[-1]])
    of_output = np.hstack([np.vander(points, outputs, increasing=True).T, np.eye(outputs)[:, -1:]])
    # powers of two, which round nothing, make the first two equally large
    balance = np.abs(of_kernel).max(axis=1) / np.abs(of_rows).max(axis=1)
    factor = 2.0 ** np.round(np.log2(balance) / 2)[:, None]
    return Combinations(of_rows * factor, of_kernel / factor, of_output)
