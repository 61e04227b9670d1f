"""The learning-rate range test: train while the learning rate grows, and watch the loss."""

import math
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import numpy as np

from tinynn.arguments import integer, number
from tinynn.errors import ArgumentError
from tinynn.nn import Module
from tinynn.optim import Optimizer
from tinynn.training.curves import BLUE, ORANGE, new_figure
from tinynn.training.iteration import passes
from tinynn.training.protocols import Loader, LossFunction, check_loss, check_run
from tinynn.training.snapshot import restored

__all__ = ["RateTest", "find_learning_rate"]

_SMOOTHING = 0.9  # weight of the past in the moving average of the loss
_DIVERGED = 4.0  # times the smallest loss so far


@dataclass(frozen=True)
class RateTest:
    """The learning rates of a range test, and the moving average of the loss at each."""

    rates: list[float]
    losses: list[float]

    @property
    def suggestion(self) -> float:
        """The rate at which the loss falls fastest per decade: a good peak for a schedule."""
        slopes = np.gradient(self.losses, np.log(self.rates))
        return self.rates[int(np.argmin(slopes))]

    def plot(self) -> Any:
        """Plot the loss over the learning rate; returns a matplotlib Figure."""
        figure, (axes,) = new_figure(columns=1, width=6.0, height=3.6)
        axes.semilogx(self.rates, self.losses, color=BLUE)
        axes.axvline(self.suggestion, color=ORANGE, label=f"suggestion {self.suggestion:.2g}")
        axes.set(xlabel="learning rate", ylabel="loss, moving average")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
        return figure


def find_learning_rate(
    model: Module,
    loader: Loader,
    optimizer: Optimizer,
    loss_function: LossFunction,
    *,
    low: float = 1e-6,
    high: float = 1.0,
    steps: int = 100,
) -> RateTest:
    """Train for ``steps`` steps while the learning rate grows exponentially from low to high.

    Ends early when the loss diverges. Afterwards the states of model, optimizer and random sequence
    are restored; the position of a ``DataLoader`` stays as it is. Smith, "Cyclical learning rates
    for training neural networks" (2017).

    Raises:
        ArgumentError: The loss diverges already at ``low``.

    Example:
        >>> result = find_learning_rate(model, loader, optimizer, F.cross_entropy)
        >>> optimizer.learning_rate = result.suggestion
    """
    low, high = number("low", low), number("high", high)
    steps = integer("steps", steps, most=2**31 - 1)
    if not 0 < low < high or steps < 10:
        raise ArgumentError(f"expected 0 < low < high and steps >= 10, got {low}, {high}, {steps}")
    check_run(model, loader, optimizer, loss_function)
    rates: list[float] = []
    losses: list[float] = []
    schedule = optimizer.schedule
    mean = 0.0
    with restored(model, optimizer):
        optimizer.learning_rate = lambda step: low * (high / low) ** (len(rates) / (steps - 1))
        try:
            batches = islice(chain.from_iterable(passes(loader)), steps)  # of several epochs
            for done, (images, labels) in enumerate(batches, 1):
                rate = optimizer.learning_rate
                optimizer.zero_grad()
                loss = loss_function(model(images), labels)
                check_loss(loss)
                loss.backward()
                optimizer.step()
                mean = _SMOOTHING * mean + (1 - _SMOOTHING) * float(loss.numpy())
                smooth = mean / (1 - _SMOOTHING**done)
                if not math.isfinite(smooth) or smooth > _DIVERGED * min([smooth, *losses]):
                    break
                rates.append(rate)
                losses.append(smooth)
        finally:
            optimizer.learning_rate = schedule
    if len(rates) < 3:
        raise ArgumentError(f"the loss diverges already at a learning rate of {low}: lower low")
    return RateTest(rates, losses)
