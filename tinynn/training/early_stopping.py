"""Early stopping, and the weights of the best epoch."""

import math
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

import numpy.typing as npt

from tinynn.arguments import choice, integer
from tinynn.files import require_state
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
        self.patience = None if patience is None else integer("patience", patience, least=1)
        self.metric, self.keeps_weights = metric, keeps_weights
        self.epoch, self.score = 0, math.nan
        self.weights: dict[str, npt.NDArray[Any]] = {}

    def check(self, *names: str) -> None:
        """ArgumentError unless the metric is one of these."""
        choice("keep_best", self.metric, *names)

    def update(self, model: Module, history: History) -> None:
        """Compare the last epoch with the best one."""
        epoch = len(history.training)
        validated = history.is_validated(epoch)
        measured = (history.validation if validated else history.training)[-1].named()
        self.check(*measured)
        score = measured[self.metric]
        better = score < self.score if self.metric == "loss" else score > self.score
        # training and validation metrics are not compared: a run may get a validation later
        comparable = validated == history.is_validated(self.epoch)
        if better or math.isnan(self.score) or not comparable:
            if not (self.epoch and math.isnan(score)):  # for the patience, NaN is no improvement
                self.epoch = epoch
            self.score = score
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
        if self.keeps_weights and self.weights:
            model.load_state_dict(self.weights)

    def state_dict(self) -> dict[str, Any]:
        """The best epoch, its score and weights."""
        return {
            "epoch": self.epoch,
            "score": self.score,
            "weights": self.weights,
            "metric": self.metric,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what ``state_dict`` returned; FileFormatError if it is anything else.

        With another metric, or if the weights are missing, the epochs so far do not count.
        """
        kinds = {"epoch": Integral, "score": Real, "weights": Mapping, "metric": str}
        require_state("the best epoch", state, kinds, "metric")
        missing = self.keeps_weights and not state["weights"]
        if not missing and state.get("metric", self.metric) == self.metric:
            self.epoch, self.score = int(state["epoch"]), float(state["score"])
            self.weights = dict(state["weights"])
