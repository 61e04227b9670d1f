"""The learning-rate range test."""

import numpy as np
import pytest

import tinynn
from tests.training.scenario import data, network
from tinynn import functional as F
from tinynn import nn, optim
from tinynn.data import ArrayDataset, DataLoader
from tinynn.errors import ArgumentError
from tinynn.training import find_learning_rate


def test_restores_everything(device: str) -> None:
    model = network().to(device)
    optimizer = optim.Adam(model, 0.01)
    loader = DataLoader(data(0), 5, shuffle=True, device=device)
    F.cross_entropy(model(next(iter(loader))[0]), tinynn.zeros(5, "int64", device)).backward()
    optimizer.step()
    before = {path: np.array(tensor.numpy()) for path, tensor in model.state_dict().items()}
    state, position = optimizer.state_dict(), loader.state_dict()
    random = tinynn.random.default_generator.state
    find_learning_rate(model, loader, optimizer, F.cross_entropy, steps=20)
    for path, tensor in model.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), before[path])
    for path, array in optimizer.state_dict()["arrays"].items():
        np.testing.assert_array_equal(array, state["arrays"][path])
    assert optimizer.learning_rate == 0.01
    assert optimizer.steps == 1
    assert loader.state_dict() == position
    assert tinynn.random.default_generator.state == random
    assert model.training


def test_finds_the_scale_of_a_linear_regression() -> None:
    """Gradient descent on (w x - y)² with x² = 1 is stable below a rate of 1."""
    rng = np.random.default_rng(0)
    x = np.sign(rng.normal(size=(256, 1))).astype(np.float32)
    model = nn.Linear(1, 1, bias=False)
    model.weight.data[...] = 3
    loader = DataLoader(ArrayDataset(x, np.zeros(256, dtype=np.int64)), 32)
    result = find_learning_rate(
        model, loader, optim.SGD(model, 0.1), lambda out, _: (out * out).mean(), high=100.0
    )
    assert 0.003 < result.suggestion < 1
    assert result.rates[-1] < 100  # it ended when the loss diverged
    assert result.losses[0] == pytest.approx(9, rel=1e-3)


def test_a_plot() -> None:
    model = network()
    loader = DataLoader(data(0), 5)
    result = find_learning_rate(model, loader, optim.SGD(model, 0.1), F.cross_entropy, steps=15)
    (axes,) = result.plot().axes
    assert axes.get_xscale() == "log"


@pytest.mark.parametrize("options", [{"low": 0.0}, {"low": 2.0}, {"steps": 3}])
def test_invalid_arguments(options: dict[str, float]) -> None:
    model = network()
    with pytest.raises(ArgumentError, match="0 < low < high and steps >= 10"):
        find_learning_rate(
            model, DataLoader(data(0), 5), optim.SGD(model, 0.1), F.cross_entropy, **options
        )
