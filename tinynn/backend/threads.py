"""Worker threads for the NumPy backend: tiles of a kernel run side by side.

NumPy releases the interpreter lock in matrix products, copies and large elementwise operations, so
plain threads suffice. While tiles run in parallel BLAS is held to one thread of its own; otherwise
the two kinds of threads would fight for the same cores.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
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
    """The thread pool and the BLAS controller, both made at first use."""

    def __init__(self) -> None:
        self.count = usable_cores()
        self.pool: ThreadPoolExecutor | None = None
        self.blas: Any = None

    def start(self) -> ThreadPoolExecutor:
        if self.pool is None:
            from concurrent.futures import ThreadPoolExecutor

            from threadpoolctl import ThreadpoolController

            self.pool = ThreadPoolExecutor(self.count, thread_name_prefix="tinynn")
            self.blas = ThreadpoolController().select(user_api="blas")
        return self.pool

    def stop(self) -> None:
        pool, self.pool = self.pool, None
        if pool is not None:
            pool.shutdown(wait=False)


_workers = _Workers()
if hasattr(os, "register_at_fork"):  # a child has none of its parent's threads
    os.register_at_fork(after_in_child=lambda: setattr(_workers, "pool", None))


def set_num_threads(count: int) -> None:
    """Use ``count`` threads for the kernels of the NumPy backend (default: the usable cores)."""
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ArgumentError(f"set_num_threads expects a whole number >= 1, got {count!r}")
    _workers.stop()
    _workers.count = count


def get_num_threads() -> int:
    """How many threads the kernels of the NumPy backend use."""
    return _workers.count


def parallel(function: Callable[[T], object], items: Sequence[T]) -> None:
    """Call ``function`` on every item, on the worker threads; the first exception is raised.

    Items must write to places of their own; their order of execution is not defined.
    """
    if _workers.count == 1 or len(items) < 2:
        for item in items:
            function(item)
        return
    pool = _workers.start()
    with _workers.blas.limit(limits=1):
        for future in [pool.submit(function, item) for item in items]:
            future.result()
