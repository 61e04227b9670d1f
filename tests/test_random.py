"""Random numbers as a function of (seed, position)."""

import math

import numpy as np
import pytest

import tinynn
from tinynn.errors import ArgumentError
from tinynn.random import Generator, default_generator, numpy_generator


def test_a_seed_repeats() -> None:
    assert Generator(5).uniform((9,)).tolist() == Generator(5).uniform((9,)).tolist()
    assert Generator(5).uniform((9,)).tolist() != Generator(6).uniform((9,)).tolist()


def test_a_saved_state_continues() -> None:
    generator = Generator(5)
    generator.normal((13,))
    state = generator.state
    expected = generator.uniform((4,)).tolist()
    generator.state = state
    assert generator.uniform((4,)).tolist() == expected


def test_draws_do_not_overlap() -> None:
    generator = Generator(1)
    places = [generator.take(count) for count in (1, 8, 9, 0, 1)]
    assert [position for _, position in places] == [0, 1, 2, 4, 4]


def test_manual_seed_restarts() -> None:
    tinynn.manual_seed(11)
    tinynn.rand((100,))
    tinynn.manual_seed(11)
    assert default_generator.state == (11, 0)


def test_uniform_values() -> None:
    values = Generator(2).uniform((200_000,))
    assert values.min() >= 0
    assert values.max() < 1
    assert values.mean() == pytest.approx(0.5, abs=0.003)
    assert values.var() == pytest.approx(1 / 12, rel=0.01)


def test_normal_values() -> None:
    values = Generator(2).normal((200_001,))
    assert values.shape == (200_001,)
    assert np.isfinite(values).all()
    assert values.mean() == pytest.approx(0, abs=0.01)
    assert values.std() == pytest.approx(1, rel=0.01)
    for limit in (1, 2, 3):
        share = (np.abs(values) < limit).mean()
        assert share == pytest.approx(math.erf(limit / math.sqrt(2)), abs=0.005)


def test_normal_values_are_independent() -> None:
    values = Generator(4).normal((100_000,))
    for lag in (1, 50_000):
        assert abs(np.corrcoef(values[:-lag], values[lag:])[0, 1]) < 0.02


def test_rand_stays_below_one_in_float16() -> None:
    tinynn.manual_seed(0)
    assert tinynn.rand((50_000,), "float16").numpy().max() < 1


def test_host_generators_depend_on_all_of_the_position() -> None:
    def draw(*position: int) -> float:
        return float(numpy_generator(3, *position).random())

    values = [draw(), draw(0), draw(1), draw(0, 1), draw(1, 0)]
    assert len(set(values[1:])) == 4
    assert draw(1, 0) == values[-1]


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5, True, "1", None])
def test_seeds_are_integers(seed: object) -> None:
    with pytest.raises(ArgumentError, match=r"0 to 2\*\*64 - 1"):
        tinynn.manual_seed(seed)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="seed"):
        numpy_generator(seed)  # type: ignore[arg-type]
