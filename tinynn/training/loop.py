"""The training loop, and predictions in batches.

``fit`` does what a hand-written loop does, no more: it owns no data, no model and no schedule, so
that ten lines of your own can take its place at any time.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from tinynn.autograd import Tensor, no_grad
from tinynn.backend import Array
from tinynn.creation import zeros
from tinynn.data import ArrayDataset, DataLoader
from tinynn.errors import ArgumentError, ShapeError, TinynnError
from tinynn.nn import Module

LossFunction = Callable[[Tensor, Tensor], Tensor]
"""``loss_function(logits, labels)`` is the mean loss of a batch, a tensor of one number."""


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

    def zero_grad(self) -> None:
        """Forget the gradients of the last batch."""
        ...

    def step(self) -> None:
        """Change the parameters along their gradients."""
        ...


class Figures(NamedTuple):
    """The mean loss per example, and the share of examples that are classified rightly."""

    loss: float
    accuracy: float


@dataclass
class History:
    """What ``fit`` measured, one entry per epoch.

    ``training`` is measured on the way, in training mode: on augmented images, with dropout, while
    the parameters change. ``validation`` is measured after the epoch and stays empty without a
    validation loader.
    """

    training: list[Figures] = field(default_factory=list)
    validation: list[Figures] = field(default_factory=list)


def fit(
    model: Module,
    loader: Loader,
    optimizer: Optimizer,
    loss_function: LossFunction,
    *,
    epochs: int,
    validation: Loader | None = None,
    description: str | None = "training",
) -> History:
    """Train ``model`` for ``epochs`` passes over ``loader``.

    ``description`` stands before the progress on the standard error stream: a bar on a terminal,
    about ten lines elsewhere; None shows nothing. The model is left in the mode that it had.
    Raises :class:`TinynnError` when the loss is no longer a finite number.
    """
    if len(loader) == 0:
        raise ArgumentError("fit needs at least one batch: the loader is empty")
    history = History()
    with model.in_mode(training=True), _progress(description, epochs, len(loader)) as progress:
        for _ in range(epochs):
            history.training.append(_epoch(model, loader, optimizer, loss_function, progress))
            if validation is not None:
                history.validation.append(evaluate(model, validation, loss_function))
            progress.after_epoch(history)
    return history


def evaluate(model: Module, loader: Loader, loss_function: LossFunction) -> Figures:
    """Loss and accuracy of ``model`` over ``loader``, in evaluation mode and without gradients."""
    measured = _Measured()
    with model.in_mode(training=False), no_grad():
        for images, labels in loader:
            logits = model(images)
            measured.add(loss_function(logits, labels), logits, labels)
    return measured.figures()


def predict(
    model: Module, images: npt.NDArray[Any], batch_size: int = 256
) -> npt.NDArray[np.floating]:
    """The outputs of ``model`` for ``images``, (N, H, W, C) of uint8 or float32: a NumPy array.

    In evaluation mode, without gradients, ``batch_size`` images at a time on the model's device;
    uint8 is divided by 255, as in training.
    """
    device = next((weights.device for weights in model.parameters()), "cpu")
    unlabelled = ArrayDataset(images, np.zeros(len(images), dtype=np.int64))
    loader = DataLoader(unlabelled, batch_size, device=device)
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


def _epoch(
    model: Module,
    loader: Loader,
    optimizer: Optimizer,
    loss_function: LossFunction,
    progress: _Progress,
) -> Figures:
    measured = _Measured()
    for images, labels in loader:
        optimizer.zero_grad()
        logits = model(images)
        loss = loss_function(logits, labels)
        loss.backward()
        optimizer.step()
        measured.add(loss, logits, labels)
        progress.after_batch()
    return measured.figures()


class _Measured:
    """The figures of the batches so far, summed on the device: nothing waits for a GPU."""

    def __init__(self) -> None:
        self.examples = 0
        self.totals: Tensor | None = None  # loss · examples, and how many were classified rightly

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        scores = _scores(logits)
        if labels.shape != scores.shape[:1]:
            raise ShapeError(f"one label per row of logits: got {labels.shape} for {logits.shape}")
        if self.totals is None:
            self.totals = zeros(2, dtype="float64", device=logits.device)
        logits.backend.add_figures(self.totals.data, loss.data, scores, labels.data)
        self.examples += len(labels)

    def figures(self) -> Figures:
        """Loss and accuracy of all batches; waits for the device, once."""
        if self.totals is None or not self.examples:
            raise ArgumentError("nothing to measure: the loader gave no batch")
        loss, right = self.totals.numpy() / self.examples
        return Figures(_finite(float(loss)), float(right))


def _scores(logits: Tensor) -> Array:
    """The logits as (n, classes); (n,), one logit a row, becomes (n, 1)."""
    if logits.ndim not in (1, 2):
        raise ShapeError(f"logits are (n, classes), (n, 1) or (n,), got {logits.shape}")
    return logits.data.reshape(len(logits), -1)


def _finite(loss: float) -> float:
    if not math.isfinite(loss):
        raise TinynnError(
            f"the loss is {loss}: the training has diverged. Use a smaller learning rate, clip the "
            "gradients, and look for inputs that are not finite"
        )
    return loss


@contextmanager
def _progress(description: str | None, epochs: int, batches: int) -> Iterator[_Progress]:
    from tqdm import tqdm

    on_terminal = description is not None and sys.stderr.isatty()
    with tqdm(total=epochs * batches, desc=description, disable=not on_terminal) as bar:
        yield _Progress(bar, None if on_terminal else description, epochs)


class _Progress:
    """A bar on a terminal; elsewhere (``title`` given) a plain line for each tenth of the way."""

    def __init__(self, bar: Any, title: str | None, epochs: int) -> None:
        self.bar, self.title, self.epochs = bar, title, epochs

    def after_batch(self) -> None:
        self.bar.update()

    def after_epoch(self, history: History) -> None:
        epoch = len(history.training)
        text = _in_words(history)
        self.bar.set_postfix_str(text)
        tenth = math.ceil(self.epochs / 10)
        if self.title is not None and (epoch % tenth == 0 or epoch == self.epochs):
            sys.stderr.write(f"{self.title}: epoch {epoch}/{self.epochs}, {text}\n")


def _in_words(history: History) -> str:
    loss, right = history.training[-1]
    text = f"loss {loss:.3f}, accuracy {right:.1%}"
    if history.validation:
        text += f", validation {history.validation[-1].accuracy:.1%}"
    return text
