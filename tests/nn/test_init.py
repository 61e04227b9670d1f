"""Initializers: standard deviation, range and seed."""

import math
from collections.abc import Callable

import numpy as np
import pytest

import tinynn
from tinynn import nn
from tinynn.autograd import Tensor
from tinynn.errors import ArgumentError, ShapeError
from tinynn.nn import init

SHAPE = (3, 3, 40, 50)
FAN_IN, FAN_OUT = 9 * 40, 9 * 50


@pytest.fixture(autouse=True)
def seed() -> None:
    tinynn.manual_seed(1)


@pytest.mark.parametrize(
    ("fill", "std", "uniform"),
    [
        (init.kaiming_uniform_, math.sqrt(2 / FAN_IN), True),
        (init.kaiming_normal_, math.sqrt(2 / FAN_IN), False),
        (lambda t: init.kaiming_normal_(t, gain=1.0), math.sqrt(1 / FAN_IN), False),
        (init.xavier_uniform_, math.sqrt(2 / (FAN_IN + FAN_OUT)), True),
        (init.xavier_normal_, math.sqrt(2 / (FAN_IN + FAN_OUT)), False),
        (lambda t: init.normal_(t, std=3.0), 3.0, False),
        (lambda t: init.uniform_(t, -2.0, 2.0), 2 / math.sqrt(3), True),
    ],
    ids=["kaiming_uniform", "kaiming_normal", "gain", "xavier_uniform", "xavier_normal", "n", "u"],
)
def test_standard_deviation(
    fill: Callable[[Tensor], None], std: float, uniform: bool, device: str
) -> None:
    weight = tinynn.zeros(SHAPE, device=device)
    fill(weight)
    values = weight.numpy()
    assert values.dtype == np.float32
    assert abs(values.mean()) < 5 * std / math.sqrt(values.size)
    assert values.std() == pytest.approx(std, rel=0.02)
    kurtosis = ((values / values.std()) ** 4).mean()
    assert kurtosis == pytest.approx(1.8 if uniform else 3.0, abs=0.1)
    if uniform:
        assert np.abs(values).max() <= std * math.sqrt(3) * (1 + 1e-6)


def test_truncated_normal_stays_within_two_deviations(device: str) -> None:
    weight = tinynn.zeros(20_000, device=device)
    init.truncated_normal_(weight, mean=1.0, std=0.5)
    values = weight.numpy()
    assert np.abs(values - 1).max() <= 1.0
    assert values.std() == pytest.approx(0.5 * 0.8796, rel=0.02)  # of a normal cut at 2 deviations


@pytest.mark.parametrize("shape", [(20, 8), (8, 20), (3, 3, 2, 7), (3, 3, 2, 30)])
def test_orthogonal(shape: tuple[int, ...], device: str) -> None:
    weight = tinynn.zeros(shape, "float64", device)
    init.orthogonal_(weight, gain=2.0)
    matrix = weight.numpy().reshape(-1, shape[-1])
    if matrix.shape[0] < matrix.shape[1]:
        matrix = matrix.T
    np.testing.assert_allclose(matrix.T @ matrix, 4 * np.eye(matrix.shape[1]), atol=1e-12)


def test_constants(device: str) -> None:
    weight = tinynn.ones(3, device=device)
    init.zeros_(weight)
    assert weight.tolist() == [0, 0, 0]
    init.ones_(weight)
    assert weight.tolist() == [1, 1, 1]
    init.constant_(weight, 2.5)
    assert weight.tolist() == [2.5, 2.5, 2.5]


def test_layers_follow_the_seed() -> None:
    def values(seed: int) -> list[float]:
        tinynn.manual_seed(seed)
        model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Linear(3, 2))
        return [float(p.numpy().sum()) for p in model.parameters()]

    assert values(3) == values(3) != values(4)


def test_layers_start_with_kaiming_weights_and_zero_bias() -> None:
    layer = nn.Conv2d(40, 50, 3, groups=2)
    assert layer.weight.numpy().std() == pytest.approx(math.sqrt(2 / (9 * 20)), rel=0.05)
    assert not layer.bias.numpy().any()
    assert nn.Linear(100, 90).weight.numpy().std() == pytest.approx(math.sqrt(2 / 100), rel=0.05)


def test_a_vector_has_no_fan_in() -> None:
    with pytest.raises(ArgumentError, match=r"fan-in needs two or more axes, got shape \(3,\)"):
        init.kaiming_normal_(tinynn.zeros(3))
    with pytest.raises(ShapeError, match="two axes"):
        init.orthogonal_(tinynn.zeros(3))
