"""Batches on their way to a GPU while it computes: pinned memory, a stream of their own."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any, NamedTuple

import numpy as np

from tinynn.backend import tracing
from tinynn.backend.cuda.launch import CudaKernels
from tinynn.backend.reference import Array, Uploads
from tinynn.errors import DeviceMemoryError

_NO_MEMORY = 2  # cudaErrorMemoryAllocation
_MOST_PINNED = 8  # batches whose copies may be under way


class Transfer(CudaKernels):
    """Uploads that run beside the computation."""

    def __init__(self, index: int) -> None:
        super().__init__(index)
        self._copying: Any = None  # one stream for good: CuPy keeps freed memory by stream
        self._under_way: deque[tuple[Any, list[np.ndarray]]] = deque()
        self._uploading = threading.Lock()

    def uploads(self) -> Uploads:
        """For the stream that is current on this thread."""
        computing = self.xp.cuda.get_current_stream()
        if computing.ptr == self.xp.cuda.Stream.ptds.ptr:  # means another stream on each thread
            return Uploads(self)
        return _StreamUploads(self, computing)

    def start_upload(self, computing: Any, arrays: tuple[np.ndarray, ...]) -> _Started:
        """Begin to copy on a stream of its own, into arrays for the stream that computes."""
        cuda = self.xp.cuda
        with self._uploading, cuda.Device(self.index):
            if self._copying is None:
                self._copying = cuda.Stream(non_blocking=True)
            with self._copying as stream:
                pinned = [_pinned(array) for array in arrays]
                targets = tuple(self.xp.empty(array.shape, array.dtype) for array in arrays)
                # Their memory may be that of a batch that was let go a moment ago. The copy comes
                # after all that was launched with it until now.
                launched = cuda.Event(disable_timing=True)
                launched.record(computing)
                stream.wait_event(launched)
                for source, target in zip(pinned, targets, strict=True):
                    target.data.copy_from_host_async(source.ctypes.data, source.nbytes, stream)
                arrived = cuda.Event(disable_timing=True)
                arrived.record(stream)
            self._keep(arrived, pinned)
        return _Started(targets, arrived)

    def _keep(self, arrived: Any, pinned: list[np.ndarray]) -> None:
        """Pinned memory must not be reused before its copy is done: hold on to it until then.

        Where the GPU falls far behind, the thread that loads waits here; the one that trains is not
        held up.
        """
        self._under_way.append((arrived, pinned))
        while self._under_way:
            oldest, _ = self._under_way[0]
            if not oldest.done:
                if len(self._under_way) <= _MOST_PINNED:
                    return
                oldest.synchronize()
            self._under_way.popleft()


class _Started(NamedTuple):
    arrays: tuple[Array, ...]
    arrived: Any  # the event after the copies


class _StreamUploads(Uploads):
    def __init__(self, backend: Transfer, computing: Any) -> None:
        super().__init__(backend)
        self.transfer, self.computing = backend, computing

    def start(self, *arrays: np.ndarray) -> _Started:
        return self.transfer.start_upload(self.computing, arrays)

    def receive(self, started: _Started) -> tuple[Array, ...]:
        """Have the computing stream wait for the copies; this thread goes on at once."""
        with tracing.transfer("upload", sum(array.nbytes for array in started.arrays)):
            self.computing.wait_event(started.arrived)
        return started.arrays


def _pinned(array: np.ndarray) -> np.ndarray:
    """A copy in memory that a GPU reads by itself."""
    import cupyx

    try:
        copy: np.ndarray = cupyx.empty_pinned(array.shape, array.dtype)
    except RuntimeError as error:
        if getattr(error, "status", None) != _NO_MEMORY:
            raise
        raise DeviceMemoryError(
            f"this machine has no room for {array.nbytes:,} bytes of pinned memory, which the "
            "upload of a batch takes: use a smaller batch"
        ) from error
    copy[...] = array
    return copy
