"""Softmax cross-entropy on a GPU, and labels that are checked without waiting for it."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from tinynn.backend.cuda.launch import THREADS, CudaKernels, accumulate, blocks_for, kernel
from tinynn.backend.reference import Array, label_error

_CHECKS = 4096  # that may be pending; the next one waits for the GPU
_FINE = 2**64 - 1  # in the word of a check: no label was out of range


class Softmax(CudaKernels):
    """Forward and backward in one launch each.

    A kernel that meets a label out of range leaves the first such row and its label in a word of
    its own on the GPU. Nobody waits for that word: ``raise_label_errors`` looks at all words when
    the host reads something anyway.
    """

    def __init__(self, index: int) -> None:
        super().__init__(index)
        self._faults: Any = None
        self._pending: list[tuple[int, str | None]] = []  # classes and origin, by word
        self._checking = threading.Lock()

    def cross_entropy(self, logits: Array, labels: Array, origin: str | None) -> tuple[Any, Any]:
        """The mean loss, and for each row its largest logit and the logarithm of its sum."""
        logits, labels = self.contiguous(logits), self.contiguous(labels)
        rows, classes = logits.shape
        across = min(32, 1 << (classes - 1).bit_length())
        blocks = min(4 * self.multiprocessors, -(-rows * across // THREADS))
        kept = self.xp.empty((rows, 2), accumulate(logits))
        partial = self.xp.empty(blocks, kept.dtype)
        loss = self.xp.empty((), logits.dtype)
        launch = kernel("softmax", "cross_entropy", logits.dtype.name)
        sizes = (rows, np.int32(classes), np.int32(across))
        places = (kept, partial, self.tickets(1), self._word(classes, origin), loss)
        launch((blocks,), (THREADS,), (logits, labels, *sizes, *places))
        return loss, kept

    def cross_entropy_gradient(
        self, grad: Array, logits: Array, kept: Array, labels: Array
    ) -> Array:
        """(softmax - one-hot) * grad / rows."""
        logits, labels = self.contiguous(logits), self.contiguous(labels)
        rows, classes = logits.shape
        out = self.xp.empty_like(logits)
        launch = kernel("softmax", "cross_entropy_gradient", logits.dtype.name)
        arguments = (grad, logits, kept, labels, rows, np.int32(classes), out)
        launch(blocks_for(out.size), (THREADS,), arguments)
        return out

    # -- labels -------------------------------------------------------------------------------

    def check_labels(self, labels: Array, classes: int, origin: str | None) -> None:
        """Have labels looked at; the error comes with the next ``to_host``."""
        if labels.size:
            labels = self.contiguous(self.xp.asarray(labels, dtype=self.xp.int64))
            launch = kernel("softmax", "check_labels", "float32")
            sizes = (labels.size, np.int32(classes))
            arguments = (labels, *sizes, self._word(classes, origin))
            launch(blocks_for(labels.size), (THREADS,), arguments)

    def raise_label_errors(self) -> None:
        """LabelError for the first batch with a label out of range since the last look."""
        with self._checking:
            pending, self._pending = self._pending, []
            if not pending:
                return
            words = self.xp.asnumpy(self._faults[: len(pending)])
            found = np.flatnonzero(words != _FINE)
            if found.size:
                self._faults.fill(_FINE)
        if found.size:
            word, (classes, origin) = int(words[found[0]]), pending[found[0]]
            label = int(np.int64(word & 0xFFFFFFFF).astype(np.uint32).view(np.int32))
            raise label_error(classes, label, word >> 32, origin)

    def _word(self, classes: int, origin: str | None) -> int:
        """The address of the next check's word."""
        while True:
            with self._checking:
                if self._faults is None:
                    self._faults = self.xp.full(_CHECKS, _FINE, self.xp.uint64)
                if len(self._pending) < _CHECKS:
                    self._pending.append((classes, origin))
                    return int(self._faults.data.ptr) + 8 * (len(self._pending) - 1)
            self.raise_label_errors()
