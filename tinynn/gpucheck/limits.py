"""What a device can do at best, measured: launches, copies, matrix products.

Times are of the clock around work that is waited for, many pieces at a time, and the median of
several such runs. Never call them for an emulated device: its times mean nothing.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np

from tinynn.backend import Backend, get_backend

_REPEATS = 7


def seconds(backend: Backend, work: Callable[[], object], times: int = 1) -> float:
    """The median duration of one call of ``work``, of runs of ``times`` calls in a row.

    The first run is not counted. Each run ends when the device has done all of it.
    """
    runs = []
    for _ in range(_REPEATS + 1):
        backend.synchronize()
        begin = time.perf_counter()
        for _ in range(times):
            work()
        backend.synchronize()
        runs.append((time.perf_counter() - begin) / times)
    return statistics.median(runs[1:])


def launch_time(device: str) -> float:
    """Seconds for one of many launches of a kernel that has next to nothing to do."""
    backend = get_backend(device)
    one = backend.from_host(np.ones(1, np.float32))
    return seconds(backend, lambda: backend.relu(one), times=200)


def copy_bandwidth(device: str, size: int = 1 << 28) -> float:
    """Bytes a second, read and written, of a copy within the device's memory."""
    backend = get_backend(device)
    source = backend.xp.ones(size // 4, dtype="float32")
    target = backend.xp.empty_like(source)
    return 2 * size / seconds(backend, lambda: backend.xp.copyto(target, source), times=4)


def upload_bandwidth(device: str, size: int = 1 << 26) -> float | None:
    """Bytes a second of the loader's uploads, with the copy to pinned memory; None for the CPU."""
    if device == "cpu":
        return None
    backend = get_backend(device)
    host = np.ones(size // 4, dtype=np.float32)
    uploads = backend.uploads()

    def upload() -> None:
        uploads.receive(uploads.start(host))

    return size / seconds(backend, upload, times=4)


def matmul_peak(device: str, dtype: str = "float32", size: int = 2048) -> float:
    """Floating-point operations a second in a square matrix product of a large size."""
    backend = get_backend(device)
    factor = backend.xp.ones((size, size), dtype=dtype)
    return 2 * size**3 / seconds(backend, lambda: backend.matmul(factor, factor), times=3)
