"""Optimizer updates: all parameters of one dtype in one launch, whatever the formula."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import accumulate, chain
from typing import Any

import numpy as np

from tinynn.backend.cuda.device import CudaDevice
from tinynn.backend.cuda.launch import kernel, scalar
from tinynn.backend.cuda.tuning import BLOCK_ELEMENTS, PARAMETERS, THREADS
from tinynn.backend.formula import Formula, Program, Trace
from tinynn.backend.reference import Array, Arrays


def update(
    backend: CudaDevice, formula: Formula, columns: Sequence[Arrays], skip: Array | None = None
) -> None:
    """Trace the formula with the hyperparameters of this step; its code is compiled once."""
    trace = Trace(formula, len(columns))
    parameters = columns[0]
    launch = _kernel(trace.program, parameters[0].dtype)
    constants = [scalar(number, parameters[0]) for number in trace.numbers]
    copies = _contiguous(backend, columns)
    for table, blocks in _tables(copies):
        launch((blocks,), (THREADS,), (table, *constants, 0 if skip is None else skip))
    _write_back(columns, copies)


def unscale(backend: CudaDevice, grads: Arrays, factor: Array, found: Array) -> None:
    """grads *= factor; ``found`` becomes true if a product is not finite."""
    factor = backend.xp.asarray(factor, dtype="float64" if grads[0].itemsize == 8 else "float32")
    launch = kernel("update", "unscale", grads[0].dtype)
    copies = _contiguous(backend, [grads])
    for table, blocks in _tables(copies):
        launch((blocks,), (THREADS,), (table, factor, found))
    _write_back([grads], copies)


@cache
def _kernel(program: Program, dtype: np.dtype[Any]) -> Callable[..., None]:
    return kernel("update", "update", dtype, source(program))


def source(program: Program) -> str:
    """The CUDA kernel of a formula that changes its arrays in place."""
    columns = range(program.arrays)
    arrays = " ".join(f"SCALAR* const a{i} = address(table, {i}, span);" for i in columns)
    stores = " ".join(f"store(a{i} + i, x{i});" for i in program.changed)
    parameters = f"const Table<{program.arrays}> table, {program.parameters}const bool* skip"
    return f"""
extern "C" __global__ void update({parameters}) {{
    if (skip && *skip) return;
    const Span span = span_of(table);
    {arrays}
    for (long long i = span.begin; i < span.end; i += blockDim.x) {{
        {program.body}
        {stores}
    }}
}}
"""


def _contiguous(backend: CudaDevice, columns: Sequence[Arrays]) -> Sequence[Arrays]:
    """The arrays, as copies where they are not contiguous."""
    if all(array.flags.c_contiguous for column in columns for array in column):
        return columns
    return [[backend.contiguous(array) for array in column] for column in columns]


def _write_back(columns: Sequence[Arrays], copies: Sequence[Arrays]) -> None:
    """Copy the results to the arrays for which ``_contiguous`` made copies."""
    if copies is not columns:
        for array, copy in zip(chain(*columns), chain(*copies), strict=True):
            if copy is not array:
                array[...] = copy


@cache
def _layout(columns: int) -> np.dtype[Any]:
    """The struct ``Table<columns>`` of update.cu."""
    return np.dtype(
        [
            ("address", np.uint64, (columns, PARAMETERS)),
            ("size", np.int64, PARAMETERS),
            ("end", np.int32, PARAMETERS),
        ],
        align=True,
    )


def _tables(columns: Sequence[Arrays]) -> Iterator[tuple[np.ndarray[Any, Any], int]]:
    """For each launch, the table of up to PARAMETERS parameters and the number of blocks."""
    for start in range(0, len(columns[0]), PARAMETERS):
        part = [column[start : start + PARAMETERS] for column in columns]
        count = len(part[0])
        table = np.zeros((), _layout(len(columns)))
        sizes = [array.size for array in part[0]]
        ends = list(accumulate(-(-size // BLOCK_ELEMENTS) for size in sizes))
        table["address"][:, :count] = [[array.data.ptr for array in column] for column in part]
        table["size"][:count] = sizes
        table["end"][:count] = ends
        if ends[-1]:
            yield table, ends[-1]
