"""Loss and accuracy of each epoch, summed on the device, and the guard against NaN."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from tinynn.autograd import Tensor
from tinynn.backend import Array
from tinynn.creation import tensor, zeros
from tinynn.errors import ArgumentError, FileFormatError, NonFiniteError, ShapeError

__all__ = ["EpochMetrics", "History", "MetricAccumulator"]

NO_METRICS: Mapping[str, float] = MappingProxyType({})


class EpochMetrics(NamedTuple):
    """Mean loss per example, accuracy from 0 to 1, and further metrics by name."""

    loss: float
    accuracy: float
    metrics: Mapping[str, float] = NO_METRICS

    def named(self) -> dict[str, float]:
        """All values by name."""
        return {"loss": self.loss, "accuracy": self.accuracy, **self.metrics}


class MetricAccumulator:
    """Accumulates mean loss and accuracy over batches, and guards against NaN.

    The sums are on the device: one kernel launch per batch on a GPU, and no synchronization until
    ``compute``. ``failed`` is an array of one bool on the device, true from the first infinite or
    NaN loss on: ``optimizer.step(skip=meter.failed)`` then leaves the parameters unchanged.

    Example:
        >>> meter = MetricAccumulator()
        >>> for images, labels in loader:
        ...     logits = model(images)
        ...     meter.add(F.cross_entropy(logits, labels), logits, labels)
        >>> print(meter.compute().accuracy)
    """

    def __init__(self) -> None:
        self.examples = self.batches = 0
        # loss · examples, correct predictions, finite batches; on the CPU until the first batch
        self._totals = zeros(3, dtype="float64", device="cpu")
        self.failed: Array = np.asarray(False)

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Add a batch.

        Args:
            loss: The mean loss of the batch, a scalar.
            logits: (n, classes), or (n, 1) or (n,) for a single logit.
            labels: (n,), integers.
        """
        if logits.ndim not in (1, 2):
            raise ShapeError(f"expected logits (n, classes), (n, 1) or (n,), got {logits.shape}")
        scores = logits.data.reshape(len(logits), -1)
        if labels.shape != scores.shape[:1]:
            raise ShapeError(f"expected one label per row: got {labels.shape} for {logits.shape}")
        if self._totals.backend is not logits.backend:
            self._totals = self._totals.to(logits.device)
            self.failed = logits.backend.xp.asarray(self._totals.data[2] < self.batches)
        logits.backend.accumulate_metrics(
            self._totals.data, self.failed, loss.data, scores, labels.data
        )
        self.examples += len(labels)
        self.batches += 1

    def check(self, wait: bool = True) -> None:
        """Raise NonFiniteError if a loss was infinite or NaN.

        Without ``wait``, only if that is known without a synchronization: on a CPU.
        """
        if not self.batches:
            return
        known = self._totals.backend.peek(self.failed)
        if known or (known is None and wait and self.first_failure is not None):
            loss = float(self._totals.numpy()[0])
            raise NonFiniteError(
                f"the loss is {'nan' if np.isnan(loss) else loss} in batch {self.first_failure}: "
                "use a smaller learning rate, clip the gradients, or check the inputs for NaN"
            )

    @property
    def first_failure(self) -> int | None:
        """The index of the first batch with an infinite or NaN loss; synchronizes."""
        finite = int(self._totals.numpy()[2])
        return finite if finite < self.batches else None

    def compute(self) -> EpochMetrics:
        """Loss and accuracy of all batches; synchronizes once."""
        if not self.examples:
            raise ArgumentError("no metrics: the loader returned no batch")
        loss, correct, finite = self._totals.numpy()
        if finite < self.batches:
            self.check()
        return EpochMetrics(float(loss) / self.examples, float(correct) / self.examples)

    def state_dict(self) -> dict[str, Any]:
        """The counts and the sums; synchronizes."""
        totals = self._totals.numpy() if self.batches else None
        return {"examples": self.examples, "batches": self.batches, "totals": totals}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what ``state_dict`` returned."""
        if set(state) != {"examples", "batches", "totals"}:
            raise FileFormatError(f"expected examples, batches and totals, got {sorted(state)}")
        self.examples, self.batches = int(state["examples"]), int(state["batches"])
        totals = np.zeros(3) if state["totals"] is None else np.asarray(state["totals"])
        self._totals = tensor(totals, device="cpu")
        self.failed = np.asarray(totals[2] < self.batches)


@dataclass
class History:
    """The metrics of a training run, one entry per epoch.

    Attributes:
        training: Measured during the epoch, in training mode: on augmented images, with dropout,
            while the parameters change.
        validation: Measured after the epoch; empty without a validation loader.
        learning_rate: The learning rate of the last step of the epoch.
    """

    training: list[EpochMetrics] = field(default_factory=list)
    validation: list[EpochMetrics] = field(default_factory=list)
    learning_rate: list[float] = field(default_factory=list)

    def rows(self) -> list[dict[str, float]]:
        """One flat row per epoch: "epoch", "training_loss", ..., "learning_rate"."""
        rows: list[dict[str, float]] = [{"epoch": n} for n in range(1, len(self.training) + 1)]
        for name, epochs in (("training", self.training), ("validation", self.validation)):
            for row, measured in zip(rows, epochs, strict=False):
                row.update({f"{name}_{key}": value for key, value in measured.named().items()})
        for row, rate in zip(rows, self.learning_rate, strict=False):
            row["learning_rate"] = rate
        return rows

    def state_dict(self) -> dict[str, Any]:
        """All metrics as lists of numbers."""
        return {
            "training": [measured.named() for measured in self.training],
            "validation": [measured.named() for measured in self.validation],
            "learning_rate": list(self.learning_rate),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what ``state_dict`` returned."""
        self.training = [_epoch_metrics(**named) for named in state["training"]]
        self.validation = [_epoch_metrics(**named) for named in state["validation"]]
        self.learning_rate = list(state["learning_rate"])


def _epoch_metrics(loss: float, accuracy: float, **metrics: float) -> EpochMetrics:
    return EpochMetrics(loss, accuracy, metrics or NO_METRICS)
