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
from contextlib import AbstractContextManager, nullcontext
from contextvars import copy_context
from functools import partial
from operator import methodcaller
from queue import SimpleQueue
from typing import Any, TypeVar
from weakref import ref

import numpy as np

from tinynn.arguments import integer
from tinynn.backend.cpu import tuning
from tinynn.backend.cpu.system import usable_cores
from tinynn.errors import DeviceMemoryError
from tinynn.scoped import Context, Key

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

    def submit(self, work: Callable[[], None], times: int, running: list[threading.Lock]) -> None:
        """Call ``work`` on ``times`` workers, fewer if the system refuses to start that many.

        ``running`` gets a lock for each call; it is released when the call has returned.
        """
        if self.started < times:
            self._start(times)
        for _ in range(min(times, self.started)):
            lock = threading.Lock()
            lock.acquire()
            # in a copy of the caller's context, which holds numpy.errstate
            self.tasks.put((partial(copy_context().run, work), lock))
            running.append(lock)

    def _start(self, count: int) -> None:
        with self.lock:
            while self.started < count:
                try:
                    threading.Thread(target=self._loop, name="tinynn", daemon=True).start()
                except RuntimeError:  # can't start new thread
                    return
                # counted after it has started: after an interrupt in between, the caller would wait
                # for a worker that does not exist
                self.started += 1

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

    Their number of threads is global to the process, so the set of holders decides when it is
    lowered and when it is restored.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()  # the garbage collector may call release() at any point
        self.libraries: list[Any] = []
        self.searched = False
        self.usual: list[int] = []
        self.holders: set[Key] = set()

    def hold(self, holder: Key) -> None:
        """Let this thread take part; ``release`` also undoes a call that was interrupted."""
        with self.lock:
            if not self.searched:
                from threadpoolctl import ThreadpoolController  # searches all loaded libraries

                found = ThreadpoolController().select(user_api="blas")
                self.libraries, self.searched = list(found.lib_controllers), True
            if not self.holders:
                self.usual = list(map(methodcaller("get_num_threads"), self.libraries))
            self.holders.add(holder)
            if len(self.holders) == 1:
                for library in self.libraries:
                    library.set_num_threads(1)
        _this_thread.limited = self

    def release(self, holder: Key, *exception: object) -> None:
        """End what this thread holds; another call completes one that was interrupted."""
        if holder not in self.holders:  # its end was interrupted after it was done
            return
        _this_thread.limited = None
        with self.lock:
            if len(self.holders) == 1:
                self.restore()
            self.holders.discard(holder)
        error = exception[1] if exception else None
        if isinstance(error, MemoryError) and not isinstance(error, DeviceMemoryError):
            explanation = DeviceMemoryError(str(error))
            vars(explanation).update(vars(error))  # the module that failed, if it is known already
            raise explanation from error

    def restore(self) -> None:
        """Give the libraries their usual threads."""
        for library, count in zip(self.libraries, self.usual, strict=True):
            library.set_num_threads(count)


_spin_buffer = np.zeros(tuning.SPIN_ELEMENTS, dtype=np.float32)
_pool = _Pool()
_blas = _BlasLimit()
_nested = nullcontext()


def _reset_after_fork() -> None:
    """A forked child has none of its parent's threads, and its locks may be held by them."""
    global _blas, _pool
    if _blas.holders:
        _blas.restore()
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


class _Limited(Context):
    """A context in which this thread takes part in the limit."""

    def __enter__(self) -> None:
        key = ref(self.token, self.leave)
        try:
            _blas.hold(key)
        except BaseException:
            _blas.release(key)
            raise


def single_threaded_blas() -> AbstractContextManager[None]:
    """A context in which BLAS runs on the calling thread only.

    Nested in another one it costs next to nothing: hold it around a run of kernels.
    """
    return _nested if _this_thread.limited is _blas else _Limited(_blas.release)


def session(backend: object) -> AbstractContextManager[None]:
    """A context for a forward or backward pass: BLAS is held to one thread."""
    return single_threaded_blas()


def _spin_then_wait(lock: threading.Lock) -> None:
    """Wait until the lock is free. Spin before sleeping: waking up takes longer than most tiles."""
    for _ in range(tuning.SPIN_ITERATIONS):
        if not lock.locked():
            return
        np.add(_spin_buffer, _spin_buffer, out=_spin_buffer)  # some microseconds without the GIL
    with lock:
        pass


def parallel(function: Callable[[T], object], items: Sequence[T], pays: bool = True) -> None:
    """Call ``function`` on every item, on several threads if that ``pays``.

    Items must write to disjoint memory; the order in which they run is not defined. Within a
    worker, or with a single item, they run on the calling thread.

    Raises:
        BaseException: The first exception that an item raised.
    """
    if _this_thread.limited is not _blas and not _this_thread.is_worker:
        with single_threaded_blas():
            parallel(function, items, pays)
    elif not pays or len(items) == 1 or _this_thread.is_worker or get_num_threads() == 1:
        for item in items:
            function(item)
    else:
        _share(function, items)


def _share(function: Callable[[T], object], items: Sequence[T]) -> None:
    """Call ``function`` on every item, on this thread and on workers."""
    queue = deque(items)  # popleft is atomic, also in builds without the GIL
    failures: list[BaseException] = []
    running: list[threading.Lock] = []

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

    try:
        _pool.submit(work, min(get_num_threads(), len(items)) - 1, running)
        work()
        for lock in running:
            _spin_then_wait(lock)
    except BaseException as error:  # an interrupt; no worker must write to the arrays afterwards
        failures.append(error)
        for lock in running:
            _spin_then_wait(lock)
        raise
    if failures:
        raise failures[0]
