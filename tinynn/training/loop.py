"""The training loop, and predictions in batches.

``fit`` does what a hand-written loop does, no more: it owns no data, no model and no schedule, so
that the lines of ``fit`` and ``Run.learn``, copied, can take its place at any time.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from tinynn.autograd import Tensor, no_grad
from tinynn.backend import Array
from tinynn.creation import zeros
from tinynn.data import ArrayDataset, DataLoader
from tinynn.errors import ArgumentError, NonFiniteError
from tinynn.nn import Module
from tinynn.random import default_generator
from tinynn.training.checkpoints import Checkpoints
from tinynn.training.diagnosis import ADVICE, Place, batch_again, first_fault
from tinynn.training.epoch_metrics import Meter
from tinynn.training.history import Figures, History
from tinynn.training.micro_batches import largest_micro_batch, pieces, with_advice
from tinynn.training.progress import progress

LossFunction = Callable[[Tensor, Tensor], Tensor]
"""``loss_function(logits, labels)`` is the mean loss of a batch, a tensor of one number."""

Metric = Callable[[npt.NDArray[np.floating], npt.NDArray[np.int64]], float]
"""``metric(logits, labels)`` of all examples, as NumPy arrays, is a number."""

Callback = Callable[[str, "Run"], None]
"""``callback(event, run)``: event is "start", "step", "epoch" or "end"."""


class Loader(Protocol):
    """What gives the batches of an epoch: a :class:`tinynn.data.DataLoader`, or a list of pairs."""

    def __len__(self) -> int:
        """The number of batches."""
        ...

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Each batch as (images, labels)."""
        ...


class Optimizer(Protocol):
    """What changes the parameters after each batch: one of :mod:`tinynn.optim`."""

    @property
    def learning_rate(self) -> float:
        """That of the next step."""
        ...

    def zero_grad(self) -> None:
        """Forget the gradients of the last batch."""
        ...

    def step(self, skip: Array | None = None) -> None:
        """Change the parameters along their gradients, unless ``skip``, one bool, is true."""
        ...


def fit(
    model: Module,
    loader: Loader,
    optimizer: Optimizer,
    loss_function: LossFunction,
    *,
    epochs: int,
    validation: Loader | None = None,
    metrics: Mapping[str, Metric] | None = None,
    micro_batch: int | Literal["auto"] | None = None,
    keep_best: str | None = None,
    patience: int | None = None,
    checkpoints: Checkpoints | None = None,
    callbacks: Sequence[Callback] = (),
    description: str | None = "training",
) -> History:
    """Train ``model`` for ``epochs`` passes over ``loader``.

    validation   a loader that is measured after each epoch, in evaluation mode
    metrics      further figures of the validation, by name: functions of (logits, labels)
    micro_batch  compute each batch in pieces of this size and add the gradients up: equal to the
                 whole batch up to rounding, but batch norm sees, and measures, a piece at a time;
                 "auto" finds the largest piece that memory allows
    keep_best    "loss", "accuracy" or the name of a metric: at the end the model has the weights
                 of the epoch whose validation (without one: training) was best by it, the smallest
                 loss or the largest of any other
    patience     end after so many epochs without a better one (``keep_best``, or else "loss")
    checkpoints  save to it and go on from it, exactly: also in the middle of an epoch
    callbacks    called as ``callback(event, run)``; one that sets ``run.stop`` ends the training
    description  what stands before the progress on the standard error stream: a bar on a terminal
                 or in a notebook, about ten lines elsewhere; None shows nothing

    The model is left in the mode that it had. Raises NonFiniteError, which names layer and step,
    when the loss is no longer a finite number: on a CPU at that step, on a GPU, which nobody waits
    for, at the end of the epoch or at the next checkpoint; the parameters stay those from before
    that step. Raises Interrupted when ``checkpoints`` was asked to end.
    """
    best = _Best(keep_best or "loss", patience, restores=keep_best is not None)
    run = Run(model, loader, optimizer, loss_function, epochs, validation, metrics, best)
    run.choose_micro_batch(micro_batch)
    with model.in_mode(training=True), progress(description) as bar, checkpoints or nullcontext():
        watching: tuple[Callback, ...] = (bar, *callbacks)
        if checkpoints is not None:
            checkpoints.track(**run.parts())
        run.tell("start", watching)
        while not run.is_over():
            for images, labels in loader:
                run.learn(images, labels)
                run.tell("step", watching)
                if checkpoints is not None:
                    checkpoints.after_step()
            run.end_epoch()
            run.tell("epoch", watching)
            if checkpoints is not None:
                checkpoints.save_if_due()
        if checkpoints is not None:
            checkpoints.save_at_end()
        best.restore(model)
        run.tell("end", watching)
    return run.history


class Run:
    """A training under way: what callbacks see, and what a checkpoint holds besides its parts."""

    def __init__(
        self,
        model: Module,
        loader: Loader,
        optimizer: Optimizer,
        loss_function: LossFunction,
        epochs: int,
        validation: Loader | None,
        metrics: Mapping[str, Metric] | None,
        best: _Best,
    ) -> None:
        if len(loader) == 0:
            raise ArgumentError("fit needs at least one batch: the loader is empty")
        if metrics and validation is None:
            raise ArgumentError(f"metrics {sorted(metrics)} are of the validation: give a loader")
        self.model, self.loader, self.optimizer = model, loader, optimizer
        self.loss_function, self.validation = loss_function, validation
        self.metrics = metrics or {}
        self.epochs = epochs
        self.history = History()
        self.steps = 0
        """Steps of the optimizer so far."""
        self.epoch = 0
        """The loader's number of the epoch under way."""
        self.position = 0
        """Batches of the present epoch that are done."""
        self.meter = Meter()
        """Loss and accuracy of the epoch under way."""
        self.micro_batch: int | None = None
        self.stop: str | None = None
        """Why the training is to end after this epoch; a callback may say so."""
        self.best = best
        self._places: list[Place] = []  # of each call of the model in this epoch
        self._before = 0  # calls in this epoch that another process made

    # -- the steps of fit ---------------------------------------------------------------------

    def learn(self, images: Tensor, labels: Tensor) -> None:
        """One step of the optimizer, for one batch."""
        self.optimizer.zero_grad()
        self.epoch = getattr(self.loader, "epoch", len(self.history.training))
        start = 0
        for some, theirs in pieces(images, labels, self.micro_batch):
            stop = start + len(theirs)
            self._places.append(Place(self.position, start, stop, default_generator.state))
            try:
                logits = self.model(some)
                loss = self.loss_function(logits, theirs)
                self.meter.add(loss, logits, theirs)
                share = len(theirs) / len(labels)
                (loss if share == 1 else loss * share).backward()
            except MemoryError as error:
                raise self._with_advice(error, images, labels) from error
            start = stop
        self.optimizer.step(skip=self.meter.failed)
        self.position += 1
        self.steps += 1
        self.check(wait=False)

    def end_epoch(self) -> None:
        """The figures of the epoch, and of the validation after it."""
        try:
            self.history.training.append(self.meter.figures())
        except NonFiniteError as error:
            raise self._explained(error) from None
        self.history.learning_rate.append(float(self.optimizer.learning_rate))
        if self.validation is not None:
            self.history.validation.append(self._validated(self.validation))
        self.best.look(self.model, self.history)
        self.meter, self.position, self._before = Meter(), 0, 0
        self._places.clear()

    def _validated(self, loader: Loader) -> Figures:
        try:
            return evaluate(self.model, loader, self.loss_function, self.metrics)
        except NonFiniteError as error:
            epoch = len(self.history.training)
            raise NonFiniteError(f"in the validation after epoch {epoch}: {error}") from None

    def is_over(self) -> bool:
        """Whether all epochs are done, or a callback or patience ends it."""
        self.stop = self.stop or self.best.impatient(self.history)
        return len(self.history.training) >= self.epochs or self.stop is not None

    def tell(self, event: str, callbacks: Sequence[Callback]) -> None:
        """Call all callbacks."""
        for callback in callbacks:
            callback(event, self)

    def check(self, wait: bool = True) -> None:
        """Raise NonFiniteError, with layer and step, if a loss was not finite."""
        try:
            self.meter.check(wait)
        except NonFiniteError as error:
            raise self._explained(error) from None

    # -- memory -------------------------------------------------------------------------------

    def choose_micro_batch(self, micro_batch: int | Literal["auto"] | None) -> None:
        """Take the size, or find it with the first batch."""
        if micro_batch == "auto":
            example = batch_again(self.loader, getattr(self.loader, "epoch", 0), 0)
            if example is None:
                raise ArgumentError('micro_batch="auto" needs a DataLoader or a list of batches')
            self.micro_batch = largest_micro_batch(self.model, self.loss_function, *example)
        elif micro_batch is not None and micro_batch < 1:
            raise ArgumentError(f"micro_batch is 1 or more, or 'auto', got {micro_batch}")
        else:
            self.micro_batch = micro_batch

    def _with_advice(self, error: MemoryError, images: Tensor, labels: Tensor) -> MemoryError:
        self.optimizer.zero_grad()
        error.__traceback__ = None  # its frames hold what filled the memory
        return with_advice(
            error, lambda: largest_micro_batch(self.model, self.loss_function, images, labels)
        )

    # -- where it went wrong ------------------------------------------------------------------

    def _explained(self, error: NonFiniteError) -> NonFiniteError:
        number = self.meter.first_failure
        if number is None or number < self._before:
            return error
        place = self._places[number - self._before]
        step = self.steps - (self.position - place.batch) + 1
        again = batch_again(self.loader, self.epoch, place.batch)
        fault = "the batch cannot be made again to see where"
        if again is not None:
            fault = first_fault(self.model, again[0], place)
        loss = str(error).partition(" in batch")[0]
        return NonFiniteError(
            f"{loss} in step {step} (batch {place.batch} of epoch {self.epoch}): {fault}. {ADVICE}"
        )

    # -- checkpoints --------------------------------------------------------------------------

    def parts(self) -> dict[str, Any]:
        """What a checkpoint of this training tracks, by name."""
        parts = {
            "model": self.model,
            "optimizer": self.optimizer,
            "loader": self.loader,
            "validation": self.validation,
            "random": default_generator,
            "run": self,
        }
        if not hasattr(self.loader, "state_dict"):
            raise ArgumentError(
                "checkpoints need a loader that knows where it is, such as tinynn.data.DataLoader; "
                f"got a {type(self.loader).__name__}"
            )
        return {name: part for name, part in parts.items() if hasattr(part, "state_dict")}

    def state_dict(self) -> dict[str, Any]:
        """Position, figures and best weights; NonFiniteError rather than a state with NaN."""
        self.check()
        return {
            "steps": self.steps,
            "position": self.position,
            "history": self.history.state_dict(),
            "meter": self.meter.state_dict(),
            "best": self.best.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what ``state_dict`` returned."""
        self.steps, self.position = int(state["steps"]), int(state["position"])
        self.history.load_state_dict(state["history"])
        self.meter.load_state_dict(state["meter"])
        self.best.load_state_dict(state["best"])
        self._before = self.meter.batches


class _Best:
    """The best epoch so far by one figure, and the weights after it."""

    def __init__(self, name: str, patience: int | None, restores: bool) -> None:
        if patience is not None and patience < 1:
            raise ArgumentError(f"patience is 1 epoch or more, got {patience}")
        self.name, self.patience, self.restores = name, patience, restores
        self.epoch, self.score = 0, math.nan
        self.weights: dict[str, npt.NDArray[Any]] = {}

    def look(self, model: Module, history: History) -> None:
        """After an epoch: is it better than all before?"""
        figures = (history.validation or history.training)[-1].named()
        if self.name not in figures:
            raise ArgumentError(f"keep_best is one of {sorted(figures)}, got {self.name!r}")
        score = figures[self.name]
        better = score < self.score if self.name == "loss" else score > self.score
        if better or math.isnan(self.score):
            self.epoch, self.score = len(history.training), score
            if self.restores:
                state = model.state_dict().items()
                self.weights = {path: np.array(tensor.numpy()) for path, tensor in state}

    def impatient(self, history: History) -> str | None:
        """Why to end, if it is time."""
        since = len(history.training) - self.epoch
        if self.patience is None or since < self.patience or not self.epoch:
            return None
        return f"no better {self.name} for {since} epochs"

    def restore(self, model: Module) -> None:
        """Give the model the best weights, if they were kept."""
        if self.weights:
            model.load_state_dict(self.weights)

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "score": self.score, "weights": self.weights}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.epoch, self.score = int(state["epoch"]), float(state["score"])
        self.weights = dict(state["weights"])


# -- without learning ------------------------------------------------------------------------------


def evaluate(
    model: Module,
    loader: Loader,
    loss_function: LossFunction,
    metrics: Mapping[str, Metric] | None = None,
) -> Figures:
    """Loss and accuracy of ``model`` over ``loader``, in evaluation mode and without gradients.

    ``metrics`` are further figures by name, functions of all logits and labels, (n, ...) and (n,).
    """
    meter = Meter()
    kept: list[tuple[npt.NDArray[Any], npt.NDArray[Any]]] = []
    with model.in_mode(training=False), no_grad():
        for images, labels in loader:
            logits = model(images)
            meter.add(loss_function(logits, labels), logits, labels)
            if metrics:
                kept.append((logits.numpy(), labels.numpy()))
    figures = meter.figures()
    if not metrics:
        return figures
    scores, truth = (np.concatenate(parts) for parts in zip(*kept, strict=True))
    return figures._replace(metrics={k: float(f(scores, truth)) for k, f in metrics.items()})


def predict(
    model: Module, images: npt.NDArray[Any], batch_size: int = 256
) -> npt.NDArray[np.floating]:
    """The outputs of ``model`` for ``images``, (N, H, W, C) of uint8 or float32: a NumPy array.

    In evaluation mode, without gradients, ``batch_size`` images at a time on the model's device;
    uint8 is divided by 255, as in training.
    """
    device = next((weights.device for weights in model.parameters()), "cpu")
    unlabeled = ArrayDataset(images, np.zeros(len(images), dtype=np.int64))
    loader = DataLoader(unlabeled, batch_size, device=device)
    with model.in_mode(training=False), no_grad():
        return _gathered(len(images), (model(batch) for batch, _ in loader)).numpy()


def _gathered(rows: int, parts: Iterator[Tensor]) -> Tensor:
    """All parts one after the other, ``rows`` rows."""
    first = next(parts)
    if len(first) == rows:
        return first
    out = zeros((rows, *first.shape[1:]), first.dtype, first.device)
    xp, start = out.backend.xp, 0
    for part in itertools.chain([first], parts):
        xp.copyto(out.data[start : start + len(part)], part.data)
        start += len(part)
    return out
