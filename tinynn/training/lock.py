"""One process at a time writes to a folder of checkpoints.

The lock is a POSIX record lock on a file that names its owner. The operating system releases it
when the owner ends, in whatever way: it is never stale. The objects of one process share it.
Windows, and network file systems without locks, have none.
"""

import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from tinynn.errors import StorageError
from tinynn.messages import say

LOCK_FILE = ".tinynn-lock"
_PAUSE = 0.1  # seconds between two attempts


class FolderLock:
    """The lock of a folder in this process, see ``lock_of``."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOCK_FILE
        self._guard = threading.RLock()
        self._process = os.getpid()  # a forked child does not inherit the lock
        self._holders: set[object] = set()
        self._descriptor: int | None = None

    @contextmanager
    def held(self, on_first: Callable[[], None], patience: float = 0.0) -> Iterator[None]:
        """Hold the lock; wait up to ``patience`` seconds for another process to end.

        ``on_first`` is called if nothing in this process held it.

        Raises:
            StorageError: Another process holds it; the message names that process.
        """
        holder, waiting, end = object(), False, time.monotonic() + patience
        try:
            while not self._acquire(holder, on_first):
                text = f"{self._path.parent} is in use by {self._owner()}"
                if time.monotonic() >= end:
                    raise StorageError(f"{text}: wait until it ends, or use another location")
                if not waiting:
                    say(f"{text}: waiting up to {patience:.0f} s for it to end")
                waiting = True
                time.sleep(_PAUSE)
            yield
        finally:
            self._release(holder)

    def _acquire(self, holder: object, on_first: Callable[[], None]) -> bool:
        with self._guard:
            if self._process != os.getpid():
                self._process, self._holders, self._descriptor = os.getpid(), set(), None
            if not self._holders:
                try:
                    self._descriptor = self._lock()
                except BlockingIOError:
                    return False
                if self._descriptor is not None:
                    on_first()
            self._holders.add(holder)
            return True

    def _release(self, holder: object) -> None:
        with self._guard:
            if self._process != os.getpid() or holder not in self._holders:
                return
            self._holders.remove(holder)
            if not self._holders and self._descriptor is not None:
                with suppress(OSError):
                    self._path.unlink()
                os.close(self._descriptor)

    def _lock(self) -> int | None:
        """The locked descriptor; None where there are no locks, BlockingIOError if it is taken."""
        if sys.platform == "win32":
            return None
        import fcntl

        while True:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
            with suppress(FileNotFoundError):  # the owner has just ended, and removed the file
                try:
                    fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except (BlockingIOError, PermissionError):
                    os.close(descriptor)
                    raise BlockingIOError from None
                except OSError:
                    os.close(descriptor)
                    return None
                if os.path.samestat(os.fstat(descriptor), self._path.stat()):
                    self._name_owner(descriptor)
                    return descriptor
            os.close(descriptor)

    def _name_owner(self, descriptor: int) -> None:
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        owner = f"process {os.getpid()} on {socket.gethostname()} since {since}"
        with suppress(OSError):  # the disk is full
            os.fchmod(descriptor, 0o666)  # other users can lock it once it is left behind
            os.ftruncate(descriptor, 0)
            os.write(descriptor, owner.encode())

    def _owner(self) -> str:
        owner = ""
        with suppress(OSError):
            owner = self._path.read_text(encoding="utf-8", errors="replace")[:200]
        return owner or "another process"


def lock_of(folder: Path) -> FolderLock:
    """The lock of a folder: the same object for all paths of it."""
    return _lock_of_resolved(folder.resolve())


_lock_of_resolved = cache(FolderLock)
