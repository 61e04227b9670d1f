"""``tinynn.trace``: kernel launches, copies, synchronizations and time by layer and function."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, NamedTuple
from weakref import ref

from tinynn.backend import Backend, default_backend, get_backend, tracing
from tinynn.errors import ArgumentError
from tinynn.files import FilePath, write_atomically
from tinynn.scoped import Context, Key

__all__ = ["Trace", "trace"]


class TraceTotals(NamedTuple):
    """Sums over the spans of one function, or over all."""

    calls: int
    launches: int
    library_calls: int
    bytes_up: int
    bytes_down: int
    synchronizations: int
    memory: int  # bytes by which the device's memory grew; on a CPU bytes of results
    seconds: float | None  # None under emulation


_COUNTS = TraceTotals._fields[1:-1]  # the counters of a span


class Trace:
    """The measurements of a ``with tinynn.trace()`` block, complete after the block."""

    def __init__(self, backend: Backend) -> None:
        self.device = backend.device
        self.meter = backend.meter()
        self.emulated = self.meter.emulated
        self.begin()

    def begin(self, key: Key | None = None) -> None:
        """Start to measure, with nothing measured before."""
        self.spans: list[tracing.Span] = []
        self.wall = self.waited = 0.0
        self.key = key  # exists while the trace is active
        self.tracer, self.first = tracing.Tracer(self.meter), self.meter.event()

    @property
    def at_least(self) -> bool:
        """Whether launches, synchronizations and library calls are lower bounds."""
        return self.meter.asynchronous and not self.emulated

    @property
    def rows(self) -> dict[tuple[str, str], TraceTotals]:
        """Totals by layer and function, in the order of their first span."""
        rows: dict[tuple[str, str], list[tracing.Span]] = {}
        for span in self.spans:
            if span.function != "other" or any(span.counts.values()):
                rows.setdefault((span.layer, span.function), []).append(span)
        return {row: self._sum(spans) for row, spans in rows.items()}

    @property
    def total(self) -> TraceTotals:
        """The sum over all rows."""
        return self._sum(self.spans)

    def _sum(self, spans: list[tracing.Span]) -> TraceTotals:
        counts = {name: sum(span.counts.get(name, 0) for span in spans) for name in _COUNTS}
        seconds = None if self.emulated else sum((span.seconds for span in spans), 0.0)
        return TraceTotals(len(spans), **counts, seconds=seconds)

    def table(self) -> str:
        """A table with one row for each layer and function."""
        rows: list[Sequence[str]] = [("layer", "function", *TraceTotals._fields)]
        for key, (*counts, seconds) in [*self.rows.items(), (("total", ""), self.total)]:
            rows.append((*key, *map(str, counts), "-" if seconds is None else f"{seconds:.6f}"))
        text = format_table(rows)
        if self.at_least:
            text.append("launches, library_calls and synchronizations: at least")
        return "\n".join([*text, self.verdict()])

    __str__ = table

    def json(self) -> dict[str, Any]:
        """The totals as JSON-serializable values."""
        rows = [
            {"layer": layer, "function": function, **row._asdict()}
            for (layer, function), row in self.rows.items()
        ]
        return {
            "device": self.device,
            "emulated": self.emulated,
            "at_least": ["launches", "library_calls", "synchronizations"] * self.at_least,
            "total": self.total._asdict(),
            "rows": rows,
            "verdict": self.verdict(),
        }

    def save_json(self, path: FilePath) -> None:
        """Write ``json()`` to a file."""
        write_atomically(path, json.dumps(self.json(), indent=1).encode())

    def save_chrome(self, path: FilePath) -> None:
        """Write Chrome's trace event format, for Perfetto or chrome://tracing.

        Under emulation the durations measure the emulator.
        """
        events = [
            {"name": span.function, "cat": span.layer, "ph": "X", "pid": 1, "tid": 1}
            | {"ts": span.start * 1e6, "dur": span.seconds * 1e6}
            | {"args": {"layer": span.layer, **span.counts}}
            for span in self.spans
        ]
        write_atomically(path, json.dumps({"traceEvents": events}).encode())

    def verdict(self) -> str:
        """One sentence on the bottleneck."""
        total, rows = self.total, self.rows
        if self.emulated:
            return (
                f"EMULATED, no times: {total.launches} launches, {total.library_calls} library "
                f"calls, {total.synchronizations} synchronizations, {total.bytes_up} bytes up, "
                f"{total.bytes_down} down."
            )
        if not rows or not self.wall:
            return "Nothing was computed."
        if not self.meter.asynchronous:
            (layer, function), row = max(rows.items(), key=lambda item: item[1].seconds or 0)
            where = f"{function} in {layer}" if layer else function
            return f"Compute-bound: most time in {where}, {row.seconds:.3g} s."
        uploads = sum(row.seconds or 0 for (_, name), row in rows.items() if name == "upload")
        waited = self.waited / self.wall
        if uploads > 0.4 * self.wall:
            return f"Transfer-bound: {uploads / self.wall:.0%} of the time went to uploads."
        if waited < 0.2:
            return f"Launch-bound: the host waited for the GPU only {waited:.0%} of the time."
        if waited < 0.6 and total.synchronizations > 1:
            return f"Waiting: {total.synchronizations} synchronizations took {waited:.0%}."
        return f"Compute-bound: the host waited for the GPU {waited:.0%} of the time."


def format_table(rows: Sequence[Sequence[str]]) -> list[str]:
    """One line for each row; the first two columns are aligned to the left, the others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    template = "  ".join(f"{{:{'<' if i < 2 else '>'}{width}}}" for i, width in enumerate(widths))
    return [template.format(*row).rstrip() for row in rows]


class _Tracing(Context):
    """A context that traces its thread; the result is complete after it."""

    def __init__(self, backend: Backend) -> None:
        self.result = Trace(backend)
        super().__init__(partial(_end, self.result))

    def __enter__(self) -> Trace:
        self.result.begin(ref(self.token, self.leave))
        try:
            with _starting:
                if tracing.active is not None:
                    raise ArgumentError("a trace is already active: end it before the next begins")
                tracing.active = self.result.tracer
        except BaseException:
            _end(self.result)
            raise
        return self.result


_starting = threading.Lock()


def _end(result: Trace, *exception: object) -> None:
    tracer = result.tracer
    if tracing.active is tracer:
        tracing.active = result.key = None
        tracer.end_span("other")
        result.spans = tracer.spans
        result.waited = tracer.waited + result.meter.time_spans(result.first, tracer.spans)
        result.wall = time.perf_counter() - tracer.began


def trace(device: str | None = None) -> AbstractContextManager[Trace]:
    """Trace what this thread computes on a device (default: the default device).

    Raises:
        ArgumentError: Inside another trace, of any thread.

    Example:
        >>> with tinynn.trace("cuda") as trace:
        ...     loss = step()
        >>> print(trace)
    """
    return _Tracing(default_backend() if device is None else get_backend(device))
