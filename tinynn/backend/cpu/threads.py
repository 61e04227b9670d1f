"""A thread pool for the tiles of a kernel, and BLAS held to one thread meanwhile.

**Threads, not processes.** NumPy releases the GIL in matrix products, copies and large elementwise
operations, so plain threads run in parallel. Each NumPy call takes the GIL again when it returns;
two threads contend for it there, and a thread that has to wait for it sleeps. That is why a tile
should consist of a few long operations (see ``tuning.TILE_BYTES``).

**BLAS oversubscription.** OpenBLAS and MKL have thread pools of their own. With p of our threads
calling a BLAS of p threads, p² threads would share p cores, and BLAS workers go on spinning for
some milliseconds after each product. So every kernel runs with BLAS limited to one thread, by
``single_threaded_blas``; ``Backend.session`` holds that limit over a whole forward or backward
pass, as setting it costs some microseconds.

**Waiting.** The caller takes its share of the tiles and then waits for the workers. It spins for
some milliseconds before it sleeps, because waking up takes longer than most tiles.

The results never depend on the number of threads: how work is cut depends on sizes only, and sums
over tiles are added in a fixed order.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from contextvars import copy_context
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeVar

import numpy as np

from tinynn.arguments import integer
from tinynn.backend.cpu import tuning
from tinynn.backend.cpu.system import usable_cores

T = TypeVar("T")


class _Pool:
    """Worker threads that are started when there is work for them.

    They are daemons: a program that ends or is interrupted does not wait for them.
    """

    def __init__(self) -> None:
        self.chosen: int | None = None  # None: the usable cores, not looked up yet
        self.started = 0
        self.lock = threading.Lock()
        self.tasks: SimpleQueue[tuple[Callable[[], None], threading.Lock]] = SimpleQueue()

    def submit(self, work: Callable[[], None], times: int) -> list[threading.Lock]:
        """Call ``work`` on ``times`` workers; each lock is released when one call has returned."""
        with self.lock:
            for _ in range(self.started, get_num_threads() - 1):
                threading.Thread(target=self._loop, name="tinynn", daemon=True).start()
                # counted after it has started: after an interrupt in between, the caller would wait
                # for a worker that does not exist
                self.started += 1
        locks = [threading.Lock() for _ in range(times)]
        for lock in locks:
            lock.acquire()
            # in a copy of the caller's context, which holds numpy.errstate
            self.tasks.put((partial(copy_context().run, work), lock))
        return locks

    def _loop(self) -> None:
        _this_thread.is_worker = True
        while True:
            work, lock = self.tasks.get()
            work()
            del work  # frees its arrays: the next task may come much later
            lock.release()


class _ThisThread(threading.local):
    is_worker = False
    limited: _BlasLimit | None = None  # the limit that this thread holds


_this_thread = _ThisThread()


class _BlasLimit:
    """Sets the BLAS libraries to one thread while at least one thread holds the limit.

    Their number of threads is global to the process, so a counter of holders decides when it is
    lowered and when it is restored.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.libraries: list[Any] | None = None
        self.usual: list[int] = []
        self.holders = 0

    def hold(self) -> None:
        with self.lock:
            if self.libraries is None:
                from threadpoolctl import ThreadpoolController  # searches all loaded libraries

                found = ThreadpoolController().select(user_api="blas")
                self.libraries = list(found.lib_controllers)
            if self.holders == 0:
                self.usual = [library.num_threads for library in self.libraries]
                self._set([1] * len(self.usual))
            self.holders += 1

    def release(self) -> None:
        with self.lock:
            self.holders -= 1
            if self.holders == 0:
                self._set(self.usual)

    def _set(self, counts: list[int]) -> None:
        for library, count in zip(self.libraries or (), counts, strict=True):
            library.set_num_threads(count)


_spin_buffer = np.zeros(tuning.SPIN_ELEMENTS, dtype=np.float32)
_pool = _Pool()
_blas = _BlasLimit()


def _reset_after_fork() -> None:
    """A forked child has none of its parent's threads, and its locks may be held by them."""
    global _blas, _pool
    chosen, _pool, _blas = _pool.chosen, _Pool(), _BlasLimit()
    _pool.chosen = chosen


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_after_fork)


def set_num_threads(count: int) -> None:
    """Set how many threads the CPU kernels use (default: the usable cores).

    Raises:
        ArgumentError: ``count`` is not a whole number >= 1.
    """
    _pool.chosen = integer("set_num_threads: count", count, 1)


def get_num_threads() -> int:
    """How many threads the CPU kernels use."""
    if _pool.chosen is None:
        _pool.chosen = usable_cores()
    return _pool.chosen


class single_threaded_blas:  # noqa: N801, a context manager like any other
    """A context in which BLAS runs on the calling thread only.

    Nested in another one it costs next to nothing: hold it around a run of kernels.
    """

    def __enter__(self) -> None:
        self.blas = None if _this_thread.limited is _blas else _blas
        if self.blas is not None:
            self.blas.hold()
            _this_thread.limited = self.blas

    def __exit__(self, *failure: object) -> None:
        if self.blas is not None:
            _this_thread.limited = None
            self.blas.release()


def session(backend: object) -> AbstractContextManager[None]:
    """A context for a forward or backward pass: BLAS is held to one thread."""
    return single_threaded_blas()


def _spin_then_wait(lock: threading.Lock) -> None:
    """Acquire the lock. Spin before sleeping: waking up takes longer than most tiles."""
    for _ in range(tuning.SPIN_ITERATIONS):
        if lock.acquire(blocking=False):
            return
        np.add(_spin_buffer, _spin_buffer, out=_spin_buffer)  # some microseconds without the GIL
    lock.acquire()


def parallel(function: Callable[[T], object], items: Sequence[T], pays: bool = True) -> None:
    """Call ``function`` on every item, on several threads if that ``pays``.

    Items must write to disjoint memory; the order in which they run is not defined. Within a
    worker, or with a single item, they run on the calling thread.

    Raises:
        BaseException: The first exception that an item raised.
    """
    if not pays or len(items) == 1 or _this_thread.is_worker or get_num_threads() == 1:
        with single_threaded_blas():
            for item in items:
                function(item)
        return
    queue = deque(items)  # popleft is atomic, also in builds without the GIL
    failures: list[BaseException] = []

    def work() -> None:
        try:
            while queue and not failures:
                try:
                    item = queue.popleft()
                except IndexError:  # another thread took the last one
                    return
                function(item)
        except BaseException as error:  # raised below, on the calling thread
            failures.append(error)

    helpers = min(get_num_threads(), len(items)) - 1
    with single_threaded_blas():
        locks = _pool.submit(work, helpers) if helpers > 0 else []
        work()
        for lock in locks:
            _spin_then_wait(lock)
    if failures:
        raise failures[0]
