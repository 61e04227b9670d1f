"""Worker threads for the NumPy backend: tiles of a kernel run side by side.

NumPy releases the interpreter lock in matrix products, copies and large elementwise operations, so
plain threads suffice. BLAS is held to one thread of its own wherever a kernel calls it: its workers
go on spinning for a while after each product and would take the cores from ours.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from tinynn.errors import ArgumentError

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

T = TypeVar("T")


def usable_cores() -> int:
    """Cores this process may run on (its affinity, not the machine's count)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class _Workers:
    """The thread pool, made at first use."""

    def __init__(self) -> None:
        self.count = usable_cores()
        self.pool: ThreadPoolExecutor | None = None

    def start(self) -> ThreadPoolExecutor:
        if self.pool is None:
            from concurrent.futures import ThreadPoolExecutor

            self.pool = ThreadPoolExecutor(max(1, self.count - 1), thread_name_prefix="tinynn")
        return self.pool

    def stop(self) -> None:
        pool, self.pool = self.pool, None
        if pool is not None:
            pool.shutdown(wait=False)


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


_workers = _Workers()
_blas = _Blas()


def _forget_threads() -> None:
    """A forked child has none of its parent's threads, and its locks may be held by them."""
    global _blas
    _workers.pool = None
    _blas = _Blas()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)


def set_num_threads(count: int) -> None:
    """Use ``count`` threads for the kernels of the NumPy backend (default: the usable cores)."""
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ArgumentError(f"set_num_threads expects a whole number >= 1, got {count!r}")
    _workers.stop()
    _workers.count = count


def get_num_threads() -> int:
    """How many threads the kernels of the NumPy backend use."""
    return _workers.count


@contextmanager
def single_threaded_blas() -> Iterator[None]:
    """Matrix products inside run on the thread that calls them."""
    blas = _blas
    blas.hold()
    try:
        yield
    finally:
        blas.release()


def parallel(function: Callable[[T], object], items: Sequence[T]) -> None:
    """Call ``function`` on every item, on the worker threads; the first exception is raised.

    Items must write to places of their own; their order of execution is not defined.
    """
    with single_threaded_blas():
        if _workers.count == 1 or len(items) < 2:
            for item in items:
                function(item)
            return
        queue = iter(items)

        def work() -> None:
            for item in queue:
                function(item)

        pool = _workers.start()
        others = [pool.submit(work) for _ in range(min(_workers.count, len(items)) - 1)]
        try:
            work()  # the calling thread takes its share
        finally:
            for other in others:
                other.result()
