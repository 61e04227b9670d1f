"""Loss functions of predictions and targets.

All take ``reduction``: "mean" (the default) or "sum" over the elements, or "none".
"""

from __future__ import annotations

import threading
import weakref
from typing import Any

import numpy as np

from tinynn.arguments import choice, integer, number
from tinynn.autograd import Operand, Tensor, is_grad_enabled, record
from tinynn.errors import ArgumentError, DtypeError, ShapeError
from tinynn.functional.arithmetic import where
from tinynn.functional.elementwise import absolute, sigmoid, softplus, square
from tinynn.functional.operands import as_tensor, check_same, require_floating
from tinynn.functional.reduction import log_softmax, softmax
from tinynn.functional.shape import index
from tinynn.precision import in_float32, widen

__all__ = ["cross_entropy", "nll_loss"]
__all__ += ["binary_cross_entropy_with_logits", "sigmoid_focal_loss"]
__all__ += ["huber_loss", "l1_loss", "mse_loss"]

Target = Tensor | np.ndarray[Any, Any]


_last = threading.local()  # ``mean``: the last mean of losses on this thread, and their number


def _note_mean(result: Tensor, count: int) -> Tensor:
    _last.mean = weakref.ref(result), count
    return result


def is_mean(loss: Tensor, labels: Tensor) -> bool:
    """Whether ``loss``, just computed by this module, is the plain mean over all ``labels``.

    Only such losses of parts of a batch add up to the loss of the batch. A weighted mean does not,
    nor does a function of a mean or a mean over a selection of the labels.
    """
    result, count = getattr(_last, "mean", (lambda: None, 0))
    return result() is loss and bool(count == labels.size)


@in_float32
def cross_entropy(
    logits: Tensor,
    target: Target,
    weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int | None = None,
    reduction: str = "mean",
) -> Tensor:
    """-log softmax(logits)[label], the negative log-likelihood of the label.

    Args:
        logits: Unnormalized scores of K classes.
        target: Integer labels from 0 to K - 1, or probabilities of all classes.
        weight: Weight of each class. The mean is then a weighted mean.
        label_smoothing: Share of each target that is spread evenly over all classes. Szegedy et
            al. (2016).
        ignore_index: Examples with this label do not contribute. If all have it, the mean is 0.
        reduction: "mean", "sum" or "none".

    Shape:
        logits (..., K), target (...) or (..., K), weight (K,) -> (), or (...) without reduction.

    Raises:
        LabelError: If a label is out of range; on a GPU, when a value is next read from it.

    Example:
        >>> F.cross_entropy(model(images), labels).backward()
    """
    logits, target = _operands("cross_entropy", logits, target, weight)
    choice("cross_entropy: reduction", reduction, "mean", "sum", "none")
    if not logits.ndim:
        raise ShapeError("cross_entropy expects logits (..., classes), got a tensor without axes")
    label_smoothing = number("label_smoothing", label_smoothing, 0, 1, "[]")
    if ignore_index is not None:
        ignore_index = integer("ignore_index", ignore_index, -(2**63), 2**63 - 1)
    classes = logits.shape[-1]
    if weight is not None and weight.shape != (classes,):
        raise ShapeError(f"cross_entropy expects {classes} class weights, got {weight.shape}")
    if target.dtype.kind == "f":
        if ignore_index is not None:
            raise ArgumentError("ignore_index requires integer labels, got probabilities")
        losses = _probability_losses(logits, target, weight, label_smoothing)
        return _reduce("cross_entropy", losses, reduction)
    flat, labels, share = _flat_labels("cross_entropy", logits, target, ignore_index)
    plain = weight is None and not label_smoothing and share is None
    if plain and reduction == "mean" and flat.size:
        return _note_mean(_mean_cross_entropy(flat, labels, target.origin), len(labels))
    losses = _label_losses(log_softmax(flat), labels, target.origin, weight, label_smoothing)
    if weight is not None:
        share = index(weight, labels) if share is None else index(weight, labels) * share
    if ignore_index is not None:
        losses = where(target.reshape(-1) != ignore_index, losses, 0.0)
    if reduction == "mean" and share is not None and flat.size:
        total = share.sum()
        return losses.sum() / where(total == 0, 1.0, total)
    return _reduce("cross_entropy", losses.reshape(target.shape), reduction)


def _mean_cross_entropy(logits: Tensor, labels: Any, origin: str | None) -> Tensor:
    """The common case in one kernel: the mean for logits (n, K) and labels (n,)."""
    backend = logits.backend
    loss, scores = backend.cross_entropy(logits.data, labels, origin)

    def vjp(grad: Tensor) -> Tensor:
        if not is_grad_enabled():
            return Tensor(backend.cross_entropy_gradient(grad.data, logits.data, scores, labels))
        one_hot = labels[:, None] == backend.xp.arange(logits.shape[1])
        difference = softmax(logits) - Tensor(one_hot.astype(logits.dtype))
        return difference * (grad * (1 / len(labels)))

    return record("cross_entropy", loss, (logits, vjp))


def _label_losses(
    scores: Tensor, labels: Any, origin: str | None, weight: Tensor | None, label_smoothing: float
) -> Tensor:
    """The loss of each example, from log-probabilities (n, K) and labels (n,)."""
    if labels.size:
        scores.backend.check_labels(labels, scores.shape[1], origin)
    weighted = scores if weight is None else scores * weight
    losses = -index(weighted, (scores.backend.xp.arange(scores.shape[0]), labels))
    if label_smoothing:
        even = weighted.sum(-1) * (label_smoothing / scores.shape[1])
        losses = losses * (1 - label_smoothing) - even
    return losses


def _flat_labels(
    name: str, logits: Tensor, target: Tensor, ignore_index: int | None
) -> tuple[Tensor, Any, Tensor | None]:
    """Logits (n, K), labels (n,), and a mask: 0 for ignored labels, which become 0; None: none."""
    if target.shape != logits.shape[:-1]:
        raise ShapeError(
            f"{name} expects labels of shape {logits.shape[:-1]} for logits of shape "
            f"{logits.shape}, got {target.shape}"
        )
    if target.dtype.kind not in "iu":
        raise DtypeError(f"{name} expects integer labels, got {target.dtype}")
    flat = logits if logits.ndim == 2 else logits.reshape(-1, logits.shape[-1])
    labels = target.data.reshape(-1).astype("int64", copy=False)
    counted = None
    if ignore_index is not None:
        kept = labels != ignore_index
        labels, counted = labels * kept, Tensor(kept.astype(logits.dtype))
    return flat, labels, counted


def _probability_losses(
    logits: Tensor, target: Tensor, weight: Tensor | None, label_smoothing: float
) -> Tensor:
    """The loss of each example for target probabilities."""
    if target.shape != logits.shape:
        labels = "; labels are integers: .astype('int64')"
        raise ShapeError(
            f"cross_entropy expects {target.dtype} targets as probabilities of the logits' shape "
            f"{logits.shape}, got {target.shape}{labels if target.ndim < logits.ndim else ''}"
        )
    check_same("cross_entropy", logits, target)
    if label_smoothing:
        target = target * (1 - label_smoothing) + label_smoothing / logits.shape[-1]
    terms = target * log_softmax(logits)
    return -(terms if weight is None else terms * weight).sum(-1)


@in_float32
def nll_loss(log_probabilities: Tensor, labels: Target, reduction: str = "mean") -> Tensor:
    """-log_probabilities[label]: ``cross_entropy`` after ``log_softmax``.

    Shape:
        log_probabilities (..., K), labels (...) -> (), or (...) without reduction.
    """
    log_probabilities, labels = _operands("nll_loss", log_probabilities, labels)
    flat, picked, _ = _flat_labels("nll_loss", log_probabilities, labels, None)
    losses = _label_losses(flat, picked, labels.origin, None, 0.0)
    return _reduce("nll_loss", losses.reshape(labels.shape), reduction)


@in_float32
def binary_cross_entropy_with_logits(
    logits: Tensor, target: Target, pos_weight: Operand = 1.0, reduction: str = "mean"
) -> Tensor:
    """-pos_weight·t·log σ(x) - (1 - t)·log(1 - σ(x)) for logits x and targets t, without overflow.

    ``pos_weight`` is a number, or a tensor that broadcasts to the logits: a weight for each class.

    Shape:
        logits (...), target (...) from 0 to 1 -> (), or (...) without reduction.
    """
    x, t = _pair("binary_cross_entropy_with_logits", logits, target)
    if not isinstance(pos_weight, (Tensor, np.ndarray)):
        pos_weight = number("pos_weight", pos_weight, 0, ends="[)")
    losses = (1 - t) * softplus(x) + pos_weight * (t * softplus(-x))
    return _reduce("binary_cross_entropy_with_logits", losses, reduction)


@in_float32
def sigmoid_focal_loss(
    logits: Tensor, target: Target, alpha: float = 0.25, gamma: float = 2.0, reduction: str = "mean"
) -> Tensor:
    """-α_t·(1 - p_t)^γ·log p_t: binary cross-entropy with less weight on easy elements.

    p_t is the predicted probability of the target; α_t is α for positives and 1 - α for negatives.
    alpha < 0 omits α_t. Lin, Goyal, Girshick, He and Dollár (2017).

    Shape:
        logits (...), target (...) from 0 to 1 -> (), or (...) without reduction.
    """
    x, t = _pair("sigmoid_focal_loss", logits, target)
    alpha, gamma = number("alpha", alpha, high=1, ends="(]"), number("gamma", gamma, 0, ends="[)")
    losses = (1 - t) * softplus(x) + t * softplus(-x)
    missed = t * sigmoid(-x) + (1 - t) * sigmoid(x)
    losses = losses * missed**gamma
    if alpha >= 0:
        losses = losses * (alpha * t + (1 - alpha) * (1 - t))
    return _reduce("sigmoid_focal_loss", losses, reduction)


@in_float32
def mse_loss(prediction: Tensor, target: Target, reduction: str = "mean") -> Tensor:
    """(prediction - target)², elementwise."""
    x, t = _pair("mse_loss", prediction, target)
    return _reduce("mse_loss", square(x - t), reduction)


@in_float32
def l1_loss(prediction: Tensor, target: Target, reduction: str = "mean") -> Tensor:
    """|prediction - target|, elementwise."""
    x, t = _pair("l1_loss", prediction, target)
    return _reduce("l1_loss", absolute(x - t), reduction)


@in_float32
def huber_loss(
    prediction: Tensor, target: Target, delta: float = 1.0, reduction: str = "mean"
) -> Tensor:
    """d²/2 where |d| <= delta, else delta·(|d| - delta/2), with d = prediction - target.

    Huber (1964).
    """
    delta = number("huber_loss: delta", delta, 0)
    x, t = _pair("huber_loss", prediction, target)
    difference = x - t
    distance = absolute(difference)
    near = distance <= delta
    quadratic = square(where(near, difference, 0.0)) * 0.5  # the other squares may overflow
    losses = where(near, quadratic, distance * delta - delta * (delta / 2))
    return _reduce("huber_loss", losses, reduction)


def _pair(name: str, prediction: Tensor, target: Target) -> tuple[Tensor, Tensor]:
    """Prediction and target of one shape and dtype."""
    prediction, target = _operands(name, prediction, target)
    if prediction.shape != target.shape:
        raise ShapeError(
            f"{name} expects a target of the prediction's shape {prediction.shape}, got "
            f"{target.shape}"
        )
    return prediction, target if target.dtype.kind == "f" else target.astype(prediction.dtype)


def _operands(
    name: str, prediction: Tensor, target: Target, weight: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """A floating-point prediction and its target on one device."""
    prediction, target = widen(require_floating(name, prediction)), as_tensor(name, target)
    check_same(name, prediction, target, weight, floating=False)
    return prediction, target


def _reduce(name: str, losses: Tensor, reduction: str) -> Tensor:
    choice(f"{name}: reduction", reduction, "mean", "sum", "none")
    if reduction == "mean":
        return _note_mean(losses.mean(), losses.size)
    return losses if reduction == "none" else losses.sum()
