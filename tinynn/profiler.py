"""``tinynn.trace``: what each layer and function launched, moved, waited for and took."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from tinynn.backend import default_device, get_backend, tracing
from tinynn.backend.inventory import devices
from tinynn.errors import ArgumentError


@dataclass
class Figures:
    """Counts of one function, or of all; ``seconds`` is None on an emulated device."""

    calls: int = 0
    launches: int = 0
    library_calls: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    synchronizations: int = 0
    memory: int = 0  # bytes by which the device's memory grew; on a CPU bytes of results
    seconds: float | None = 0.0


_COUNTS = ("launches", "library_calls", "bytes_up", "bytes_down", "synchronizations", "memory")


class _CpuMeter:
    def read(self, reported: dict[str, int]) -> dict[str, int]:
        return {"memory": reported.get("result_bytes", 0)}

    def event(self) -> Any:
        return None


class _CudaMeter:
    """A GPU: events on the stream; the launches of the library's own kernels."""

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


class _EmulatedMeter(_CudaMeter):
    """The emulator counts everything."""

    def read(self, reported: dict[str, int]) -> dict[str, int]:
        import cpucuda

        seen = cpucuda.counters()
        return {
            "launches": seen["kernel_launches"],
            "library_calls": seen["library_launches"],
            "bytes_up": seen["h2d_bytes"],
            "bytes_down": seen["d2h_bytes"],
            "synchronizations": seen["stream_syncs"] + seen["device_syncs"] + seen["event_syncs"],
            "memory": self.pool.used_bytes(),
        }

    def event(self) -> Any:
        return None


class Trace:
    """The figures of a ``with tinynn.trace()`` block, complete when it has ended."""

    def __init__(self, device: str) -> None:
        self.device = device
        found = {entry.name: entry for entry in devices()} if device != "cpu" else {}
        entry = found.get("cuda:0" if device == "cuda" else device)
        self.emulated = entry is not None and entry.emulated
        self.laps: list[tracing.Lap] = []
        self.wall = self.waited = 0.0

    @property
    def at_least(self) -> bool:
        """Whether launches, synchronizations and library calls are lower bounds."""
        return self.device != "cpu" and not self.emulated

    @property
    def rows(self) -> dict[tuple[str, str], Figures]:
        """The figures by layer and function, in the order of their first work."""
        rows: dict[tuple[str, str], Figures] = {}
        for lap in self.laps:
            if lap.function == "other" and not any(lap.counts.values()):
                continue
            _add(rows.setdefault((lap.layer, lap.function), Figures()), lap, self.emulated)
        return rows

    @property
    def total(self) -> Figures:
        """The sum over all rows."""
        total = Figures()
        for lap in self.laps:
            _add(total, lap, self.emulated)
        return total

    def table(self) -> str:
        """A text with one line for each layer and function."""
        names = [field.name for field in fields(Figures)]
        lines = [["layer", "function", *names]]
        for (layer, function), row in [*self.rows.items(), (("total", ""), self.total)]:
            lines.append([layer, function, *(_shown(n, getattr(row, n)) for n in names)])
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text = [
            "  ".join(c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in cells).rstrip()
            for cells in (list(enumerate(zip(line, widths, strict=True))) for line in lines)
        ]
        if self.at_least:
            text.append("launches, library_calls and synchronizations: at least")
        return "\n".join([*text, self.verdict()])

    __str__ = table

    def json(self) -> dict[str, Any]:
        """Everything as plain numbers, texts, lists and dicts."""
        rows = [
            {"layer": layer, "function": function, **asdict(row)}
            for (layer, function), row in self.rows.items()
        ]
        return {
            "device": self.device,
            "emulated": self.emulated,
            "at_least": ["launches", "library_calls", "synchronizations"] * self.at_least,
            "total": asdict(self.total),
            "rows": rows,
            "verdict": self.verdict(),
        }

    def save_json(self, path: str | Path) -> None:
        """Write ``json()`` to a file."""
        Path(path).write_text(json.dumps(self.json(), indent=1), encoding="utf-8")

    def save_chrome(self, path: str | Path) -> None:
        """Write Chrome's trace event format, which Perfetto and chrome://tracing show.

        Under the emulator the lengths are those of the emulation.
        """
        events = [
            {"name": lap.function, "cat": lap.layer, "ph": "X", "pid": 1, "tid": 1}
            | {"ts": lap.start * 1e6, "dur": lap.seconds * 1e6}
            | {"args": {"layer": lap.layer, **lap.counts}}
            for lap in self.laps
        ]
        Path(path).write_text(json.dumps({"traceEvents": events}), encoding="utf-8")

    def verdict(self) -> str:
        """One sentence on what the time went to, from measured numbers."""
        total, rows = self.total, self.rows
        if self.emulated:
            return (
                f"EMULATED, no times: {total.launches} launches, {total.library_calls} library "
                f"calls, {total.synchronizations} synchronizations, {total.bytes_up} bytes up, "
                f"{total.bytes_down} down."
            )
        if not rows or not self.wall:
            return "Nothing was computed."
        if self.device == "cpu":
            (layer, function), row = max(rows.items(), key=lambda item: item[1].seconds or 0)
            return f"Busy: {layer or 'no layer'}, {function} takes {row.seconds:.3g} s, the most."
        uploads = sum(row.seconds or 0 for (_, name), row in rows.items() if name == "upload")
        waited = self.waited / self.wall
        if uploads > 0.4 * self.wall:
            return f"Transfer-bound: {uploads / self.wall:.0%} of the time went to uploads."
        if waited < 0.2:
            return f"Launch-bound: the host waited for the GPU {waited:.0%} of the time only."
        if waited < 0.6 and total.synchronizations > 1:
            return f"Waiting: {total.synchronizations} synchronizations took {waited:.0%}."
        return f"Busy: the host waited for the GPU's work {waited:.0%} of the time."


def _add(row: Figures, lap: tracing.Lap, emulated: bool) -> None:
    row.calls += 1
    for name in _COUNTS:
        setattr(row, name, getattr(row, name) + lap.counts.get(name, 0))
    row.seconds = None if emulated else (row.seconds or 0.0) + lap.seconds


def _shown(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.6f}" if name == "seconds" else str(value)


@contextmanager
def trace(device: str | None = None) -> Iterator[Trace]:
    """Trace what this thread computes on a device (default: the default device).

    >>> with tinynn.trace("cuda") as trace:
    ...     loss = step()
    >>> print(trace)

    Raises ArgumentError inside another trace.
    """
    if tracing.active is not None:
        raise ArgumentError("a trace is running already: end it before the next begins")
    result = Trace(default_device() if device is None else get_backend(device).device)
    tracer = tracing.Tracer(_meter(result))
    first = tracer.meter.event()
    tracing.active = tracer
    try:
        yield result
    finally:
        tracing.active = None
        tracer.cut("other")
        _finish(result, tracer, first)


def _meter(result: Trace) -> Any:
    if result.device == "cpu":
        return _CpuMeter()
    xp, index = get_backend(result.device).xp, int(result.device.partition(":")[2] or 0)
    return _EmulatedMeter(xp, index) if result.emulated else _CudaMeter(xp, index)


def _finish(result: Trace, tracer: tracing.Tracer, first: Any) -> None:
    """Wait for the last event once, then read all intervals."""
    result.laps = tracer.laps
    if first is not None:
        began = time.perf_counter()
        tracer.laps[-1].event.synchronize()
        tracer.waited += time.perf_counter() - began
        start = 0.0
        for lap in tracer.laps:
            lap.start = start
            lap.seconds = tracer.meter.cuda.get_elapsed_time(first, lap.event) / 1e3
            start += lap.seconds
            first, lap.event = lap.event, None
    result.wall = time.perf_counter() - tracer.began
    result.waited = tracer.waited
