"""Schedules at the steps where they change."""

import pytest

from tinynn import optim
from tinynn.errors import ArgumentError


def test_constant() -> None:
    assert [optim.constant(0.3)(step) for step in (0, 10**6)] == [0.3, 0.3]


def test_step_decay() -> None:
    schedule = optim.step_decay(0.8, every=10, factor=0.5)
    assert [schedule(step) for step in (0, 9, 10, 19, 20)] == [0.8, 0.8, 0.4, 0.4, 0.2]


def test_cosine() -> None:
    schedule = optim.cosine(1.0, steps=100, final=0.2)
    values = [schedule(step) for step in (0, 50, 100, 1000)]
    assert values == pytest.approx([1.0, 0.6, 0.2, 0.2])
    assert schedule(25) == pytest.approx(0.6 + 0.4 * 2**-0.5)


def test_warm_up() -> None:
    schedule = optim.warm_up(optim.cosine(1.0, steps=10), steps=4)
    values = [schedule(step) for step in (0, 1, 3, 4, 9, 14)]
    assert values == pytest.approx([0.25, 0.5, 1.0, 1.0, 0.5, 0.0], abs=1e-12)
    assert optim.warm_up(0.2, steps=2)(7) == 0.2


def test_one_cycle() -> None:
    schedule = optim.one_cycle(1.0, steps=101, warm_up_share=0.3)
    values = [schedule(step) for step in (0, 15, 30, 65, 100, 500)]
    assert values == pytest.approx([0.04, 0.52, 1.0, 0.50005, 1e-4, 1e-4])


def test_one_cycle_without_a_rise_starts_at_the_peak() -> None:
    assert optim.one_cycle(0.5, steps=10, warm_up_share=0)(0) == 0.5


def test_arguments() -> None:
    for make in (
        lambda: optim.cosine(0.1, steps=0),
        lambda: optim.step_decay(0.1, every=0),
        lambda: optim.warm_up(0.1, steps=0),
        lambda: optim.one_cycle(0.1, steps=0),
    ):
        with pytest.raises(ArgumentError, match=r"in \[1, inf\), got 0"):
            make()
    with pytest.raises(ArgumentError, match="warm_up_share"):
        optim.one_cycle(0.1, steps=10, warm_up_share=1.0)
