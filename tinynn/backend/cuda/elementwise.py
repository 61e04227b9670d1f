"""Elementwise kernels: a formula becomes one kernel, generated when it is first used."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from tinynn.backend.cuda.device import CudaDevice
from tinynn.backend.cuda.launch import DTYPES, KernelFile, blocks_for, kernel, scalar
from tinynn.backend.cuda.tuning import THREADS
from tinynn.backend.formula import Formula, Program, traced
from tinynn.backend.reference import Array, Backend

_kernels = KernelFile("elementwise")


def evaluate(backend: CudaDevice, formula: Formula, *arrays: Array) -> Array:
    """formula(*arrays) in one launch; operation by operation for other dtypes than DTYPES."""
    trace = traced(formula, arrays)
    if arrays[0].dtype.name not in DTYPES:
        return Backend.evaluate(backend, formula, *arrays)
    arrays = tuple(backend.contiguous(array) for array in arrays)
    out = backend.xp.empty_like(arrays[0])
    if out.size:
        launch = _kernel(trace.program, out.dtype)
        constants = [scalar(number, out) for number in trace.numbers]
        launch(blocks_for(out.size), (THREADS,), (*arrays, *constants, out.size, out))
    return out


def add_bias(backend: CudaDevice, out: Array, bias: Array) -> Array:
    """out += bias along the last axis."""
    columns = np.int32(out.shape[-1])
    bias = backend.contiguous(bias)
    _kernels.for_each("add_bias", out.dtype, out.size, out, bias, out.size, columns)
    return out


@cache
def _kernel(program: Program, dtype: np.dtype[Any]) -> Callable[..., None]:
    return kernel("elementwise", "evaluate", dtype, source(program))


def source(program: Program) -> str:
    """The CUDA kernel of a formula that returns its result."""
    inputs = "".join(f"const SCALAR* a{i}, " for i in range(program.arrays))
    return f"""
extern "C" __global__ void evaluate({inputs}{program.parameters}long long count, SCALAR* out) {{
    for (long long i = FIRST; i < count; i += ALL) {{
        {program.body}
        store(out + i, {program.result});
    }}
}}
"""
