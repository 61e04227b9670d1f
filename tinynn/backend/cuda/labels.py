"""Labels that are checked on the GPU without synchronizing."""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from tinynn.backend.cuda.tuning import MAX_PENDING_LABEL_CHECKS

_VALID = 2**64 - 1  # the word of a check that found no label out of range


class LabelChecks:
    """Pending checks of one device.

    A kernel that meets a label out of range writes (row, label) of the first such row to a 64-bit
    word of its own on the GPU. The host reads all words at once when it synchronizes anyway, in
    ``to_host``.
    """

    def __init__(self) -> None:
        self._words: Any = None
        self._pending: list[Callable[[int, int], Exception]] = []  # the error of each word in use
        self._lock = threading.Lock()

    def new_word(self, xp: Any, error: Callable[[int, int], Exception]) -> int:
        """The device address of the word of a new check, whose error is error(label, row)."""
        while True:
            with self._lock:
                if self._words is None:
                    self._words = xp.full(MAX_PENDING_LABEL_CHECKS, _VALID, xp.uint64)
                if len(self._pending) < MAX_PENDING_LABEL_CHECKS:
                    self._pending.append(error)
                    return int(self._words.data.ptr) + 8 * (len(self._pending) - 1)
            self.raise_errors()

    def raise_errors(self) -> None:
        """The error of the first check since the last call that found a label out of range."""
        with self._lock:
            pending, self._pending = self._pending, []
            if not pending:
                return
            words = self._words[: len(pending)].get()
            found = np.flatnonzero(words != _VALID)
            if found.size:
                self._words.fill(_VALID)
        if found.size:
            word = int(words[found[0]])
            label = int(np.int64(word & 0xFFFFFFFF).astype(np.uint32).view(np.int32))
            raise pending[found[0]](label, word >> 32)
