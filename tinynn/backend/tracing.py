"""The thread that is being traced, if any: what ``tinynn.trace`` has the library report to.

Work is cut into laps: whatever happened since the last cut belongs to the function that ends now.
Without a trace each report costs one look at ``active``.
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
class Lap:
    """What one function did between two cuts."""

    layer: str
    function: str
    start: float  # seconds since the trace began, on the host
    seconds: float  # on the host; on a GPU replaced by that between two events of the stream
    counts: dict[str, int]
    event: Any = None  # at the end of the lap


@dataclass
class Tracer:
    """Collects laps of one thread; ``meter`` says how to count and time on its device."""

    meter: Any
    laps: list[Lap] = field(default_factory=list)
    stack: list[str] = field(default_factory=list)  # layers that are being called
    paths: dict[int, str] = field(default_factory=dict)
    made_in: dict[int, str] = field(default_factory=dict)  # layer by the order of a record
    counts: dict[str, int] = field(default_factory=dict)  # what the library itself reports
    waited: float = 0.0  # seconds the host waited for the device
    inside: bool = False  # a lap with a name of its own: functions in it do not end it

    def __post_init__(self) -> None:
        self.thread = threading.get_ident()
        self.before = self.meter.read(self.counts)
        self.began = self.last = time.perf_counter()

    def count(self, name: str, amount: int = 1) -> None:
        """Add to a count, from any thread."""
        self.counts[name] = self.counts.get(name, 0) + amount

    def cut(self, function: str, layer: str | None = None) -> None:
        """End a lap: the work since the last cut was this function's."""
        now, after = time.perf_counter(), self.meter.read(self.counts)
        counts = {name: after[name] - self.before.get(name, 0) for name in after}
        layer = (self.stack[-1] if self.stack else "") if layer is None else layer
        start = self.last - self.began
        self.laps.append(Lap(layer, function, start, now - self.last, counts, self.meter.event()))
        self.before, self.last = after, time.perf_counter()

    def made(self, name: str, size: int, order: int | None) -> None:
        """A function ``name`` has made a result of ``size`` bytes."""
        if threading.get_ident() != self.thread:
            return
        self.count("result_bytes", size)
        if order is not None:
            self.made_in[order] = self.stack[-1] if self.stack else ""
        if not self.inside:
            self.cut(name)

    @contextmanager
    def lap(self, function: str, order: int | None = None) -> Iterator[None]:
        """A lap of its own; ``order`` is that of the record that is carried back."""
        if threading.get_ident() != self.thread or self.inside:
            yield
            return
        self.cut("other")
        self.inside = True
        try:
            yield
        finally:
            self.inside = False
            self.cut(function, None if order is None else self.made_in.get(order))

    @contextmanager
    def transfer(self, function: str, size: int) -> Iterator[None]:
        """An upload or a download; the host waits for a download."""
        with self.lap(function):
            began = time.perf_counter()
            yield
            self.count("bytes_up" if function == "upload" else "bytes_down", size)
            if function == "download":
                self.count("synchronizations")
                self.waited += time.perf_counter() - began

    def call(
        self, modules: Sequence[Any], forward: Callable[..., Any], *args: Any, **kw: Any
    ) -> Any:
        """``forward(*args, **kw)``, whose work is that of the modules."""
        if threading.get_ident() != self.thread or self.inside:
            return forward(*args, **kw)
        if not self.stack:
            self.paths = {id(module): path for path, module in modules[0].named_modules()}
        self.cut("other")
        self.stack.append(self._label(modules))
        try:
            return forward(*args, **kw)
        finally:
            self.cut("other")
            self.stack.pop()

    def _label(self, modules: Sequence[Any]) -> str:
        path = self.paths.get(id(modules[0]), "?")
        if len(modules) > 1:
            path += ".." + self.paths.get(id(modules[-1]), "?").rpartition(".")[2]
        return f"{path} {'+'.join(type(module).__name__ for module in modules)}".strip()


_nothing = nullcontext()


def lap(function: str, order: int | None = None) -> AbstractContextManager[None]:
    """A context whose work is that of one function, if a trace is active."""
    return _nothing if active is None else active.lap(function, order)


def transfer(function: str, size: int) -> AbstractContextManager[None]:
    """A context of an upload or a download of ``size`` bytes."""
    return _nothing if active is None else active.transfer(function, size)


def report(name: str, amount: int) -> None:
    """Add to a count, from any thread."""
    if active is not None:
        active.count(name, amount)
