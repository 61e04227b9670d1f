"""Gradients where they are easily wrong: repeated indices, powers at 0, ties."""

import itertools
import math
from typing import Any

import numpy as np
import pytest

import tinynn
from tinynn import functional as F
from tinynn.autograd import Tensor
from tinynn.errors import ArgumentError, InvalidIndexError

KEYS: list[Any] = [
    ((0, 0, 1), (1, 1, 0)),
    ((0, 0, 1),),
    ((0, 0), slice(None), (2, 2)),
    ((0, 0), 1),
    (..., (2, 2, 0)),
    (None, (1, 1)),
    (((0, 0), (1, 0)), 1),
    [0, 0, 1],
    [[0, 0], [1, 0]],
    (),
    [],
    ...,
    None,
    range(2),
    (range(2), (1, 1)),
    True,
    False,
    np.True_,
    (0, True),
    np.int64(-1),
    (np.uint8(1), np.int16(-1)),
    np.array(1),
    (np.array([0, 0]), 1),
    (slice(None), np.array([[0, -1], [1, 2]])),
    np.array([1, 1], dtype=np.uint8),
    np.array([[True, False, True], [False, True, True]]),
    (slice(None), np.array([True, False, True])),
    ([True, False], (1, 1)),
    (slice(None, None, -1), slice(5, None, -2)),
    (slice(9), slice(0)),
    (0, slice(None), np.array([0, 0, 3])),
]


@pytest.mark.parametrize("key", KEYS, ids=repr)
def test_index(key: Any, device: str) -> None:
    """The gradient of an element is the sum over all places that it was taken to."""
    values = np.arange(24.0).reshape(2, 3, 4)
    x = tinynn.tensor(values, "float64", device, requires_grad=True)
    taken = x[key]
    np.testing.assert_array_equal(taken.numpy(), values[key])
    weights = np.cos(np.arange(taken.size)).reshape(taken.shape)
    (taken * tinynn.tensor(weights, device=device)).sum().backward()
    assert x.grad is not None
    places = values[key].astype(int).ravel()
    expected = np.bincount(places, weights.ravel(), minlength=24).reshape(values.shape)
    np.testing.assert_allclose(x.grad.numpy(), expected)


@pytest.mark.parametrize("key", [2, (0, 3), [5], 1.0, "a", np.array([0.5]), [[1, 2], [3]], {}])
def test_a_wrong_index_is_named(key: Any, device: str) -> None:
    x = tinynn.zeros((2, 3), device=device)
    late = device != "cpu" and key == [5]  # a GPU reads the elements of an array later
    with pytest.raises(InvalidIndexError, match="index 5" if late else r"tensor of shape \(2, 3\)"):
        x[key].numpy()


BASES, EXPONENTS = (-2.0, -0.0, 0.0, 0.5, 1.0, 3.0), (-1.0, 0.0, 0.5, 1.0, 2.0, 3.0)


def slopes(x: float, y: float) -> tuple[float, float]:
    """The gradients of x ** y with respect to x and y, as documented."""
    with np.errstate(all="ignore"):
        base = 0.0 if y == 0 else float(y * np.float64(x) ** (y - 1))
        return base, float(np.float64(x) ** y * math.log(x)) if x > 0 else 0.0


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # 0 ** -1 is infinite, (-2) ** 0.5 is NaN
@pytest.mark.parametrize(("x", "y"), list(itertools.product(BASES, EXPONENTS)))
def test_power(x: float, y: float, device: str) -> None:
    a = tinynn.tensor([x], "float64", device, requires_grad=True)
    b = tinynn.tensor([y], "float64", device, requires_grad=True)
    of_x, of_y = slopes(x, y)
    for out, base in ((a**b, of_x), (a**y, of_x), (x**b, None)):
        got = tinynn.grad(out, [a, b], allow_unused=True)
        for gradient, expected in zip(got, (base, of_y), strict=True):
            if gradient is not None and expected is not None:
                np.testing.assert_allclose(gradient.numpy(), [expected])


def test_power_of_second_order_in_both(device: str) -> None:
    a = tinynn.tensor([0.5, 2.0, 3.0], "float64", device, requires_grad=True)
    b = tinynn.tensor([0.0, 0.0, 2.0], "float64", device, requires_grad=True)
    slope = tinynn.grad((a**b).sum(), a, create_graph=True)
    x, y = a.numpy(), b.numpy()
    mixed = x ** (y - 1) * (1 + y * np.log(x))
    np.testing.assert_allclose(tinynn.grad(slope.sum(), b).numpy(), mixed)


def test_a_negative_power_of_integers_is_explained(device: str) -> None:
    if device != "cpu":
        pytest.skip("CuPy computes it")
    x = tinynn.tensor([1, 2])
    for exponent in (-1, tinynn.tensor([-1, -1])):
        with pytest.raises(ArgumentError, match=r"power of int64 and .*negative integer powers"):
            _: Tensor = x**exponent


@pytest.mark.parametrize("function", [F.std, F.var])
def test_the_spread_of_equal_values(function: Any, device: str) -> None:
    x = tinynn.tensor([[1.0, 1.0], [1.0, 3.0]], device=device, requires_grad=True)
    spread = function(x, axis=1)
    assert spread.tolist() == [0, 1]
    slope = tinynn.grad(spread.sum(), x, create_graph=True)
    assert slope.tolist()[0] == [0, 0]
    assert np.isfinite(tinynn.grad((slope * slope).sum(), x).numpy()).all()


def test_huber_loss_at_its_ends(device: str) -> None:
    """The curvature at 0 is 1; large differences overflow in no square."""
    x = tinynn.tensor([0.0, 0.25, 1e30, -1e30, np.inf, -np.inf], "float32", device, True)
    losses = F.huber_loss(x, tinynn.zeros_like(x), 1.0, "none")
    np.testing.assert_allclose(losses.numpy(), [0, 1 / 32, 1e30, 1e30, np.inf, np.inf])
    slope = tinynn.grad(losses.sum(), x, create_graph=True)
    np.testing.assert_allclose(slope.numpy(), [0, 0.25, 1, -1, 1, -1])
    assert tinynn.grad(slope.sum(), x).tolist() == [1, 1, 0, 0, 0, 0]


def test_a_quotient_of_large_and_of_small_numbers(device: str) -> None:
    x = tinynn.tensor([1e25, 1e-25], device=device, requires_grad=True)
    y = tinynn.tensor([1e25, 1e-25], device=device, requires_grad=True)
    got = tinynn.grad((x / y).sum(), y)
    np.testing.assert_allclose(got.numpy(), [-1e-25, -1e25], rtol=1e-6)
