"""Compile every CUDA kernel of the library with NVIDIA's compiler, without a GPU.

    pip install -e '.[kernels]' && python tests/compile_kernels.py

CUDA 11.8 (used by CuPy 13, with C++11) generates machine code for a K80 (sm_37) and later, CUDA 12
(used by CuPy 14, with C++17) for the newest GPUs. A kernel that does not compile, or that spills
registers to local memory, is an error. The table lists the resources that limit occupancy.
"""

from __future__ import annotations

import argparse
import ctypes
import re
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

from tinynn.backend import Backend, get_backend
from tinynn.backend.cpu.backend import NumpyBackend
from tinynn.backend.cuda import elementwise, update
from tinynn.backend.cuda.launch import DTYPES, VARIANTS, options, source
from tinynn.backend.formula import Trace
from tinynn.functional.elementwise import __all__ as ELEMENTWISE
from tinynn.gpucheck import parity
from tinynn.gpucheck.cases import FUNCTIONS, OPTIMIZERS

ARCHITECTURES = {  # CUDA: compute capabilities; the first and the last in both C++ standards
    11: (37, 50, 52, 60, 61, 70, 75, 80, 86, 89, 90),
    12: (50, 52, 60, 61, 70, 75, 80, 86, 89, 90, 100, 120),
}
STANDARDS = {11: "c++11", 12: "c++17"}  # of the CuPy for that CUDA


class Job(NamedTuple):
    """One translation unit."""

    cuda: int
    architecture: int
    standard: str
    file: str
    dtype: str
    macros: tuple[tuple[str, int], ...]

    def __str__(self) -> str:
        macros = "".join(f" {name}={value}" for name, value in self.macros)
        return (
            f"{self.file}.cu {self.dtype}{macros}, sm_{self.architecture}, {self.standard}, "
            f"CUDA {self.cuda}"
        )


class KernelResources(NamedTuple):
    """The resource usage of one kernel, from the output of ``ptxas -v``."""

    kernel: str
    registers: int
    shared: int  # bytes
    spilled: int  # bytes


@cache
def generated() -> dict[str, str]:
    """By file, the kernels generated from formulas that the library appends to it.

    The formulas are recorded on the CPU, from the cases of all elementwise functions and
    optimizers. Here they share one translation unit, so each kernel gets a name of its own.
    """
    kernels: dict[tuple[str, str], str] = {}

    def add(file: str, kernel: str, formula: str, text: str) -> None:
        name = re.sub(r"\W+", "_", f"{kernel}_{formula.strip('_')}")
        kernels[file, name] = text.replace(f" {kernel}(", f" {name}(", 1)

    def evaluate(backend: Backend, formula: Any, *arrays: Any) -> Any:
        text = elementwise.source(Trace(formula, len(arrays)).program)
        add("elementwise", "evaluate", formula.__name__, text)
        return formula(*arrays)

    def record_update(backend: Backend, formula: Any, columns: Any, skip: Any = None) -> None:
        text = update.source(Trace(formula, len(columns)).program)
        add("update", "update", " ".join((case.name, *case.options)), text)

    relu = {name: getattr(Backend, name) for name in ("relu", "relu_gradient")}
    with patch.multiple(NumpyBackend, evaluate=evaluate, update=record_update, **relu):
        for case in FUNCTIONS:
            if case.name in ELEMENTWISE:
                parity.run_function(case, get_backend("cpu"), "float64")
        for case in OPTIMIZERS:
            parity.run_optimizer(case, get_backend("cpu"), "float64")
    texts: dict[str, str] = {}
    for (file, _), text in kernels.items():
        texts[file] = texts.get(file, "") + text
    return texts


def jobs(quick: bool) -> Iterator[Job]:
    """Every variant for every GPU; with ``quick`` for the oldest, sm_80 and the newest."""
    for cuda, known in ARCHITECTURES.items():
        for architecture in (known[0], 80, known[-1]) if quick else known:
            ends = architecture in (known[0], known[-1]) and not quick
            for standard in ("c++11", "c++17") if ends else (STANDARDS[cuda],):
                for file, variants in VARIANTS.items():
                    for macros in variants:
                        for dtype in DTYPES:
                            yield Job(
                                cuda, architecture, standard, file, dtype, tuple(macros.items())
                            )


def compile_one(job: Job) -> tuple[Job, str | None, list[KernelResources]]:
    """Compile one translation unit: the job, its problem (None: success), its kernels."""
    nvrtc, include = _nvrtc(job.cuda)
    arguments = [
        f"--gpu-architecture=sm_{job.architecture}",
        f"--std={job.standard}",
        "--ptxas-options=-v",
        f"-I{include}",
        *options(job.dtype, dict(job.macros)),
    ]
    program = ctypes.c_void_p()
    text = (source(job.file) + generated().get(job.file, "")).encode()
    name = f"{job.file}.cu".encode()
    _check(nvrtc, nvrtc.nvrtcCreateProgram(ctypes.byref(program), text, name, 0, None, None))
    encoded = (ctypes.c_char_p * len(arguments))(*(a.encode() for a in arguments))
    failed = nvrtc.nvrtcCompileProgram(program, len(arguments), encoded)
    size = ctypes.c_size_t()
    _check(nvrtc, nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size)))
    buffer = ctypes.create_string_buffer(size.value)
    _check(nvrtc, nvrtc.nvrtcGetProgramLog(program, buffer))
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    log = buffer.value.decode(errors="replace")
    if failed:
        return job, log.strip(), []
    kernels = list(_resources(log))
    spilling = [f"{k.kernel} spills {k.spilled} bytes of registers" for k in kernels if k.spilled]
    if not kernels:
        return job, f"ptxas lists no kernel:\n{log}", []
    return job, "; ".join(spilling) or None, kernels


def _resources(log: str) -> Iterator[KernelResources]:
    """Parse the output of ``ptxas -v``."""
    for part in re.split(r"Compiling entry function '", log)[1:]:
        spilled = sum(map(int, re.findall(r"(\d+) bytes spill", part)))
        registers = re.search(r"Used (\d+) registers", part)
        shared = re.search(r"(\d+) bytes smem", part)
        yield KernelResources(
            part.partition("'")[0],
            int(registers[1]) if registers else 0,
            int(shared[1]) if shared else 0,
            spilled,
        )


@cache
def _nvrtc(cuda: int) -> tuple[Any, Path]:
    """The compiler of one CUDA version and its headers, from NVIDIA's wheels."""
    import nvidia

    folders = [Path(folder) for folder in nvidia.__path__]
    names = {11: "libnvrtc.so.11.2", 12: "libnvrtc.so.12"}
    for folder in folders:
        library = folder / "cuda_nvrtc" / "lib" / names[cuda]
        if library.exists():
            include = folder / "cuda_runtime" / "include"
            return ctypes.CDLL(str(library)), include
    raise FileNotFoundError(f"{names[cuda]} is not installed: pip install -e '.[kernels]'")


def _check(nvrtc: Any, status: int) -> None:
    if status:
        nvrtc.nvrtcGetErrorString.restype = ctypes.c_char_p
        raise RuntimeError(nvrtc.nvrtcGetErrorString(status).decode())


def main() -> int:
    """Compile all variants; the exit code is 0 if all succeed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="three compute capabilities per CUDA")
    parser.add_argument("--jobs", type=int, default=2, help="processes (default: 2)")
    arguments = parser.parse_args()
    try:
        for cuda in ARCHITECTURES:
            _nvrtc(cuda)
    except (ImportError, FileNotFoundError) as error:
        print(f"NVIDIA's compilers are not installed ({error}): pip install -e '.[kernels]'")
        return 2
    wanted = list(jobs(arguments.quick))
    most: dict[str, tuple[int, int]] = {}
    wrong = 0
    with ProcessPoolExecutor(arguments.jobs) as pool:
        for job, problem, kernels in pool.map(compile_one, wanted, chunksize=4):
            if problem is not None:
                wrong += 1
                print(f"FAILED {job}: {problem}")
            for kernel in kernels:
                key = f"{job.file}.cu {kernel.kernel}"
                registers, shared = most.get(key, (0, 0))
                most[key] = (max(registers, kernel.registers), max(shared, kernel.shared))
    print(f"{'kernel':<44}{'registers':>10}{'shared bytes':>14}   (maximum over all variants)")
    for key, (registers, shared) in most.items():
        print(f"{key:<44}{registers:>10}{shared:>14}")
    print(f"{len(wanted)} compilations, {wrong} failed")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
