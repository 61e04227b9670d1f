"""One CUDA device: its arrays, its memory, and the state that its kernels share."""

import threading
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import numpy as np

from tinynn.backend import tracing
from tinynn.backend.cuda.errors import explaining
from tinynn.backend.cuda.labels import LabelChecks
from tinynn.backend.cuda.launch import lanes_for
from tinynn.backend.cuda.meter import meter
from tinynn.backend.cuda.precision import apply_matmul_precision
from tinynn.backend.cuda.tuning import BLOCKS_PER_MULTIPROCESSOR, MIN_ELEMENTS_PER_BLOCK
from tinynn.backend.cuda.upload import UploadEngine
from tinynn.backend.reference import Array, Backend, Uploads


class Split(NamedTuple):
    """A reduction over the rows of a matrix, split into tiles x parts blocks."""

    lanes: int  # columns per tile: threads side by side
    tiles: int
    parts: int
    each: int  # rows per part


class CudaDevice(Backend):
    """The reference kernels on CuPy's arrays; ``CupyBackend`` adds the CUDA kernels."""

    def __init__(self, index: int) -> None:
        import cupy

        apply_matmul_precision()
        self.xp = cupy
        self.index = index
        self.device = "cuda" if index == 0 else f"cuda:{index}"
        properties = cupy.cuda.runtime.getDeviceProperties(index)
        self.multiprocessors: int = properties["multiProcessorCount"]
        self.label_checks = LabelChecks()
        self.upload_engine = UploadEngine(index)
        self._tickets: dict[tuple[int, int], Array] = {}  # by stream and thread

    def session(self) -> AbstractContextManager[None]:
        """A context in which CuPy's errors are explained."""
        return explaining

    def meter(self) -> tracing.Meter:
        """Counters and times of a trace."""
        return meter(self.xp, self.index)

    def synchronize(self) -> None:
        """Wait for the current stream."""
        self.xp.cuda.get_current_stream().synchronize()

    # -- transfers ----------------------------------------------------------------------------

    def from_host(self, array: np.ndarray) -> Array:
        """Copy a NumPy array to this device."""
        with explaining, tracing.transfer("upload", array.nbytes):
            return self.xp.asarray(array)

    def to_host(self, array: Array) -> np.ndarray:
        """Copy an array to the host; raises ``LabelError`` for labels checked before."""
        with explaining, tracing.transfer("download", array.nbytes):
            host: np.ndarray = self.xp.asnumpy(array)
        self.label_checks.raise_errors()
        return host

    def uploads(self) -> Uploads:
        """Asynchronous copies for the stream that is current on this thread."""
        return self.upload_engine.for_current_stream(self)

    # -- memory -------------------------------------------------------------------------------

    def held_memory(self) -> dict[str, int]:
        """Bytes in CuPy's memory pools."""
        pool, pinned = self._pools()
        return {
            "arrays": pool.used_bytes(),
            "free": pool.free_bytes(),
            "pinned": pinned.n_free_blocks(),
        }

    def available_memory(self) -> int:
        """Free device memory plus unused memory of CuPy's pool, within the pool's limit."""
        pool, _ = self._pools()
        with self.xp.cuda.Device(self.index):
            free = self.xp.cuda.runtime.memGetInfo()[0] + pool.free_bytes()
        limit = pool.get_limit()
        return int(min(free, limit - pool.used_bytes()) if limit else free)

    def free_memory(self) -> None:
        """Return unused pool memory; synchronizes first, as running kernels may still read it."""
        self.synchronize()
        for pool in self._pools():
            pool.free_all_blocks()

    def _pools(self) -> tuple[Any, Any]:
        with self.xp.cuda.Device(self.index):
            return self.xp.get_default_memory_pool(), self.xp.get_default_pinned_memory_pool()

    # -- matrix products ----------------------------------------------------------------------

    def matmul(self, a: Array, b: Array, out: Array | None = None) -> Array:
        """(..., n, k) @ (..., k, m) -> (..., n, m), added in float32 also for float16.

        CuPy multiplies a row by a column without cuBLAS, in the dtype of the result, unless they
        belong to a batch.
        """
        if a.ndim == b.ndim == 2 and a.shape[0] == b.shape[1] == 1 and a.dtype.itemsize == 2:
            return self.xp.matmul(a[None], b[None], out=None if out is None else out[None])[0]
        return self.xp.matmul(a, b, out=out)

    # -- arguments of kernels -----------------------------------------------------------------

    def tickets(self, count: int) -> Array:
        """``count`` zeros (uint32) for ``is_last_block``, which resets them to zero.

        Kernels of one stream run in order and can share them. The default stream is a different
        stream on each thread with CUPY_CUDA_PER_THREAD_DEFAULT_STREAM, hence the thread in the key.
        """
        stream = self.xp.cuda.get_current_stream().ptr, threading.get_ident()
        held = self._tickets.get(stream)
        if held is None or held.size < count:
            held = self._tickets[stream] = self.xp.zeros(max(count, 4096), self.xp.uint32)
        return held

    def split(
        self, rows: int, columns: int, outer: int = 1, least: int = MIN_ELEMENTS_PER_BLOCK
    ) -> Split:
        """Split ``outer`` reductions over the rows of (rows, columns) into blocks.

        Parts keep all multiprocessors busy but have at least ``least`` elements.
        """
        lanes = lanes_for(columns)
        tiles = -(-columns // lanes)
        most = BLOCKS_PER_MULTIPROCESSOR * self.multiprocessors // (outer * tiles)
        each = -(-rows // max(1, min(most, rows * lanes // least)))
        return Split(lanes, tiles, -(-rows // each), each)

    def contiguous(self, array: Array) -> Array:
        """The array, or a C-contiguous copy of it."""
        return array if array.flags.c_contiguous else self.xp.ascontiguousarray(array)

    def pointer(self, array: Array | None) -> Any:
        """A contiguous array, or a null pointer for None."""
        return 0 if array is None else self.contiguous(array)
