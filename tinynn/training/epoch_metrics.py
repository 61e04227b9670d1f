"""Loss and accuracy of each epoch, summed on the device, and the guard against NaN."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from tinynn.arguments import as_array
from tinynn.autograd import Tensor
from tinynn.backend import Array
from tinynn.creation import tensor, zeros
from tinynn.errors import ArgumentError, FileFormatError, NonFiniteError
from tinynn.files import require_state
from tinynn.training.protocols import check_loss

__all__ = ["EpochMetrics", "History", "MetricAccumulator"]

NO_METRICS: Mapping[str, float] = MappingProxyType({})


class EpochMetrics(NamedTuple):
    """Mean loss per example, accuracy from 0 to 1, and further metrics by name.

    The accuracy is None where it has no meaning: unless the labels are class indices, see
    ``MetricAccumulator.add``. The loss is NaN for an epoch that was not measured.
    """

    loss: float
    accuracy: float | None
    metrics: Mapping[str, float] = NO_METRICS

    def named(self) -> dict[str, float]:
        """All values by name, without those that were not measured."""
        values = {} if math.isnan(self.loss) else {"loss": self.loss}
        if self.accuracy is not None:
            values["accuracy"] = self.accuracy
        return {**values, **self.metrics}


class MetricAccumulator:
    """Accumulates mean loss and accuracy over batches, and guards against NaN.

    The sums are on the device: one kernel launch per batch on a GPU, and no synchronization until
    ``compute``. ``failed`` is an array of one bool on the device, true from the first infinite or
    NaN loss on: ``optimizer.step(skip=meter.failed)`` then leaves the parameters unchanged.

    Example:
        >>> meter = MetricAccumulator()
        >>> for images, labels in loader:
        ...     logits = model(images)
        ...     meter.add(F.cross_entropy(logits, labels), logits, labels)
        >>> print(meter.compute().accuracy)
    """

    def __init__(self) -> None:
        self.examples = self.batches = 0
        self.has_accuracy = True  # whether the labels of the last batch may be class indices
        # loss · examples, correct predictions, finite batches, classified labels; on the CPU until
        # the first batch
        self._totals = zeros(4, dtype="float64", device="cpu")
        self.failed: Array = np.asarray(False)

    def add(self, loss: Tensor, logits: Any, labels: Tensor) -> None:
        """Add a batch.

        The accuracy is the share of correct predictions among the labels that are class indices:
        integers (n,), or (n, ...) for dense predictions, with logits (n, ..., classes). With a
        single logit, (n,) or (n, ..., 1), class 1 is predicted above 0; if a label is neither 0 nor
        1, there is no accuracy. Other labels, such as -100 or 255, are ignored.

        Args:
            loss: The mean loss of the batch, a scalar.
            logits: The outputs of the model.
            labels: The targets of n examples, (n, ...).

        Raises:
            ShapeError: If the loss is not a scalar.
        """
        check_loss(loss)
        backend = loss.backend
        if self._totals.backend is not backend:
            self._totals = self._totals.to(loss.device)
            self.failed = backend.xp.asarray(self._totals.data[2] < self.batches)
        scored = _classified(logits, labels)
        self.has_accuracy = scored is not None
        if scored is None:
            scored = backend.xp.empty((0, 1), loss.dtype), backend.xp.empty(0, np.int64)
        backend.accumulate_metrics(self._totals.data, self.failed, loss.data, len(labels), *scored)
        self.examples += len(labels)
        self.batches += 1

    def check(self, wait: bool = True) -> None:
        """Raise NonFiniteError if a loss was infinite or NaN.

        Without ``wait``, only if that is known without a synchronization: on a CPU.
        """
        if not self.batches:
            return
        known = self._totals.backend.peek(self.failed)
        if known or (known is None and wait and self.first_failure is not None):
            loss = float(self._totals.numpy()[0])
            raise NonFiniteError(
                f"the loss is {'nan' if np.isnan(loss) else loss} in batch {self.first_failure}: "
                "use a smaller learning rate, clip the gradients, or check the inputs for NaN"
            )

    @property
    def first_failure(self) -> int | None:
        """The index of the first batch with an infinite or NaN loss; synchronizes."""
        finite = int(self._totals.numpy()[2])
        return finite if finite < self.batches else None

    def compute(self) -> EpochMetrics:
        """Loss and accuracy of all batches; synchronizes once."""
        if not self.examples:
            raise ArgumentError("no metrics: the loader returned no batch")
        loss, correct, finite, counted = map(float, self._totals.numpy())
        if finite < self.batches:
            self.check()
        accuracy = correct / counted if counted > 0 else None
        return EpochMetrics(loss / self.examples, accuracy, {})

    def state_dict(self) -> dict[str, Any]:
        """The counts and the sums; synchronizes."""
        totals = self._totals.numpy() if self.batches else None
        return {"examples": self.examples, "batches": self.batches, "totals": totals}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what ``state_dict`` returned; FileFormatError if it is anything else."""
        kinds = {"examples": Integral, "batches": Integral, "totals": object}
        require_state("a MetricAccumulator", state, kinds)
        self.examples, self.batches = int(state["examples"]), int(state["batches"])
        totals = np.zeros(4) if state["totals"] is None else as_array("totals", state["totals"])
        if totals.shape == (3,):  # of an earlier version, which counted every example
            totals = np.append(totals, self.examples)
        if (totals.shape, totals.dtype) != ((4,), np.float64):
            raise FileFormatError(f"a MetricAccumulator has four sums, got {state['totals']!r:.80}")
        self._totals = tensor(totals, device="cpu")
        self.failed = np.asarray(totals[2] < self.batches)


def _classified(outputs: Any, labels: Tensor) -> tuple[Array, Array] | None:
    """Logits (n, classes) and labels (n,); None if the labels are not class indices."""
    if not isinstance(outputs, Tensor) or outputs.dtype.kind != "f" or not outputs.ndim:
        return None
    classes = outputs.shape[-1]
    if labels.dtype.kind not in "biu" or not classes:
        return None
    if labels.shape == outputs.shape and (labels.ndim == 1 or classes == 1):
        classes = 1
    elif labels.shape != outputs.shape[:-1]:
        return None
    return outputs.data.reshape(-1, classes), labels.data.reshape(-1)


@dataclass
class History:
    """The metrics of a training run, one entry per epoch.

    Attributes:
        training: Measured during the epoch, in training mode: on augmented images, with dropout,
            while the parameters change.
        validation: Measured after the epoch; empty without a validation loader. If the run got one
            later, by a resume, the entries of the epochs before have no values.
        learning_rate: The learning rate of the last step of the epoch.
    """

    training: list[EpochMetrics] = field(default_factory=list)
    validation: list[EpochMetrics] = field(default_factory=list)
    learning_rate: list[float] = field(default_factory=list)

    def add_validation(self, measured: EpochMetrics) -> None:
        """Append the validation metrics of the last epoch."""
        missing = len(self.training) - 1 - len(self.validation)
        self.validation += [EpochMetrics(math.nan, None, {})] * missing + [measured]

    def is_validated(self, epoch: int) -> bool:
        """Whether there are validation metrics of an epoch; the first epoch is 1."""
        return 0 < epoch <= len(self.validation) and bool(self.validation[epoch - 1].named())

    def rows(self) -> list[dict[str, float]]:
        """One flat row per epoch: "epoch", "training_loss", ..., "learning_rate"."""
        rows: list[dict[str, float]] = [{"epoch": n} for n in range(1, len(self.training) + 1)]
        for name, epochs in (("training", self.training), ("validation", self.validation)):
            for row, measured in zip(rows, epochs, strict=False):
                row.update({f"{name}_{key}": value for key, value in measured.named().items()})
        for row, rate in zip(rows, self.learning_rate, strict=False):
            row["learning_rate"] = rate
        return rows

    def state_dict(self) -> dict[str, Any]:
        """All metrics as lists of numbers."""
        return {
            "training": [measured.named() for measured in self.training],
            "validation": [measured.named() for measured in self.validation],
            "learning_rate": list(self.learning_rate),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what ``state_dict`` returned; FileFormatError if it is anything else."""
        require_state("a History", state, dict.fromkeys(self.state_dict(), list))
        rates = {str(n): rate for n, rate in enumerate(state["learning_rate"])}
        for named in (*state["training"], *state["validation"], rates):
            names = map(str, named) if isinstance(named, Mapping) else ()
            require_state("an epoch", named, dict.fromkeys(names, Real))
        self.training = [_epoch_metrics(**named) for named in state["training"]]
        self.validation = [_epoch_metrics(**named) for named in state["validation"]]
        self.learning_rate = list(state["learning_rate"])


def _epoch_metrics(
    loss: float = math.nan, accuracy: float | None = None, **metrics: float
) -> EpochMetrics:
    return EpochMetrics(loss, accuracy, metrics)
