"""The running figures of an epoch, summed where the batches are, and the guard against NaN."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tinynn.autograd import Tensor
from tinynn.backend import Array
from tinynn.creation import tensor, zeros
from tinynn.errors import ArgumentError, FileFormatError, NonFiniteError, ShapeError
from tinynn.training.history import Figures


class Meter:
    """Mean loss and accuracy of the batches so far; the first loss that is not finite stands out.

    Everything is summed on the device, in one launch a batch on a GPU, and nothing waits for it
    until ``figures`` is called. ``failed`` is an array of one bool there, true from the first loss
    on that is infinite or not a number: ``optimizer.step(skip=meter.failed)`` leaves the parameters
    as they were before it.
    """

    def __init__(self) -> None:
        self.examples = self.batches = 0
        self._totals: Tensor | None = None  # loss · examples, rightly classified, finite batches
        self.failed: Array | None = None

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Count a batch: mean loss, logits (n, classes), (n, 1) or (n,), and labels (n,)."""
        scores = _scores(logits)
        if labels.shape != scores.shape[:1]:
            raise ShapeError(f"one label per row of logits: got {labels.shape} for {logits.shape}")
        if self._totals is None or self._totals.backend is not logits.backend:
            sums = zeros(3, dtype="float64") if self._totals is None else self._totals
            self._totals = sums.to(logits.device)
            self.failed = logits.backend.xp.asarray(self._totals.data[2] < self.batches)
        logits.backend.accumulate_metrics(
            self._totals.data, self.failed, loss.data, scores, labels.data
        )
        self.examples += len(labels)
        self.batches += 1

    def check(self, wait: bool = True) -> None:
        """Raise NonFiniteError if a loss was not finite.

        With ``wait=False`` only where that can be known at once: on a CPU.
        """
        if self._totals is None:
            return
        known = self._totals.backend.peek(self.failed)
        if known or (known is None and wait and self.first_failure is not None):
            loss = float(self._totals.numpy()[0])
            raise NonFiniteError(
                f"the loss is {'nan' if np.isnan(loss) else loss} in batch {self.first_failure}: "
                "the training has diverged. Use a smaller learning rate, clip the gradients, and "
                "look for inputs that are not finite"
            )

    @property
    def first_failure(self) -> int | None:
        """The number, from 0, of the first batch with a loss that is not finite; waits."""
        finite = self.batches if self._totals is None else int(self._totals.numpy()[2])
        return finite if finite < self.batches else None

    def figures(self) -> Figures:
        """Loss and accuracy of all batches; waits for the device, once."""
        if self._totals is None or not self.examples:
            raise ArgumentError("nothing to measure: the loader gave no batch")
        loss, right, finite = self._totals.numpy()
        if finite < self.batches:
            self.check()
        return Figures(float(loss) / self.examples, float(right) / self.examples)

    def state_dict(self) -> dict[str, Any]:
        """The counts and the sums; waits for the device."""
        totals = None if self._totals is None else self._totals.numpy()
        return {"examples": self.examples, "batches": self.batches, "totals": totals}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what ``state_dict`` returned."""
        if set(state) != {"examples", "batches", "totals"}:
            raise FileFormatError(
                f"a Meter's state has examples, batches and totals, got {sorted(state)}"
            )
        self.examples, self.batches = int(state["examples"]), int(state["batches"])
        totals = state["totals"]
        self._totals = None if totals is None else tensor(np.asarray(totals), device="cpu")
        self.failed = None if self._totals is None else np.asarray(totals[2] < self.batches)


def _scores(logits: Tensor) -> Array:
    """The logits as (n, classes); (n,), one logit a row, becomes (n, 1)."""
    if logits.ndim not in (1, 2):
        raise ShapeError(f"logits are (n, classes), (n, 1) or (n,), got {logits.shape}")
    return logits.data.reshape(len(logits), -1)
