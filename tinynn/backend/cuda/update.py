"""Optimizer updates: all parameters of one dtype in one launch, for any formula."""

from collections.abc import Callable, Sequence
from functools import cache
from itertools import chain
from typing import Any

import numpy as np

from tinynn.backend.cuda.device import CudaDevice
from tinynn.backend.cuda.launch import accumulate, kernel, scalar
from tinynn.backend.cuda.tuning import BLOCK_ELEMENTS, PARAMETERS, THREADS
from tinynn.backend.formula import Formula, Program, Trace
from tinynn.backend.reference import Array, Arrays
from tinynn.errors import ArgumentError

_MAX_COLUMNS = 6  # a table of seven exceeds the 4 KB that a kernel's arguments may have


def update(
    backend: CudaDevice, formula: Formula, columns: Sequence[Arrays], skip: Array | None = None
) -> None:
    """Trace the formula with the hyperparameters of this step; its code is compiled once."""
    if len(columns) > _MAX_COLUMNS:
        raise ArgumentError(
            f"on a GPU an optimizer keeps at most {_MAX_COLUMNS - 2} state arrays per parameter, "
            f"whose addresses are kernel arguments, got {len(columns) - 2}"
        )
    trace = Trace(formula, len(columns))
    parameters = columns[0]
    constants = [scalar(number, parameters[0]) for number in trace.numbers]
    function = _kernel(trace.program, parameters[0].dtype)
    _launch(backend, function, columns, *constants, 0 if skip is None else skip)


def unscale(backend: CudaDevice, grads: Arrays, factor: Array, found: Array) -> None:
    """grads *= factor; ``found`` becomes true if a product is not finite."""
    factor = backend.xp.asarray(factor, dtype=accumulate(grads[0]))
    _launch(backend, kernel("update", "unscale", grads[0].dtype), [grads], factor, found)


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


def _launch(
    backend: CudaDevice, function: Callable[..., None], columns: Sequence[Arrays], *arguments: Any
) -> None:
    """Launch ``function`` for every PARAMETERS parameters, with the table of their addresses."""
    if not all(array.flags.c_contiguous for array in chain(*columns)):
        copies = [[backend.contiguous(array) for array in column] for column in columns]
        _launch(backend, function, copies, *arguments)
        for array, copy in zip(chain(*columns), chain(*copies), strict=True):
            if copy is not array:
                array[...] = copy
        return
    for start in range(0, len(columns[0]), PARAMETERS):
        part = [column[start : start + PARAMETERS] for column in columns]
        sizes = [array.size for array in part[0]]
        table = np.zeros((), _layout(len(columns)))
        ends = np.cumsum([-(-size // BLOCK_ELEMENTS) for size in sizes])
        table["address"][:, : len(sizes)] = [[array.data.ptr for array in row] for row in part]
        table["size"][: len(sizes)] = sizes
        table["end"][: len(sizes)] = ends
        if ends[-1]:
            function((int(ends[-1]),), (THREADS,), (table, *arguments))


@cache
def _layout(columns: int) -> np.dtype[Any]:
    """The struct ``Table<columns>`` of update.cu."""
    addresses = ("address", np.uint64, (columns, PARAMETERS))
    extents = ("size", np.int64, PARAMETERS), ("end", np.int32, PARAMETERS)
    return np.dtype([addresses, *extents], align=True)
