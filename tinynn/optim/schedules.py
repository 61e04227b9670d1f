"""Learning-rate schedules: functions of the number of steps taken so far.

Each function returns such a schedule, to be passed as ``learning_rate``.

Example:
    >>> optim.SGD(model, learning_rate=optim.warm_up(optim.cosine(0.1, steps=1000), steps=100))
"""

import math

from tinynn.arguments import number
from tinynn.optim.optimizer import Schedule

__all__ = ["constant", "cosine", "one_cycle", "step_decay", "warm_up"]


def constant(rate: float) -> Schedule:
    """``rate`` at every step."""
    rate = _rate(rate)
    return lambda step: rate


def step_decay(rate: float, every: int, factor: float = 0.1) -> Schedule:
    """rate · factor^⌊step / every⌋."""
    rate, factor, every = _rate(rate), _rate(factor, "factor"), _at_least_1("every", every)
    return lambda step: rate * factor ** (step // every)


def cosine(rate: float, steps: int, final: float = 0.0) -> Schedule:
    """final + (rate - final) · (1 + cos(π · step / steps)) / 2, then ``final``.

    Loshchilov and Hutter, "SGDR: stochastic gradient descent with warm restarts" (2017).
    """
    rate, final, steps = _rate(rate), _rate(final, "final"), _at_least_1("steps", steps)
    return lambda step: (
        final + (rate - final) * (1 + math.cos(math.pi * min(step, steps) / steps)) / 2
    )


def warm_up(schedule: Schedule | float, steps: int) -> Schedule:
    """A linear increase to schedule(0) over ``steps``, then the schedule from its start.

    Goyal et al., "Accurate, large minibatch SGD: training ImageNet in 1 hour" (2017).
    """
    steps = _at_least_1("steps", steps)
    after = schedule if callable(schedule) else constant(schedule)
    return lambda step: after(0) * (step + 1) / steps if step < steps else after(step - steps)


def one_cycle(
    peak: float, steps: int, warm_up_share: float = 0.3, start: float = 1 / 25, final: float = 1e-4
) -> Schedule:
    """A half cosine from peak · start up to peak, then one down to peak · final.

    Smith and Topin, "Super-convergence: very fast training of neural networks using large learning
    rates" (2018).

    Args:
        peak: The highest learning rate.
        steps: The length of the cycle.
        warm_up_share: The share of the steps that go up, in [0, 1).
        start: The first rate, relative to the peak.
        final: The last rate, relative to the peak; it stays after the cycle.
    """
    steps = _at_least_1("steps", steps)
    peak, start, final = _rate(peak, "peak"), _rate(start, "start"), _rate(final, "final")
    warm_up_share = number("warm_up_share", warm_up_share, 0, 1, "[)")
    rise = max(1, round(warm_up_share * steps)) if warm_up_share else 0
    up = cosine(peak * start, rise, peak) if rise else constant(peak)
    down = cosine(peak, max(1, steps - 1 - rise), peak * final)
    return lambda step: up(step) if step < rise else down(step - rise)


def _rate(value: float, name: str = "rate") -> float:
    return number(name, value, 0, ends="[)")


def _at_least_1(name: str, value: int) -> int:
    """The number of steps; it may be a float, but an integer stays one."""
    number(name, value, 1, ends="[)")
    return int(value) if value == int(value) else value
