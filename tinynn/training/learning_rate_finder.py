"""Which learning rate? The loss while it grows says it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinynn.autograd import Tensor
from tinynn.errors import ArgumentError
from tinynn.nn import Module
from tinynn.random import default_generator
from tinynn.training.curves import BLUE, ORANGE, new_figure
from tinynn.training.loop import Loader, LossFunction

_SMOOTHING = 0.9  # share of what was before in the running mean of the loss
_DIVERGED = 4.0  # times the smallest loss so far


@dataclass(frozen=True)
class RateTest:
    """Learning rates that were tried, and the running mean of the loss at each."""

    rates: list[float]
    losses: list[float]

    @property
    def suggestion(self) -> float:
        """The rate at which the loss falls fastest per decade: a good peak of a schedule."""
        slopes = np.gradient(self.losses, np.log(self.rates))
        return self.rates[int(np.argmin(slopes))]

    def plot(self) -> Any:
        """The loss over the rate, a matplotlib Figure."""
        figure, (axes,) = new_figure(columns=1, width=6.0, height=3.6)
        axes.semilogx(self.rates, self.losses, color=BLUE)
        axes.axvline(self.suggestion, color=ORANGE, label=f"suggestion {self.suggestion:.2g}")
        axes.set(xlabel="learning rate", ylabel="loss, running mean")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
        return figure


def find_learning_rate(
    model: Module,
    loader: Loader,
    optimizer: Any,
    loss_function: LossFunction,
    *,
    low: float = 1e-6,
    high: float = 1.0,
    steps: int = 100,
) -> RateTest:
    """Train for ``steps`` batches while the learning rate grows from ``low`` to ``high``.

    It ends early where the loss explodes. Afterwards model, optimizer, loader and random sequence
    are as they were. Smith, "Cyclical learning rates for training neural networks" (2017).
    """
    if not 0 < low < high or steps < 10:
        raise ArgumentError(
            f"expected 0 < low < high and steps >= 10, got {low}, {high} and {steps}"
        )
    before = [(part, part.state_dict()) for part in (optimizer, default_generator)]
    weights = {path: np.array(tensor.numpy()) for path, tensor in model.state_dict().items()}
    position = loader.state_dict() if hasattr(loader, "state_dict") else None
    rates: list[float] = []
    losses: list[float] = []
    schedule = optimizer.schedule
    optimizer.learning_rate = lambda step: low * (high / low) ** (len(rates) / (steps - 1))
    mean = 0.0
    try:
        with model.in_mode(training=True):
            for number, (images, labels) in enumerate(_endless(loader, steps), 1):
                rate = optimizer.learning_rate
                optimizer.zero_grad()
                loss = loss_function(model(images), labels)
                loss.backward()
                optimizer.step()
                mean = _SMOOTHING * mean + (1 - _SMOOTHING) * float(loss.numpy())
                smooth = mean / (1 - _SMOOTHING**number)
                if not math.isfinite(smooth) or smooth > _DIVERGED * min([smooth, *losses]):
                    break
                rates.append(rate)
                losses.append(smooth)
    finally:
        optimizer.zero_grad()
        optimizer.learning_rate = schedule
        model.load_state_dict(weights)
        for part, state in before:
            part.load_state_dict(state)
        if position is not None:
            loader.load_state_dict(position)  # type: ignore[attr-defined]
    if len(rates) < 3:
        raise ArgumentError(f"the loss explodes at a learning rate of {low} already: lower low")
    return RateTest(rates, losses)


def _endless(loader: Loader, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    """``steps`` batches, from as many epochs as it takes."""
    done = 0
    while True:
        for pair in loader:
            if done == steps:
                return
            yield pair
            done += 1
