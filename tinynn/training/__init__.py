"""Training: the loop, checkpoints that survive the loss of the machine, metrics and logs."""

from tinynn.training.checkpoints import EXIT_CODE, Checkpoints
from tinynn.training.curves import plot_history
from tinynn.training.epoch_metrics import EpochMetrics, MetricAccumulator
from tinynn.training.evaluation import evaluate, predict
from tinynn.training.history import History
from tinynn.training.interruption import StopRequest, stop_on_signals, stop_on_spot_notice
from tinynn.training.learning_rate_finder import RateTest, find_learning_rate
from tinynn.training.logs import log_csv, log_json_lines, log_tensorboard
from tinynn.training.loop import fit
from tinynn.training.metrics import (
    accuracy,
    confusion_matrix,
    precision,
    predicted_classes,
    recall,
    roc_auc,
)
from tinynn.training.micro_batches import largest_micro_batch
from tinynn.training.state import TrainingState

__all__ = [
    "EXIT_CODE",
    "Checkpoints",
    "EpochMetrics",
    "History",
    "MetricAccumulator",
    "RateTest",
    "StopRequest",
    "TrainingState",
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
