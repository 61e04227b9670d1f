"""The metrics of a training, epoch by epoch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tinynn.training.epoch_metrics import NO_METRICS, EpochMetrics

__all__ = ["History"]


@dataclass
class History:
    """What ``fit`` measured, one entry per epoch.

    Attributes:
        training: measured during the epoch, in training mode: on augmented images, with dropout,
            while the parameters change.
        validation: measured after the epoch; empty without a validation loader.
        learning_rate: the learning rate of the last step of the epoch.
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
