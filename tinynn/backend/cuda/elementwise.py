"""Elementwise kernels: a formula becomes one kernel, generated when it is first used."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from tinynn.backend.cuda.device import CudaDevice
from tinynn.backend.cuda.launch import DTYPES, THREADS, KernelFile, blocks_for, kernel, scalar
from tinynn.backend.formula import Formula, Trace
from tinynn.backend.reference import Array, Backend

_kernels = KernelFile("elementwise")


def evaluate(backend: CudaDevice, formula: Formula, *arrays: Array) -> Array:
    """formula(*arrays) in one launch; operation by operation for other dtypes than DTYPES."""
    if arrays[0].dtype.name not in DTYPES:
        return Backend.evaluate(backend, formula, *arrays)
    arrays = tuple(backend.contiguous(array) for array in arrays)
    out = backend.xp.empty_like(arrays[0])
    if out.size:
        code, numbers = _traced(formula, len(arrays))
        launch = kernel("elementwise", "evaluate", out.dtype, code)
        constants = [scalar(number, out) for number in numbers]
        launch(blocks_for(out.size), (THREADS,), (*arrays, *constants, out.size, out))
    return out


def add_bias(backend: CudaDevice, out: Array, bias: Array) -> Array:
    """out += bias along the last axis."""
    columns = np.int32(out.shape[-1])
    bias = backend.contiguous(bias)
    _kernels.for_each("add_bias", out.dtype, out.size, out, bias, out.size, columns)
    return out


@lru_cache(maxsize=256)
def _traced(formula: Formula, count: int) -> tuple[str, list[Any]]:
    trace = Trace(formula, count)
    return source(trace), trace.numbers


def source(trace: Trace) -> str:
    """The CUDA kernel of a formula that returns its result."""
    inputs = "".join(f"const SCALAR* a{i}, " for i in range(trace.arrays))
    return f"""
extern "C" __global__ void evaluate({inputs}{trace.parameters}long long count, SCALAR* out) {{
    for (long long i = FIRST; i < count; i += ALL) {{
        {trace.body}
        store(out + i, {trace.result});
    }}
}}
"""
