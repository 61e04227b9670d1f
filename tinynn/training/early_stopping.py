"""Early stopping, and the weights of the best epoch."""

import math
from collections.abc import Mapping
from typing import Any

import numpy.typing as npt

from tinynn.errors import ArgumentError
from tinynn.nn import Module
from tinynn.training.epoch_metrics import History
from tinynn.training.snapshot import copy_weights


class BestEpoch:
    """The best epoch so far by one metric, and a copy of the weights after it.

    Args:
        metric: "loss" (smaller is better), "accuracy" or a metric (larger is better).
        patience: Stop after this many epochs without improvement; None: never.
        keeps_weights: Whether the weights are copied, for ``restore``.
    """

    def __init__(self, metric: str, patience: int | None, keeps_weights: bool) -> None:
        if patience is not None and patience < 1:
            raise ArgumentError(f"patience must be at least 1 epoch, got {patience}")
        self.metric, self.patience, self.keeps_weights = metric, patience, keeps_weights
        self.epoch, self.score = 0, math.nan
        self.weights: dict[str, npt.NDArray[Any]] = {}

    def update(self, model: Module, history: History) -> None:
        """Compare the last epoch with the best one."""
        measured = (history.validation or history.training)[-1].named()
        if self.metric not in measured:
            raise ArgumentError(f"keep_best must be one of {sorted(measured)}, got {self.metric!r}")
        score = measured[self.metric]
        better = score < self.score if self.metric == "loss" else score > self.score
        if better or math.isnan(self.score):
            self.epoch, self.score = len(history.training), score
            if self.keeps_weights:
                self.weights = copy_weights(model)

    def reason_to_stop(self, history: History) -> str | None:
        """Why training should stop, or None if it should not."""
        since = len(history.training) - self.epoch
        if self.patience is None or since < self.patience or not self.epoch:
            return None
        return f"no better {self.metric} for {since} epochs"

    def restore(self, model: Module) -> None:
        """Load the best weights into the model, if they were kept."""
        if self.weights:
            model.load_state_dict(self.weights)

    def state_dict(self) -> dict[str, Any]:
        """The best epoch, its score and weights."""
        return {"epoch": self.epoch, "score": self.score, "weights": self.weights}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what ``state_dict`` returned."""
        self.epoch, self.score = int(state["epoch"]), float(state["score"])
        self.weights = dict(state["weights"])
