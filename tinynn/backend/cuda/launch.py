"""From a ``.cu`` file to a launch: variants, compilation, grids, and memory between blocks.

A kernel file is compiled when one of its kernels is first used, once for each dtype and set of
macros; CuPy keeps what was compiled on disk. ``VARIANTS`` lists every set of macros there is, so
that a test can compile them all for GPUs that are not at hand.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from tinynn.backend import tracing
from tinynn.backend.cuda.precision import apply_matmul_precision
from tinynn.backend.reference import Array, Backend

VARIANTS: dict[str, tuple[dict[str, int], ...]] = {
    # file: the sets of macros it is compiled with, for each of DTYPES
    "convolution": (
        {},
        *({"TILE_O": tile, "POOL": pool} for tile in (16, 32, 64) for pool in (0, 1)),
    ),
    "elementwise": ({},),
    "metrics": ({},),
    "normalization": ({},),
    "pooling": ({"WIDE": 0}, {"WIDE": 1}),
    "random": ({},),
    "reduction": ({},),
    "softmax": ({},),
    "update": ({},),
}
DTYPES = {  # dtype: (SCALAR, ACCUMULATE) of the kernels
    "float16": ("__half", "float"),
    "float32": ("float", "float"),
    "float64": ("double", "double"),
}
THREADS = 256  # of a block, where a kernel does not ask for another number
_MOST_BLOCKS = 65_535  # of a grid whose threads loop

Launch = Callable[..., None]


def source(file: str) -> str:
    """The text of a kernel file with the prelude before it."""
    folder = Path(__file__).parent
    return "\n".join(
        (folder / f"{name}.cu").read_text(encoding="utf-8") for name in ("prelude", file)
    )


def options(dtype: str, macros: dict[str, int]) -> tuple[str, ...]:
    """What the compiler is told about one variant."""
    scalar, accumulate = DTYPES[dtype]
    defines = {"SCALAR": scalar, "ACCUMULATE": accumulate, **macros}
    return tuple(f"-D{name}={value}" for name, value in defines.items())


@cache
def kernel(file: str, name: str, dtype: str, **macros: int) -> Launch:
    """A kernel of one variant: call it with (grid, block, arguments)."""
    function: Launch = _module(file, dtype, tuple(macros.items())).get_function(name)

    def launch(*arguments: Any, **options: Any) -> None:
        if tracing.active is not None:
            tracing.active.count("launches")
        function(*arguments, **options)

    return launch


@cache
def _module(file: str, dtype: str, macros: tuple[tuple[str, int], ...]) -> Any:
    import cupy

    if dict(macros) not in VARIANTS[file]:
        raise ValueError(f"{file}.cu is listed in VARIANTS without {dict(macros)}")
    return cupy.RawModule(code=source(file), options=options(dtype, dict(macros)))


def blocks_for(count: int, each: int = THREADS) -> tuple[int]:
    """The grid in which ``count`` elements get a thread each, or share threads that loop."""
    return (max(1, min(_MOST_BLOCKS, -(-count // each))),)


def accumulate(x: Array) -> str:
    """The dtype of sums of x, ACCUMULATE in a kernel."""
    return "float64" if x.dtype.itemsize == 8 else "float32"


def scalar(value: float, x: Array) -> Any:
    """A number as an argument of the type ACCUMULATE for kernels on x."""
    return np.float64(value) if x.dtype.itemsize == 8 else np.float32(value)


def struct(**fields: Any) -> np.ndarray[Any, Any]:
    """Whole numbers as one kernel argument: a struct of ``int``, in this order.

    A list of numbers is an array in the struct.
    """
    arrays = {name: np.asarray(value, dtype=np.int32) for name, value in fields.items()}
    layout = np.dtype([(name, np.int32, array.shape) for name, array in arrays.items()])
    packed = np.zeros((), dtype=layout)
    for name, array in arrays.items():
        packed[name] = array
    return packed


class CudaKernels(Backend):
    """What the groups of kernels share."""

    def __init__(self, index: int) -> None:
        import cupy

        apply_matmul_precision()
        self.xp = cupy
        self.index = index
        self.device = "cuda" if index == 0 else f"cuda:{index}"
        properties = cupy.cuda.runtime.getDeviceProperties(index)
        self.multiprocessors: int = properties["multiProcessorCount"]
        self._ticket_rows: dict[tuple[int, int], Array] = {}  # by stream and thread

    def held_memory(self) -> dict[str, int]:
        """The pools of CuPy."""
        pool, pinned = self._pools()
        return {
            "arrays": pool.used_bytes(),
            "free": pool.free_bytes(),
            "pinned": pinned.n_free_blocks(),
        }

    def available_memory(self) -> int:
        """What the GPU has free, and what CuPy's pool keeps for later, within the pool's limit."""
        pool, _ = self._pools()
        with self.xp.cuda.Device(self.index):
            free = self.xp.cuda.runtime.memGetInfo()[0] + pool.free_bytes()
        limit = pool.get_limit()
        return int(min(free, limit - pool.used_bytes()) if limit else free)

    def free_memory(self) -> None:
        """Waits for the GPU: what kernels still read must not go."""
        self.synchronize()
        for pool in self._pools():
            pool.free_all_blocks()

    def _pools(self) -> tuple[Any, Any]:
        with self.xp.cuda.Device(self.index):
            return self.xp.get_default_memory_pool(), self.xp.get_default_pinned_memory_pool()

    def tickets(self, count: int) -> Array:
        """``count`` zeros (uint32) for ``is_last_block``, which leaves zeros behind.

        Kernels of one stream run one after the other and can share them; the stream of one number
        may be another on each thread (CUPY_CUDA_PER_THREAD_DEFAULT_STREAM).
        """
        stream = self.xp.cuda.get_current_stream().ptr, threading.get_ident()
        held = self._ticket_rows.get(stream)
        if held is None or held.size < count:
            held = self._ticket_rows[stream] = self.xp.zeros(max(count, 4096), self.xp.uint32)
        return held

    def contiguous(self, array: Array) -> Array:
        """The array, or a copy of it whose elements lie side by side in order."""
        return array if array.flags.c_contiguous else self.xp.ascontiguousarray(array)
