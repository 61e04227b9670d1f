"""Work space that is reused from call to call, for each thread its own.

Fresh memory costs: the system maps each page of it, and clears it, at its first use.
"""

from __future__ import annotations

import ctypes
import os
import threading
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from tinynn.backend.reference import Array

T = TypeVar("T")


class _Shelf(dict[str, Any]):
    """The buffers of one thread by name; they go with it."""

    def __init__(self) -> None:
        super().__init__()
        self.views: dict[Any, Any] = {}
        self.marks: dict[str, Mark] = {}
        self.refused = False  # whether a buffer was beyond the limit since views() looked last

    def clear(self) -> None:
        super().clear()
        self.views.clear()
        self.marks.clear()


class _Mine(threading.local):
    def __init__(self) -> None:
        self.shelf = _Shelf()
        _shelves.append(weakref.ref(self.shelf))


_shelves: list[weakref.ref[_Shelf]] = []
_mine = _Mine()
_LINE = 64  # bytes of a cache line: vector loads should not straddle two
_limit = 1 << 28  # bytes that a thread keeps
_VIEWS = 64  # of a thread


def aligned(size: int) -> Array:
    """So many uninitialized bytes, from a cache line on."""
    memory = np.empty(size + _LINE, dtype=np.uint8)
    start = -memory.ctypes.data % _LINE
    return memory[start : start + size]


def buffer(name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """An uninitialized array of this thread, its own until the next call with this name."""
    size = dtype.itemsize
    for length in shape:
        size *= length
    held = _mine.shelf.get(name)
    if held is None or held.nbytes < size:
        held = aligned(size)
        _mine.shelf.pop(name, None)
        _mine.shelf.views.clear()
        if size + sum(array.nbytes for array in list(_mine.shelf.values())) <= _limit:
            _mine.shelf[name] = held
        else:
            _mine.shelf.refused = True
    array: Array = held[:size].view(dtype).reshape(shape)
    return array


class Mark:
    """Tells whether a buffer of this thread still holds what was left in it.

    Whoever writes to the buffer lifts the mark that is on it before, and sets one after; so where
    that is interrupted, there is none.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def lift(self) -> bool:
        """Take away the mark on the buffer; whether it was this one."""
        return _mine.shelf.marks.pop(self.name, None) is self

    def set(self) -> None:
        """Put this mark on the buffer."""
        _mine.shelf.marks[self.name] = self


def views(key: Any, make: Callable[[Any], T]) -> T:
    """What ``make(key)`` makes of this thread's buffers, kept until one of them moves."""
    shelf = _mine.shelf
    found = shelf.views.get(key)
    if found is None:
        shelf.refused = False
        found = make(key)  # clears the views where a buffer had to grow
        if len(shelf.views) >= _VIEWS:
            shelf.views.clear()
        if not shelf.refused:  # or they would hold what is beyond the limit
            shelf.views[key] = found
    result: T = found
    return result


def set_buffer_limit(size: int) -> None:
    """Keep at most so many bytes on each thread from now on."""
    global _limit
    _limit = size
    for shelf in _alive():
        shelf.clear()


def held_bytes() -> int:
    """What the buffers of all threads take together."""
    return sum(array.nbytes for shelf in _alive() for array in list(shelf.values()))


def free_buffers() -> None:
    """Let go of the buffers of all threads, and of what the allocator kept of freed arrays."""
    for shelf in _alive():
        shelf.clear()
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


def _alive() -> list[_Shelf]:
    shelves = []
    for reference in list(_shelves):
        shelf = reference()
        if shelf is not None:
            shelves.append(shelf)
        elif reference in _shelves:
            _shelves.remove(reference)  # and no other, which a new thread may be adding now
    return shelves


def keep_freed_memory() -> None:
    """Ask glibc to keep freed memory for the next step instead of returning it to the system.

    Large arrays otherwise come from fresh pages every time, and touching those for the first time
    costs more than many a kernel. TINYNN_KEEP_MEMORY=0 leaves the allocator alone.
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
