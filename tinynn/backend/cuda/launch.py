"""Compile CUDA kernels and launch them.

A ``.cu`` file is compiled when one of its kernels is first used, once per dtype and set of macros;
CuPy caches the machine code on disk. ``VARIANTS`` lists every set of macros, so that a test can
compile all of them for GPUs that are not at hand.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from tinynn.backend import tracing
from tinynn.backend.cuda import geometry, tuning
from tinynn.backend.cuda.tuning import THREADS
from tinynn.backend.reference import Array

_FILES = ("elementwise", "metrics", "normalization", "random", "reduction", "softmax", "update")
VARIANTS: dict[str, tuple[dict[str, int], ...]] = {
    # file: the sets of macros it is compiled with, for each of DTYPES
    **dict.fromkeys(_FILES, ({},)),
    "convolution": (
        {},
        *({"TILE_O": tile, "POOL": pool} for tile in tuning.FORWARD_TILES for pool in (0, 1)),
    ),
    "pooling": ({"WIDE": 0}, {"WIDE": 1}),
}
DTYPES = {  # dtype: (SCALAR, ACCUMULATE) of the kernels
    "float16": ("__half", "float"),
    "float32": ("float", "float"),
    "float64": ("double", "double"),
}


class KernelFile:
    """Launches the kernels of one ``.cu`` file.

    ``dtype`` selects SCALAR, ``macros`` the variant. A Python integer is a ``long long`` argument,
    a NumPy scalar has its own type, and 0 is a null pointer.
    """

    def __init__(self, file: str) -> None:
        self.file = file

    def launch(
        self, name: str, dtype: Any, grid: tuple[int, ...], *arguments: Any, **macros: int
    ) -> None:
        """Launch a kernel on a grid of blocks of THREADS threads."""
        kernel(self.file, name, dtype, **macros)(grid, (THREADS,), arguments)

    def for_each(self, name: str, dtype: Any, count: int, *arguments: Any, **macros: int) -> None:
        """Launch a kernel whose threads loop over ``count`` elements; nothing if there are none."""
        if count:
            self.launch(name, dtype, blocks_for(count), *arguments, **macros)


@cache
def kernel(
    file: str, name: str, dtype: Any, generated: str = "", **macros: int
) -> Callable[..., None]:
    """One compiled kernel: call it with (grid, block, arguments).

    ``generated`` is source text that is appended to the file.
    """
    module = _module(file, np.dtype(dtype).name, tuple(macros.items()), generated)
    function = module.get_function(name)

    def launch(*arguments: Any) -> None:
        tracer = tracing.active
        if tracer is not None:
            tracer.count("launches")
        function(*arguments)

    return launch


@cache
def _module(file: str, dtype: str, macros: tuple[tuple[str, int], ...], generated: str) -> Any:
    import cupy

    if dict(macros) not in VARIANTS[file]:
        raise ValueError(f"VARIANTS[{file!r}] does not list {dict(macros)}")
    return cupy.RawModule(code=source(file) + generated, options=options(dtype, dict(macros)))


def source(file: str) -> str:
    """The text of a kernel file, preceded by ``prelude.cu``."""
    folder = Path(__file__).parent
    texts = [(folder / f"{name}.cu").read_text(encoding="utf-8") for name in ("prelude", file)]
    return "\n".join([geometry.C_SOURCE, *texts])


def options(dtype: str, macros: dict[str, int]) -> tuple[str, ...]:
    """The compiler options of one variant."""
    scalar, accumulate = DTYPES[dtype]
    shared = ("THREADS", "SUM_BLOCK", "GRADIENT_TILE", "PARAMETERS", "BLOCK_ELEMENTS")
    constants = {name: getattr(tuning, name) for name in shared}
    defines = {"SCALAR": scalar, "ACCUMULATE": accumulate, **constants, **macros}
    return tuple(f"-D{name}={value}" for name, value in defines.items())


def blocks_for(count: int, per_block: int = THREADS) -> tuple[int]:
    """The grid of a grid-stride loop over ``count`` elements."""
    return (max(1, min(tuning.MAX_BLOCKS, -(-count // per_block))),)


def lanes_for(columns: int) -> int:
    """Threads side by side for neighboring columns: a power of two up to the 32 of a warp."""
    return min(32, 1 << (columns - 1).bit_length())


def accumulate(x: Array) -> str:
    """The dtype of sums over x: ACCUMULATE in a kernel."""
    return "float64" if x.dtype.itemsize == 8 else "float32"


def scalar(value: float, x: Array) -> Any:
    """A kernel argument of type ACCUMULATE."""
    return np.float64(value) if x.dtype.itemsize == 8 else np.float32(value)
