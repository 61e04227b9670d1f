"""Worker threads for the NumPy backend: tiles of a kernel run side by side.

NumPy releases the interpreter lock in matrix products, copies and large elementwise operations, so
plain threads suffice. BLAS is held to one thread of its own wherever a kernel calls it: its workers
go on spinning for a while after each product and would take the cores from ours.
"""

from __future__ import annotations

import math
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextvars import copy_context
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

import numpy as np

from tinynn.errors import ArgumentError

T = TypeVar("T")


def usable_cores() -> int:
    """Cores this process may really use: by its affinity, and by the quota of its container."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    quota = cpu_quota(Path("/sys/fs/cgroup"), _own_group())
    return max(1, round(min(cores, quota)))


def _own_group() -> str:
    """The control group of this process as a path below the root of its hierarchy (version 2)."""
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line[3:].strip("/") for line in lines if line.startswith("0::")), "")


def cpu_quota(root: Path, group: str) -> float:
    """Cores that control groups grant (Linux, cgroup versions 1 and 2); infinite without one.

    A group has no more than those that it lies in.
    """
    least = math.inf
    parts = [part for part in group.split("/") if part]
    for depth in range(len(parts) + 1):
        least = min(least, _quota(root.joinpath(*parts[:depth], "cpu.max")))
    return min(least, _quota(root / "cpu" / "cpu.cfs_quota_us"))


def _quota(file: Path) -> float:
    """Of "quota period" in one file, or of two files; "max" and -1 mean that there is none."""
    try:
        numbers = file.read_text(encoding="ascii").split()
        if len(numbers) == 1:
            numbers += file.with_name("cpu.cfs_period_us").read_text(encoding="ascii").split()
        quota, period = map(int, numbers)
    except (OSError, ValueError):
        return math.inf
    return quota / period if quota > 0 and period > 0 else math.inf


class _Workers:
    """Threads that wait for work, started when there is some.

    They are daemons: a program that ends, or is interrupted, does not wait for them.
    """

    def __init__(self) -> None:
        self.chosen: int | None = None
        self.started = 0
        self.lock = threading.Lock()
        self.tasks: SimpleQueue[tuple[Callable[[], None], threading.Lock]] = SimpleQueue()

    @property
    def count(self) -> int:
        """How many threads work; asked of the system when it is first needed."""
        if self.chosen is None:
            self.chosen = usable_cores()
        return self.chosen

    def run(self, work: Callable[[], None], times: int) -> list[threading.Lock]:
        """Have ``work`` called so many times; each lock can be acquired when one call is done."""
        with self.lock:
            for _ in range(self.started, self.count - 1):
                threading.Thread(target=self._loop, name="tinynn", daemon=True).start()
                self.started += 1  # not before: an interrupt must not leave us waiting for nobody
        locks = [threading.Lock() for _ in range(times)]
        for lock in locks:
            lock.acquire()
            # with the caller's context, where numpy.errstate is kept
            self.tasks.put((partial(copy_context().run, work), lock))
        return locks

    def _loop(self) -> None:
        _this_thread.is_worker = True
        while True:
            work, lock = self.tasks.get()
            work()
            del work  # and with it the arrays that it works on
            lock.release()


class _ThisThread(threading.local):
    is_worker = False
    holds: _Blas | None = None  # which BLAS libraries it has lowered to one thread


_this_thread = _ThisThread()


class _Blas:
    """The thread counts of the BLAS libraries, lowered while a kernel of ours runs."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.libraries: list[Any] | None = None
        self.usual: list[int] = []
        self.depth = 0

    def hold(self) -> None:
        with self.lock:
            if self.libraries is None:
                from threadpoolctl import ThreadpoolController

                found = ThreadpoolController().select(user_api="blas")
                self.libraries = list(found.lib_controllers)
            if self.depth == 0:
                self.usual = [library.num_threads for library in self.libraries]
                self._set([1] * len(self.usual))
            self.depth += 1

    def release(self) -> None:
        with self.lock:
            self.depth -= 1
            if self.depth == 0:
                self._set(self.usual)

    def _set(self, counts: list[int]) -> None:
        for library, count in zip(self.libraries or (), counts, strict=True):
            library.set_num_threads(count)


_LOOKS = 500  # for some milliseconds
_pastime = np.zeros(1 << 15, dtype=np.float32)
_workers = _Workers()
_blas = _Blas()


def _forget_threads() -> None:
    """A forked child has none of its parent's threads, and its locks may be held by them."""
    global _blas, _workers
    chosen, _workers, _blas = _workers.chosen, _Workers(), _Blas()
    _workers.chosen = chosen


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)


def set_num_threads(count: int) -> None:
    """Use ``count`` threads for the kernels of the NumPy backend (default: the usable cores)."""
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ArgumentError(f"set_num_threads expects a whole number >= 1, got {count!r}")
    _workers.chosen = count


def get_num_threads() -> int:
    """How many threads the kernels of the NumPy backend use."""
    return _workers.count


class single_threaded_blas:  # noqa: N801, a context manager like any other
    """A context in which matrix products run on the thread that calls them.

    Inside another one it costs next to nothing: hold it around a run of kernels.
    """

    def __enter__(self) -> None:
        self.blas = None if _this_thread.holds is _blas else _blas
        if self.blas is not None:
            self.blas.hold()
            _this_thread.holds = self.blas

    def __exit__(self, *failure: object) -> None:
        if self.blas is not None:
            _this_thread.holds = None
            self.blas.release()


def _await(lock: threading.Lock) -> None:
    """Acquire the lock; for a while without sleeping, as waking up takes longer than most tiles."""
    for _ in range(_LOOKS):
        if lock.acquire(blocking=False):
            return
        np.add(_pastime, _pastime, out=_pastime)  # some microseconds without the interpreter
    lock.acquire()


def parallel(function: Callable[[T], object], items: Sequence[T]) -> None:
    """Call ``function`` on every item, on several threads; the first exception is raised.

    Items must write to places of their own; their order of execution is not defined.
    """
    if len(items) == 1 or _this_thread.is_worker or _workers.count == 1:
        with single_threaded_blas():
            for item in items:
                function(item)
        return
    queue = deque(items)  # threads may take from it at once, an interpreter's lock or none
    failures: list[BaseException] = []

    def work() -> None:
        try:
            while queue and not failures:
                try:
                    item = queue.popleft()
                except IndexError:  # the last one went to another thread
                    return
                function(item)
        except BaseException as error:  # raised below, on the thread that called
            failures.append(error)

    helpers = min(_workers.count, len(items)) - 1
    with single_threaded_blas():
        locks = _workers.run(work, helpers) if helpers > 0 else []
        work()  # the calling thread takes its share
        for lock in locks:
            _await(lock)
    if failures:
        raise failures[0]
