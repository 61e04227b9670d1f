"""What a training measured, epoch by epoch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

NO_METRICS: Mapping[str, float] = MappingProxyType({})


class Figures(NamedTuple):
    """The mean loss per example, the share of examples classified rightly, and further metrics."""

    loss: float
    accuracy: float
    metrics: Mapping[str, float] = NO_METRICS

    def named(self) -> dict[str, float]:
        """All of them by name."""
        return {"loss": self.loss, "accuracy": self.accuracy, **self.metrics}


@dataclass
class History:
    """What ``fit`` measured, one entry per epoch.

    ``training`` is measured on the way, in training mode: on augmented images, with dropout, while
    the parameters change. ``validation`` is measured after the epoch and stays empty without a
    validation loader. ``learning_rate`` is that of the epoch's last step.
    """

    training: list[Figures] = field(default_factory=list)
    validation: list[Figures] = field(default_factory=list)
    learning_rate: list[float] = field(default_factory=list)

    def rows(self) -> list[dict[str, float]]:
        """One flat row per epoch: "epoch", "training_loss", ..., "learning_rate"."""
        rows: list[dict[str, float]] = [{"epoch": n} for n in range(1, len(self.training) + 1)]
        for name, figures in (("training", self.training), ("validation", self.validation)):
            for row, measured in zip(rows, figures, strict=False):
                row.update({f"{name}_{key}": value for key, value in measured.named().items()})
        for row, rate in zip(rows, self.learning_rate, strict=False):
            row["learning_rate"] = rate
        return rows

    def state_dict(self) -> dict[str, Any]:
        """All figures as lists of numbers."""
        return {
            "training": [figures.named() for figures in self.training],
            "validation": [figures.named() for figures in self.validation],
            "learning_rate": list(self.learning_rate),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what ``state_dict`` returned."""
        self.training = [_figures(**named) for named in state["training"]]
        self.validation = [_figures(**named) for named in state["validation"]]
        self.learning_rate = list(state["learning_rate"])


def _figures(loss: float, accuracy: float, **metrics: float) -> Figures:
    return Figures(loss, accuracy, metrics or NO_METRICS)
