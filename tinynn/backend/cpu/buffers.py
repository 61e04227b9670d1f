"""Scratch buffers: workspace of the kernels, reused from call to call, one set for each thread.

Fresh memory is expensive: the system maps and clears each page at its first use, several hundred
microseconds for a megabyte. So kernels take their workspace from buffers of their thread, which
grow as needed and stay. A buffer is identified by a name; the next request for that name, on the
same thread, returns the same memory. No locks are needed, and a buffer stays in its core's cache.

``cached_views`` keeps what a kernel built on top of its buffers (a set of strided views, which take
longer to create than a small product) until one of the buffers moves. ``Writer`` lets a kernel skip
the clearing of padding that is still zero from its last tile.
"""

from __future__ import annotations

import ctypes
import os
import threading
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from tinynn.backend.cpu import tuning
from tinynn.backend.reference import Array

T = TypeVar("T")


class _Buffers(dict[str, Any]):
    """The buffers of one thread by name; freed with the thread."""

    def __init__(self) -> None:
        super().__init__()
        self.views: dict[Any, Any] = {}
        self.writers: dict[str, Writer] = {}
        self.refused = False  # whether a buffer was over the limit since cached_views() reset it

    def clear(self) -> None:
        super().clear()
        self.views.clear()
        self.writers.clear()


class _ThisThread(threading.local):
    def __init__(self) -> None:
        self.buffers = _Buffers()
        _all[id(self.buffers)] = self.buffers


_all: weakref.WeakValueDictionary[int, _Buffers] = weakref.WeakValueDictionary()
_this_thread = _ThisThread()
_limit = tuning.BUFFER_LIMIT


def aligned(size: int) -> Array:
    """``size`` uninitialized bytes that begin at a cache line."""
    memory = np.empty(size + tuning.CACHE_LINE, dtype=np.uint8)
    start = -memory.ctypes.data % tuning.CACHE_LINE
    return memory[start : start + size]


def buffer(name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """An uninitialized array, valid until this thread requests the same name again."""
    size = dtype.itemsize
    for length in shape:
        size *= length
    buffers = _this_thread.buffers
    held = buffers.get(name)
    if held is None or held.nbytes < size:
        held = aligned(size)
        buffers.pop(name, None)
        buffers.views.clear()
        if size + sum(array.nbytes for array in list(buffers.values())) <= _limit:
            buffers[name] = held
        else:
            buffers.refused = True
    return held[:size].view(dtype).reshape(shape)


class Writer:
    """One user of a scratch buffer, which detects whether it was the last to write there.

    Each write is enclosed by ``begin`` and ``finish``. A write that is interrupted in between
    leaves the buffer without a last writer.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def begin(self) -> bool:
        """Start to write; whether the buffer still holds what this writer left in it."""
        return _this_thread.buffers.writers.pop(self.name, None) is self

    def finish(self) -> None:
        """The buffer now holds what this writer wrote."""
        _this_thread.buffers.writers[self.name] = self


def cached_views(key: Any, make: Callable[[Any], T]) -> T:
    """``make(key)``, which builds views of this thread's buffers; kept until a buffer moves."""
    buffers = _this_thread.buffers
    found = buffers.views.get(key)
    if found is None:
        buffers.refused = False
        found = make(key)  # clears the cached views where a buffer has to grow
        if len(buffers.views) >= tuning.CACHED_VIEWS:
            buffers.views.clear()
        if not buffers.refused:  # the views would keep the refused buffer alive
            buffers.views[key] = found
    result: T = found
    return result


def set_buffer_limit(size: int) -> None:
    """Keep at most ``size`` bytes of scratch buffers on each thread from now on."""
    global _limit
    _limit = size
    for buffers in _alive():
        buffers.clear()


def held_bytes() -> int:
    """Bytes of the scratch buffers of all threads."""
    return sum(array.nbytes for buffers in _alive() for array in list(buffers.values()))


def free_buffers() -> None:
    """Free the scratch buffers of all threads, and freed memory that the allocator kept."""
    for buffers in _alive():
        buffers.clear()
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


def _alive() -> list[_Buffers]:
    # valuerefs() copies at once; iterating would fail where another thread starts or ends
    return [buffers for ref in _all.valuerefs() if (buffers := ref()) is not None]


def keep_freed_memory() -> None:
    """Configure glibc to keep freed memory for the next step instead of unmapping it.

    Large arrays otherwise come from fresh pages every time. TINYNN_KEEP_MEMORY=0 leaves the
    allocator's settings unchanged.
    """
    libc = _glibc()
    if libc is None or os.environ.get("TINYNN_KEEP_MEMORY", "1") == "0":
        return
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
    libc.mallopt(mmap_threshold, 1 << 30)
    libc.mallopt(trim_threshold, 1 << 30)


def _glibc() -> Any:
    """The C library if it is glibc, else None."""
    try:
        libc = ctypes.CDLL(None)
        return libc if hasattr(libc, "mallopt") else None
    except (OSError, TypeError):
        return None
