"""Training: the loop, what survives the loss of the machine, and how good the result is."""

from tinynn.training.checkpoints import EXIT_CODE, Checkpoints
from tinynn.training.curves import plot_history
from tinynn.training.epoch_metrics import Meter
from tinynn.training.history import Figures, History
from tinynn.training.interruption import StopRequest, stop_on_signals, stop_on_spot_notice
from tinynn.training.learning_rate_finder import RateTest, find_learning_rate
from tinynn.training.logs import log_csv, log_json_lines, log_tensorboard
from tinynn.training.loop import Run, evaluate, fit, predict
from tinynn.training.metrics import (
    accuracy,
    confusion_matrix,
    precision,
    predicted_classes,
    recall,
    roc_auc,
)
from tinynn.training.micro_batches import largest_micro_batch

__all__ = [
    "EXIT_CODE",
    "Checkpoints",
    "Figures",
    "History",
    "Meter",
    "RateTest",
    "Run",
    "StopRequest",
    "accuracy",
    "confusion_matrix",
    "evaluate",
    "find_learning_rate",
    "fit",
    "largest_micro_batch",
    "log_csv",
    "log_json_lines",
    "log_tensorboard",
    "plot_history",
    "precision",
    "predict",
    "predicted_classes",
    "recall",
    "roc_auc",
    "stop_on_signals",
    "stop_on_spot_notice",
]
