"""Events of the traced thread, if any: what the library reports to ``tinynn.trace``.

A trace is a sequence of spans without gaps. Ending a span attributes everything since the end of
the previous one to a function and a layer. Without a trace, each report costs one test of
``active``.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

active: Tracer | None = None


@dataclass
class Span:
    """The work of one function in one layer."""

    layer: str
    function: str
    start: float  # seconds since the trace began, on the host
    seconds: float  # on the host; on a GPU replaced by the time between two events of the stream
    counts: dict[str, int]
    event: Any = None  # recorded at the end of the span


class Meter:
    """Counts and times the work of a device; this one fits a device that computes synchronously."""

    emulated = False  # times are meaningless
    asynchronous = False  # the host submits work and continues

    def read(self, reported: dict[str, int]) -> dict[str, int]:
        """The counters of a trace, from what the library itself has reported."""
        return {"memory": reported.get("result_bytes", 0)}

    def event(self) -> Any:
        """An event in the device's queue of work, if it has a queue."""
        return None

    def time_spans(self, first: Any, spans: Sequence[Span]) -> float:
        """Replace times of the host by those between events; returns the seconds waited for it."""
        return 0.0


@dataclass
class Tracer:
    """Collects the spans of one thread; ``meter`` counts and times on the traced device."""

    meter: Meter
    spans: list[Span] = field(default_factory=list)
    stack: list[str] = field(
        default_factory=lambda: [""]
    )  # the layers being called; the first is none
    paths: dict[int, str] = field(default_factory=dict)
    layers: dict[int, str] = field(default_factory=dict)  # of the nodes, by their order
    counts: dict[str, int] = field(default_factory=dict)  # reported by the library itself
    waited: float = 0.0  # seconds the host waited for the device
    inside: bool = False  # inside ``span``: functions called there do not end it

    def __post_init__(self) -> None:
        self.thread = threading.get_ident()
        self.before = self.meter.read(self.counts)
        self.began = self.last = time.perf_counter()

    def count(self, name: str, amount: int = 1) -> None:
        """Add to a count, from any thread."""
        self.counts[name] = self.counts.get(name, 0) + amount

    def end_span(self, function: str, layer: str | None = None) -> None:
        """Attribute the work since the end of the previous span to a function."""
        now, after = time.perf_counter(), self.meter.read(self.counts)
        counts = {name: after[name] - self.before.get(name, 0) for name in after}
        layer = self.stack[-1] if layer is None else layer
        start = self.last - self.began
        self.spans.append(Span(layer, function, start, now - self.last, counts, self.meter.event()))
        self.before, self.last = after, time.perf_counter()

    def recorded(self, name: str, size: int, order: int | None) -> None:
        """A function has produced ``size`` bytes; ``order`` is the order of its node, if any."""
        if threading.get_ident() != self.thread:
            return
        self.count("result_bytes", size)
        if order is not None:
            self.layers[order] = self.stack[-1]
        if not self.inside:
            self.end_span(name)

    @contextmanager
    def span(self, function: str, order: int | None = None) -> Iterator[None]:
        """A span of its own, in the layer of the node with that order."""
        if threading.get_ident() != self.thread or self.inside:
            yield
            return
        self.end_span("other")
        self.inside = True
        try:
            yield
        finally:
            self.inside = False
            self.end_span(function, None if order is None else self.layers.get(order))

    @contextmanager
    def transfer(self, function: str, size: int) -> Iterator[None]:
        """The span of a copy between host and device; the host waits for a download."""
        with self.span(function):
            began = time.perf_counter()
            yield
            self.count("bytes_up" if function == "upload" else "bytes_down", size)
            if function == "download":
                self.count("synchronizations")
                self.waited += time.perf_counter() - began

    def call(
        self, modules: Sequence[Any], forward: Callable[..., Any], *args: Any, **kw: Any
    ) -> Any:
        """``forward(*args, **kw)``, attributed to the modules."""
        if threading.get_ident() != self.thread or self.inside:
            return forward(*args, **kw)
        if len(self.stack) == 1:
            self.paths = {id(module): path for path, module in modules[0].named_modules()}
        self.end_span("other")
        self.stack.append(self._label(modules))
        try:
            return forward(*args, **kw)
        finally:
            self.end_span("other")
            self.stack.pop()

    def _label(self, modules: Sequence[Any]) -> str:
        path = self.paths.get(id(modules[0]), "?")
        if len(modules) > 1:
            path += ".." + self.paths.get(id(modules[-1]), "?").rpartition(".")[2]
        return f"{path} {'+'.join(type(module).__name__ for module in modules)}".strip()


_nothing = nullcontext()


def span(function: str) -> AbstractContextManager[None]:
    """A context whose work is attributed to one function, if a trace is active."""
    tracer = active  # read once: another thread may end the trace
    return _nothing if tracer is None else tracer.span(function)


def transfer(function: str, size: int) -> AbstractContextManager[None]:
    """A context of an upload or a download of ``size`` bytes."""
    tracer = active
    return _nothing if tracer is None else tracer.transfer(function, size)
