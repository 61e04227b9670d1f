"""How good predictions are: pure functions on arrays, for any model."""

import numpy as np
import numpy.typing as npt

from tinynn.errors import ArgumentError, DtypeError, LabelError, ShapeError

Labels = npt.NDArray[np.integer]


def predicted_classes(logits: npt.NDArray[np.floating]) -> npt.NDArray[np.int64]:
    """The class that each row of ``logits`` speaks for, int64 (n,).

    (n, classes): the class with the largest logit, the first of equals. (n,) or (n, 1), the single
    logit of a yes/no question: class 1 where it is above 0, which is a probability above one half.
    """
    values = np.asarray(logits)
    if values.ndim == 2 and values.shape[1] > 1:
        return np.asarray(values.argmax(axis=1), dtype=np.int64)
    if values.ndim == 1 or (values.ndim == 2 and values.shape[1] == 1):
        return np.asarray(values.reshape(-1) > 0, dtype=np.int64)
    raise ShapeError(f"logits are (n, classes), (n, 1) or (n,), got {values.shape}")


def accuracy(predictions: Labels, labels: Labels) -> float:
    """The share of ``predictions``, integers (n,), that equal ``labels``: from 0 to 1."""
    predicted, true = _paired(predictions, labels)
    if true.size == 0:
        raise ArgumentError("the accuracy of no predictions is undefined: got 0 labels")
    return float((predicted == true).mean())


def confusion_matrix(predictions: Labels, labels: Labels, classes: int) -> npt.NDArray[np.int64]:
    """Counts, int64 (classes, classes): row = true class, column = predicted class."""
    predicted, true = _paired(predictions, labels)
    for name, values in (("predictions", predicted), ("labels", true)):
        outside = (values < 0) | (values >= classes)
        if outside.any():
            raise LabelError(
                f"{name} are classes from 0 to {classes - 1}, got {int(values[outside][0])} "
                f"at position {int(outside.argmax())}"
            )
    counts = np.bincount(true * classes + predicted, minlength=classes * classes)
    return np.asarray(counts.reshape(classes, classes), dtype=np.int64)


def _paired(
    predictions: Labels, labels: Labels
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    predicted, true = np.asarray(predictions), np.asarray(labels)
    if predicted.ndim != 1 or predicted.shape != true.shape:
        raise ShapeError(
            "predictions and labels are two integer arrays of the same length, "
            f"got shapes {predicted.shape} and {true.shape}"
        )
    for name, values in (("predictions", predicted), ("labels", true)):
        if not np.issubdtype(values.dtype, np.integer):
            raise DtypeError(
                f"{name} are integers, got {values.dtype}. "
                "Logits become classes with predicted_classes(logits)"
            )
    return predicted.astype(np.int64), true.astype(np.int64)


def precision(predictions: Labels, labels: Labels, classes: int) -> npt.NDArray[np.float64]:
    """Of those taken for each class the share that is of it, float64 (classes,); NaN for none."""
    matrix = confusion_matrix(predictions, labels, classes)
    return _shares(matrix.diagonal(), matrix.sum(axis=0))


def recall(predictions: Labels, labels: Labels, classes: int) -> npt.NDArray[np.float64]:
    """Of those of each class the share that is found, float64 (classes,); NaN for none."""
    matrix = confusion_matrix(predictions, labels, classes)
    return _shares(matrix.diagonal(), matrix.sum(axis=1))


def roc_auc(scores: npt.NDArray[np.floating], labels: Labels) -> float:
    """The area under the ROC curve, from 0 to 1, of a yes/no question.

    ``scores`` (n,) are larger where class 1 is more likely, ``labels`` (n,) are 0 and 1. It is the
    probability that one of class 1 scores more than one of class 0, ties counting half (Hanley and
    McNeil, 1982). Raises ArgumentError unless both classes are there.
    """
    values, true = np.asarray(scores), np.asarray(labels)
    if values.ndim != 1 or true.shape != values.shape:
        raise ShapeError(
            f"scores and labels are two arrays of the same length, got {values.shape} and "
            f"{true.shape}"
        )
    if np.isnan(values).any():
        raise ArgumentError("the scores hold NaN, which is neither more nor less than another")
    positive, negative = (true == 1).sum(), (true == 0).sum()
    if positive + negative < len(true):
        raise LabelError("roc_auc is of a yes/no question: its labels are 0 and 1")
    if not positive or not negative:
        raise ArgumentError("roc_auc needs examples of both classes, 0 and 1")
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (counts.cumsum() - (counts - 1) / 2)[which]  # the mean rank of those that are equal
    above = ranks[true == 1].sum() - positive * (positive + 1) / 2
    return float(above / (positive * negative))


def _shares(part: npt.NDArray[np.int64], whole: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    shares = np.full(len(part), np.nan)
    np.divide(part, whole, out=shares, where=whole > 0)
    return shares
