"""Evaluation and prediction, batch by batch and without gradients."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tinynn import functional as F
from tinynn.arguments import as_array
from tinynn.autograd import no_grad
from tinynn.creation import zeros
from tinynn.data import ArrayDataset, DataLoader
from tinynn.errors import ArgumentError, ShapeError
from tinynn.nn import Module, constant_weights
from tinynn.training.epoch_metrics import EpochMetrics, MetricAccumulator
from tinynn.training.iteration import passes
from tinynn.training.protocols import Loader, LossFunction, Metric, check_outputs, checked_metrics

__all__ = ["evaluate", "predict"]


def evaluate(
    model: Module,
    loader: Loader,
    loss_function: LossFunction,
    metrics: Mapping[str, Metric] | None = None,
) -> EpochMetrics:
    """Compute loss and accuracy of ``model`` over ``loader``, in evaluation mode.

    The position of a ``DataLoader`` stays as it is: evaluating within a loop over it is safe.

    Args:
        loader: The batches. The loss is their mean, weighted by examples.
        metrics: Further metrics by name: functions of all outputs (n, ...) and labels (n, ...). One
            that is named "accuracy" replaces that of ``MetricAccumulator``.

    Raises:
        NonFiniteError: The loss is infinite or NaN.
    """
    metrics = checked_metrics(metrics)
    accumulator = MetricAccumulator()
    kept: list[tuple[npt.NDArray[Any], npt.NDArray[Any]]] = []
    with model.in_mode(training=False), no_grad(), constant_weights():
        for images, labels in next(passes(loader)):
            outputs = model(images)
            accumulator.add(loss_function(outputs, labels), outputs, labels)
            if metrics:
                check_outputs("evaluate with metrics", outputs)
                kept.append((outputs.numpy(), labels.numpy()))
    measured = accumulator.compute()
    if not metrics:
        return measured
    try:
        scores, truth = (np.concatenate(parts) for parts in zip(*kept, strict=True))
    except ValueError as error:
        raise ShapeError(f"metrics expect outputs of one shape in all batches: {error}") from error
    values = {name: _number(name, metric(scores, truth)) for name, metric in metrics.items()}
    return EpochMetrics(measured.loss, values.pop("accuracy", measured.accuracy), values)


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise ArgumentError(
            f"the metric {name!r} must return a number, got {value!r:.80}"
        ) from error


def predict(
    model: Module, images: npt.NDArray[Any], batch_size: int = 256
) -> npt.NDArray[np.floating]:
    """Compute the outputs of ``model`` for ``images``, in evaluation mode.

    The model keeps its own mode, and several threads may predict with it at the same time.

    Args:
        images: (N, H, W, C), uint8 or float32. uint8 is divided by 255, as in training. N may be 0.
        batch_size: The number of images in one forward pass on the model's device.

    Returns:
        The outputs, a NumPy array (N, ...).
    """
    device = next((weights.device for weights in model.parameters()), "cpu")
    images = as_array("images", images)
    unlabeled = ArrayDataset(images, np.zeros(images.shape[:1], dtype=np.int64))
    none = [(zeros(unlabeled.images.shape, device=device), None)]
    batches = DataLoader(unlabeled, batch_size, device=device) if len(unlabeled) else none
    with model.in_mode(training=False), no_grad(), constant_weights():
        outputs = [model(batch) for batch, _ in batches]
        check_outputs("predict", outputs[0])
        return F.concat(outputs).numpy()
