"""Optimizer updates in chunks that stay in the cache."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tinynn.backend.cpu import tuning
from tinynn.backend.cpu.threads import parallel
from tinynn.backend.formula import Formula
from tinynn.backend.reference import Array, Arrays, Backend


def update(
    backend: Backend, formula: Formula, columns: Sequence[Arrays], skip: Array | None = None
) -> None:
    """In chunks of large arrays, so that the formula's later passes find them in the cache."""
    if skip is not None and skip:
        return
    large = sum(array.size for array in columns[0]) >= tuning.UPDATE_PARALLEL_FROM
    step = tuning.UPDATE_CHUNK_PARALLEL if large else tuning.UPDATE_CHUNK
    pieces: list[tuple[Array, ...]] = []
    for arrays in zip(*columns, strict=True):
        size = arrays[0].size
        if size < 2 * step or not all(array.flags.c_contiguous for array in arrays):
            pieces.append(arrays)
            continue
        flat = [array.reshape(-1) for array in arrays]
        parts = (slice(start, start + step) for start in range(0, size, step))
        pieces += [tuple(array[part] for array in flat) for part in parts]
    if large:
        parallel(lambda piece: _apply(formula, piece), pieces)
    else:
        for piece in pieces:
            _apply(formula, piece)


def _apply(formula: Formula, arrays: tuple[Array, ...]) -> None:
    """formula(*arrays), for float16 in float32, as on a GPU: squares of gradients overflow."""
    if arrays[0].dtype.itemsize > 2:
        formula(*arrays)
        return
    wide = [array.astype(np.float32) for array in arrays]
    formula(*wide)
    for i, array in enumerate(arrays):
        if i != 1:  # the gradient, which no formula changes
            array[...] = wide[i]
