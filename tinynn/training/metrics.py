"""Classification metrics: pure functions of NumPy arrays, for any model."""

import numpy as np
import numpy.typing as npt

from tinynn.arguments import as_array, integer, real_array
from tinynn.errors import ArgumentError, DtypeError, LabelError, ShapeError

__all__ = ["accuracy", "confusion_matrix", "precision", "predicted_classes", "recall", "roc_auc"]

Labels = npt.NDArray[np.integer]
Counts = npt.NDArray[np.int64]
Scores = npt.NDArray[np.floating]
Ratios = npt.NDArray[np.float64]


def predicted_classes(logits: Scores) -> Counts:
    """Predicted class of each row of logits: the argmax, the first one in case of a tie.

    Args:
        logits: (n, classes); or (n,) or (n, 1), single logits of a binary classifier: class 1
            where the logit is above 0, a probability above 1/2.

    Returns:
        Classes, int64 (n,).
    """
    values = real_array("logits", logits, None)
    if values.ndim == 2 and values.shape[1] > 1:
        return np.asarray(values.argmax(axis=1), dtype=np.int64)
    if values.ndim == 1 or (values.ndim == 2 and values.shape[1] == 1):
        return np.asarray(values.reshape(-1) > 0, dtype=np.int64)
    raise ShapeError(f"expected logits (n, classes), (n, 1) or (n,), got shape {values.shape}")


def accuracy(predictions: Labels, labels: Labels) -> float:
    """Accuracy: correct predictions / all predictions, from 0 to 1.

    Args:
        predictions: Predicted classes, integers (n,).
        labels: True classes, integers (n,).
    """
    predicted, true = _checked(predictions, labels)
    if true.size == 0:
        raise ArgumentError("the accuracy of 0 predictions is undefined")
    return float((predicted == true).mean())


def confusion_matrix(predictions: Labels, labels: Labels, classes: int) -> Counts:
    """Confusion matrix: counts by true class (row) and predicted class (column).

    Returns:
        Counts, int64 (classes, classes).

    Raises:
        LabelError: A prediction or label is not in 0 ... classes - 1.
    """
    predicted, true = _checked(predictions, labels)
    classes = integer("classes", classes, 1, 2**15)
    for name, values in (("predictions", predicted), ("labels", true)):
        outside = (values < 0) | (values >= classes)
        if outside.any():
            where = int(outside.argmax())
            got = f"got {values[where]} at position {where}"
            raise LabelError(f"{name} must be classes from 0 to {classes - 1}, {got}")
    counts = np.bincount(true * classes + predicted, minlength=classes * classes)
    return np.asarray(counts.reshape(classes, classes), dtype=np.int64)


def precision(predictions: Labels, labels: Labels, classes: int) -> Ratios:
    """Precision: TP / (TP + FP) per class.

    Returns:
        float64 (classes,); NaN for a class that was never predicted.
    """
    matrix = confusion_matrix(predictions, labels, classes)
    return _ratio(matrix.diagonal(), matrix.sum(axis=0))


def recall(predictions: Labels, labels: Labels, classes: int) -> Ratios:
    """Recall: TP / (TP + FN) per class.

    Returns:
        float64 (classes,); NaN for a class without examples.
    """
    matrix = confusion_matrix(predictions, labels, classes)
    return _ratio(matrix.diagonal(), matrix.sum(axis=1))


def roc_auc(scores: Scores, labels: Labels) -> float:
    """Area under the ROC curve of a binary classifier, from 0 to 1.

    That is the probability that a positive example scores higher than a negative one, ties
    counting half (Hanley and McNeil, 1982).

    Args:
        scores: (n,), larger where class 1 is more likely.
        labels: (n,), 0 or 1.

    Raises:
        ArgumentError: The examples are all of one class, or a score is NaN.
    """
    values, true = real_array("scores", scores, "float64"), real_array("labels", labels, None)
    if values.ndim != 1 or true.shape != values.shape:
        raise ShapeError(f"expected scores and labels (n,), got {values.shape} and {true.shape}")
    if np.isnan(values).any():
        raise ArgumentError("the scores contain NaN, which cannot be ranked")
    positive, negative = (true == 1).sum(), (true == 0).sum()
    if positive + negative < len(true):
        raise LabelError("roc_auc is for binary classification: labels must be 0 and 1")
    if not positive or not negative:
        raise ArgumentError("roc_auc needs examples of both classes, 0 and 1")
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (counts.cumsum() - (counts - 1) / 2)[which]  # ties get their mean rank
    above = ranks[true == 1].sum() - positive * (positive + 1) / 2
    return float(above / (positive * negative))


def _checked(predictions: Labels, labels: Labels) -> tuple[Counts, Counts]:
    predicted, true = as_array("predictions", predictions), as_array("labels", labels)
    if predicted.ndim != 1 or predicted.shape != true.shape:
        got = f"{predicted.shape} and {true.shape}"
        raise ShapeError(f"expected predictions and labels (n,), got shapes {got}")
    for name, values in (("predictions", predicted), ("labels", true)):
        if not np.issubdtype(values.dtype, np.integer):
            advice = "convert logits with predicted_classes(logits)"
            raise DtypeError(f"{name} must be integers, got {values.dtype}: {advice}")
    return predicted.astype(np.int64), true.astype(np.int64)


def _ratio(part: Counts, whole: Counts) -> Ratios:
    """part / whole, NaN where whole is 0."""
    ratios = np.full(len(part), np.nan)
    np.divide(part, whole, out=ratios, where=whole > 0)
    return ratios
