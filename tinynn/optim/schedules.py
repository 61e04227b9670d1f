"""Learning rates as plain functions of the number of steps taken so far.

Each function here returns such a function: ``optim.SGD(model, learning_rate=cosine(0.1, 1000))``.
"""

from __future__ import annotations

import math

from tinynn.errors import ArgumentError
from tinynn.optim.optimizer import Schedule

__all__ = ["constant", "cosine", "one_cycle", "step_decay", "warm_up"]


def constant(rate: float) -> Schedule:
    """The same rate for ever."""
    return lambda step: rate


def step_decay(rate: float, every: int, factor: float = 0.1) -> Schedule:
    """rate · factor^⌊step / every⌋."""
    _positive("every", every)
    return lambda step: rate * factor ** (step // every)


def cosine(rate: float, steps: int, final: float = 0.0) -> Schedule:
    """Half a cosine from rate to final over ``steps``, then final. Loshchilov and Hutter (2017)."""
    _positive("steps", steps)
    return lambda step: (
        final + (rate - final) * (1 + math.cos(math.pi * min(step, steps) / steps)) / 2
    )


def warm_up(schedule: Schedule | float, steps: int) -> Schedule:
    """A straight line from near 0 up to the rate over ``steps``, then the schedule from its start.

    Goyal and others, "Accurate, large minibatch SGD" (2017).
    """
    _positive("steps", steps)
    after = schedule if callable(schedule) else constant(schedule)
    return lambda step: after(0) * (step + 1) / steps if step < steps else after(step - steps)


def one_cycle(
    peak: float, steps: int, warm_up_share: float = 0.3, start: float = 1 / 25, final: float = 1e-4
) -> Schedule:
    """Half cosines up from peak · start to peak, then down to peak · final, over ``steps`` in all.

    ``warm_up_share`` of the steps go up. Smith and Topin, "Super-convergence" (2018).
    """
    _positive("steps", steps)
    if not 0 <= warm_up_share < 1:
        raise ArgumentError(f"warm_up_share is expected in [0, 1), got {warm_up_share}")
    rise = max(1, round(warm_up_share * steps)) if warm_up_share else 0
    up = cosine(peak * start, rise, peak) if rise else constant(peak)
    down = cosine(peak, max(1, steps - 1 - rise), peak * final)
    return lambda step: up(step) if step < rise else down(step - rise)


def _positive(name: str, value: int) -> None:
    if value < 1:
        raise ArgumentError(f"{name} is expected to be at least 1, got {value}")
