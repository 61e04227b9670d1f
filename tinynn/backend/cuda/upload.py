"""Asynchronous host-to-device copies of batches: pinned memory and a copy stream."""

import threading
from collections import deque
from typing import Any

import numpy as np

from tinynn.backend import tracing
from tinynn.backend.cuda.tuning import MAX_UPLOADS_IN_FLIGHT
from tinynn.backend.reference import Array, Backend, Uploads
from tinynn.errors import DeviceMemoryError

_NO_MEMORY = 2  # cudaErrorMemoryAllocation
_Started = tuple[tuple[Array, ...], Any]  # the new arrays, and an event recorded after the copies


class UploadEngine:
    """The copy stream of one device and the pinned buffers of the copies in flight."""

    def __init__(self, index: int) -> None:
        self._index = index
        self._stream: Any = None  # made once: CuPy's memory pool keeps free memory by stream
        self._in_flight: deque[tuple[Any, list[np.ndarray]]] = deque()
        self._lock = threading.Lock()

    def for_current_stream(self, backend: Backend) -> Uploads:
        """Uploads for the stream that is current on this thread."""
        cuda = backend.xp.cuda
        compute = cuda.get_current_stream()
        if compute.ptr == cuda.Stream.ptds.ptr:  # names a different stream on each thread
            return Uploads(backend)
        return _StreamUploads(backend, self, compute)

    def start(self, xp: Any, compute: Any, arrays: tuple[np.ndarray, ...]) -> _Started:
        """Start copies on the copy stream into new arrays for the stream ``compute``."""
        cuda = xp.cuda
        with self._lock, cuda.Device(self._index):
            if self._stream is None:
                self._stream = cuda.Stream(non_blocking=True)
            with self._stream as stream:
                pinned = [_pinned(array) for array in arrays]
                targets = tuple(xp.empty(array.shape, array.dtype) for array in arrays)
                # The pool may return memory of a batch that was just freed and that running kernels
                # still read: the copy waits for them.
                launched = cuda.Event(disable_timing=True)
                launched.record(compute)
                stream.wait_event(launched)
                for source, target in zip(pinned, targets, strict=True):
                    target.data.copy_from_host_async(source.ctypes.data, source.nbytes, stream)
                copied = cuda.Event(disable_timing=True)
                copied.record(stream)
            self._keep_until(copied, pinned)
        return targets, copied

    def _keep_until(self, copied: Any, pinned: list[np.ndarray]) -> None:
        """Hold pinned buffers until their copies are done.

        If the GPU falls far behind, this blocks the loading thread, not the training thread.
        """
        self._in_flight.append((copied, pinned))
        while self._in_flight:
            oldest, _ = self._in_flight[0]
            if not oldest.done:
                if len(self._in_flight) <= MAX_UPLOADS_IN_FLIGHT:
                    return
                oldest.synchronize()
            self._in_flight.popleft()


class _StreamUploads(Uploads):
    def __init__(self, backend: Backend, engine: UploadEngine, compute: Any) -> None:
        super().__init__(backend)
        self.engine, self.compute = engine, compute

    def start(self, *arrays: np.ndarray) -> _Started:
        return self.engine.start(self.backend.xp, self.compute, arrays)

    def receive(self, started: _Started) -> tuple[Array, ...]:
        """Make the compute stream wait for the copies; the host does not wait."""
        arrays, copied = started
        with tracing.transfer("upload", sum(array.nbytes for array in arrays)):
            self.compute.wait_event(copied)
        return arrays


def _pinned(array: np.ndarray) -> np.ndarray:
    """A copy in page-locked memory, which the GPU reads without the CPU."""
    import cupyx

    try:
        copy: np.ndarray = cupyx.empty_pinned(array.shape, array.dtype)
    except RuntimeError as error:
        if getattr(error, "status", None) != _NO_MEMORY:
            raise
        raise DeviceMemoryError(
            f"out of pinned memory: the upload of a batch needs {array.nbytes:,} bytes of "
            "page-locked host memory; use a smaller batch"
        ) from error
    copy[...] = array
    return copy
