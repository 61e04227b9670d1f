"""Counters and times of a trace on a GPU."""

import time
from collections.abc import Sequence
from typing import Any

from tinynn.backend.cuda.setup import find_cuda, is_emulated
from tinynn.backend.tracing import Meter, Span


class CudaMeter(Meter):
    """Events on the current stream; launches of the library's own kernels only."""

    asynchronous = True

    def __init__(self, xp: Any, index: int) -> None:
        self.cuda, self.index = xp.cuda, index
        with self.cuda.Device(index):
            self.pool = xp.get_default_memory_pool()

    def read(self, reported: dict[str, int]) -> dict[str, int]:
        return {**reported, "memory": self.pool.used_bytes()}

    def event(self) -> Any:
        with self.cuda.Device(self.index):  # an event belongs to one GPU
            event = self.cuda.Event()
            event.record()
        return event

    def time_spans(self, first: Any, spans: Sequence[Span]) -> float:
        began = time.perf_counter()
        spans[-1].event.synchronize()  # all earlier events are then complete
        waited = time.perf_counter() - began
        start = 0.0
        for span in spans:
            span.start = start
            span.seconds = self.cuda.get_elapsed_time(first, span.event) / 1e3
            start += span.seconds
            first, span.event = span.event, None
        return waited


class EmulatedMeter(CudaMeter):
    """The counters of the emulator, which are exact; it has no times."""

    emulated = True

    def read(self, reported: dict[str, int]) -> dict[str, int]:
        import cpucuda

        counters = cpucuda.counters()
        syncs = ("stream_syncs", "device_syncs", "event_syncs")
        return {
            "launches": counters["kernel_launches"],
            "library_calls": counters["library_launches"],
            "bytes_up": counters["h2d_bytes"],
            "bytes_down": counters["d2h_bytes"],
            "synchronizations": sum(counters[name] for name in syncs),
            "memory": self.pool.used_bytes(),
        }

    event, time_spans = Meter.event, Meter.time_spans


def meter(xp: Any, index: int) -> Meter:
    """The meter of a device."""
    return (EmulatedMeter if is_emulated(find_cuda(), index) else CudaMeter)(xp, index)
