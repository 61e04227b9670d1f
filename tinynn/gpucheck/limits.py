"""Device limits, measured: launch latency, bandwidth and arithmetic throughput.

All times are wall-clock times around synchronized work: the median of several runs after a warm-up
run. They are meaningless on an emulated device.
"""

import statistics
import time
from collections.abc import Callable
from functools import partial

import numpy as np

from tinynn.backend import Backend

_REPEATS = 7


def seconds(backend: Backend, work: Callable[[], object], times: int = 1) -> float:
    """The median time of one call of ``work``, over runs of ``times`` calls each.

    A warm-up run is not counted. The device is synchronized before and after each run.
    """
    runs = []
    for _ in range(_REPEATS + 1):
        backend.synchronize()
        start = time.perf_counter()
        for _ in range(times):
            work()
        backend.synchronize()
        runs.append((time.perf_counter() - start) / times)
    return statistics.median(runs[1:])


def launch_time(backend: Backend) -> float:
    """Seconds per launch of a kernel on a single element, over many launches in a row."""
    one = backend.from_host(np.ones(1, np.float32))
    return seconds(backend, lambda: backend.relu(one), times=200)


def copy_bandwidth(backend: Backend, size: int = 1 << 28) -> float:
    """Bytes per second, read and written, of a copy within device memory."""
    source = backend.xp.ones(size // 4, dtype="float32")
    target = backend.xp.empty_like(source)
    return 2 * size / seconds(backend, lambda: backend.xp.copyto(target, source), times=4)


def upload_bandwidth(backend: Backend, size: int = 1 << 26) -> float | None:
    """Bytes per second of the loader's host-to-device copies; None for a CPU."""
    if backend.device == "cpu":
        return None
    host = np.ones(size // 4, dtype=np.float32)
    uploads = backend.uploads()
    return size / seconds(backend, lambda: uploads.receive(uploads.start(host)), times=4)


def matmul_peak(backend: Backend, dtype: str = "float32", size: int = 2048) -> float:
    """Floating-point operations per second of a product of two square matrices."""
    factor = backend.xp.ones((size, size), dtype=dtype)
    return 2 * size**3 / seconds(backend, lambda: backend.matmul(factor, factor), times=3)


LIMITS: dict[str, Callable[[Backend], float | None]] = {
    "kernel launch, seconds": launch_time,
    "copy within device memory, bytes/s": copy_bandwidth,
    "host-to-device copy of the loader, bytes/s": upload_bandwidth,
    "matrix product in float32, FLOP/s": matmul_peak,
    "matrix product in float16, FLOP/s": partial(matmul_peak, dtype="float16"),
}
