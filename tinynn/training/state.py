"""The state of a training run: passed to callbacks and stored in checkpoints."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any

from tinynn.arguments import integer
from tinynn.autograd import Tensor
from tinynn.data import DataLoader
from tinynn.errors import ArgumentError, NonFiniteError
from tinynn.files import require_state
from tinynn.nn import Module
from tinynn.optim import Optimizer
from tinynn.random import default_generator
from tinynn.training.diagnosis import ADVICE, ForwardPass, find_fault, recompute_batch
from tinynn.training.early_stopping import BestEpoch
from tinynn.training.epoch_metrics import EpochMetrics, History, MetricAccumulator
from tinynn.training.evaluation import evaluate
from tinynn.training.micro_batches import accumulate, with_advice
from tinynn.training.protocols import Loader, LossFunction, Metric, check_loader, check_run

__all__ = ["TrainingState"]


@dataclass(eq=False, repr=False)
class TrainingState:
    """A training run in progress; ``fit`` passes it to ``callback(event, state)``.

    Attributes:
        steps: Optimizer steps so far.
        epoch: The index of the current epoch.
        position: Batches of the current epoch that are done.
        rate: The learning rate of the last step.
        meter: Loss and accuracy of the current epoch.
        stop: Why training ends after this epoch; callbacks may set it.
    """

    model: Module
    loader: Loader
    optimizer: Optimizer
    loss_function: LossFunction
    epochs: int
    validation: Loader | None
    metrics: Mapping[str, Metric]
    best: BestEpoch
    micro_batch: int | None = None
    history: History = field(default_factory=History)
    steps: int = 0
    epoch: int = 0
    position: int = 0
    meter: MetricAccumulator = field(default_factory=MetricAccumulator)
    stop: str | None = None
    rate: float = math.nan  # the learning rate of the last step
    _passes: dict[int, ForwardPass] = field(default_factory=dict)  # by number in this epoch

    def __post_init__(self) -> None:
        self.epochs = integer("epochs", self.epochs, least=0)
        check_run(self.model, self.loader, self.optimizer, self.loss_function)
        if self.validation is not None:
            check_loader("validation loader", self.validation)
        if self.metrics and self.validation is None:
            raise ArgumentError(f"metrics {sorted(self.metrics)} need validation=loader")

    # -- one step, one epoch ------------------------------------------------------------------

    def train_step(self, images: Tensor, labels: Tensor) -> None:
        """One optimizer step: the batch in micro-batches, whose gradients accumulate."""
        if isinstance(self.loader, DataLoader):
            self.loader.count_step()
        self.optimizer.zero_grad()
        self.epoch = getattr(self.loader, "epoch", len(self.history.training))
        batch = (images, labels, self.micro_batch)
        try:
            for part in accumulate(self.model, self.loss_function, *batch):
                call = ForwardPass(self.position, part.examples, part.random)
                self._passes[self.meter.batches] = call
                self.meter.add(part.loss, part.outputs, part.labels)
        except MemoryError as error:
            self.optimizer.zero_grad()
            error.__traceback__ = None  # its frames keep the memory of this step alive
            raise with_advice(error, self.model, self.loss_function, images, labels) from error
        if not self.meter.has_accuracy and "accuracy" not in self.metrics:
            self.best.check("loss", *self.metrics)
        self.rate = float(self.optimizer.learning_rate)
        self.optimizer.step(skip=self.meter.failed)
        self.position += 1
        self.steps += 1
        self.check(wait=False)

    def end_epoch(self) -> None:
        """Record the metrics of the epoch, and validate."""
        try:
            self.history.training.append(self.meter.compute())
        except NonFiniteError as error:
            raise self._explain(error) from None
        self.history.learning_rate.append(self.rate)
        if self.validation is not None:
            self.history.add_validation(self._validate(self.validation))
        self.best.update(self.model, self.history)
        self.meter, self.position = MetricAccumulator(), 0
        self._passes.clear()

    def _validate(self, loader: Loader) -> EpochMetrics:
        try:
            return evaluate(self.model, loader, self.loss_function, self.metrics)
        except NonFiniteError as error:
            epoch = len(self.history.training)
            raise NonFiniteError(f"in the validation after epoch {epoch}: {error}") from None

    def is_over(self) -> bool:
        """Whether all epochs are done, or a callback or early stopping ends the training."""
        self.stop = self.stop or self.best.reason_to_stop(self.history)
        return len(self.history.training) >= self.epochs or self.stop is not None

    def notify(self, event: str, callbacks: Sequence[Callback]) -> None:
        """Call all callbacks."""
        for callback in callbacks:
            callback(event, self)

    # -- the guard against NaN ----------------------------------------------------------------

    def check(self, wait: bool = True) -> None:
        """Raise NonFiniteError, with layer and step, if a loss was infinite or NaN.

        Without ``wait``, only if that is known without a synchronization: on a CPU.
        """
        try:
            self.meter.check(wait)
        except NonFiniteError as error:
            raise self._explain(error) from None

    def _explain(self, error: NonFiniteError) -> NonFiniteError:
        """The error, with the origin of the NaN, found by recomputing the step."""
        failure = self.meter.first_failure
        if failure is None or failure not in self._passes:  # before this process resumed the epoch
            return error
        failed = self._passes[failure]
        step = self.steps - (self.position - failed.batch) + 1
        batch = recompute_batch(self.loader, self.epoch, failed.batch)
        fault = "the loader cannot repeat the batch, so the layer is unknown"
        if batch is not None:
            fault = find_fault(self.model, *batch, failed)
        loss = str(error).partition(" in batch")[0]
        return NonFiniteError(
            f"{loss} in step {step} (batch {failed.batch} of epoch {self.epoch}): {fault}. {ADVICE}"
        )

    # -- checkpoints --------------------------------------------------------------------------

    def parts(self) -> dict[str, Any]:
        """Everything that a checkpoint of this run tracks, by name."""
        if not hasattr(self.loader, "state_dict"):
            got = type(self.loader).__name__
            raise ArgumentError(f"checkpoints need a DataLoader, with state_dict(), got a {got}")
        return {
            "model": self.model,
            "optimizer": self.optimizer,
            "loader": LoaderPart(self.loader),
            "validation": LoaderPart(self.validation),
            "random": default_generator,
            "run": self,
        }

    def state_dict(self) -> dict[str, Any]:
        """Position, metrics and best weights; NonFiniteError rather than a state with NaN."""
        self.check()
        return {
            "steps": self.steps,
            "position": self.position,
            "history": self.history.state_dict(),
            "meter": self.meter.state_dict(),
            "best": self.best.state_dict(),
            "rate": self.rate,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what ``state_dict`` returned; FileFormatError if it is anything else."""
        kinds = {"steps": Integral, "position": Integral, "history": Mapping, "meter": Mapping}
        require_state("a TrainingState", state, {**kinds, "best": Mapping, "rate": Real}, "rate")
        self.steps, self.position = int(state["steps"]), int(state["position"])
        self.history.load_state_dict(state["history"])
        self.meter.load_state_dict(state["meter"])
        self.best.load_state_dict(state["best"])
        self.rate = float(state.get("rate", self.optimizer.learning_rate))


@dataclass
class LoaderPart:
    """A loader in a checkpoint; as validation it may be missing, before a resume or after it."""

    loader: Any

    def state_dict(self) -> dict[str, Any]:
        """The state of the loader; empty if it has none."""
        return self.loader.state_dict() if hasattr(self.loader, "state_dict") else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """FileFormatError if the examples are others than before."""
        if state and hasattr(self.loader, "load_state_dict"):
            self.loader.load_state_dict(state)


Callback = Callable[[str, TrainingState], None]
"""``callback(event, state)``: the event is "start", "step", "epoch" or "end"."""
