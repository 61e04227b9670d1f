"""Training: the loop, and how good its result is."""

from tinynn.training.loop import Figures, History, evaluate, fit, predict
from tinynn.training.metrics import accuracy, confusion_matrix, predicted_classes

__all__ = [
    "Figures",
    "History",
    "accuracy",
    "confusion_matrix",
    "evaluate",
    "fit",
    "predict",
    "predicted_classes",
]
