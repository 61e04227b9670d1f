"""Activations and their gradients of both orders keep their digits far from 0 and near it."""

import math
from collections.abc import Callable

import numpy as np
import pytest

import tinynn
from tinynn import functional as F
from tinynn.autograd import Tensor

Reference = Callable[[np.longdouble], np.longdouble]
EPS = {"float32": 2.0**-23, "float64": 2.0**-52}
POINTS = np.array(
    [1e-30, 1e-8, 1e-4, 0.03, 0.3, 1, 2, 3, 5, 7.7, 10, 12, 16.7, 20, 30, 36.5, 50, 80, 87, 100]
)  # away from the roots of gelu' (-0.75), silu' (-1.28), gelu'' (±1.41) and silu'' (±2.4)
exp, expm1, log1p, tanh = np.exp, np.expm1, np.log1p, np.tanh
ROOT = math.sqrt(0.5)


def sigmoid(x):
    return 1 / (1 + exp(-x)) if x > 0 else exp(x) / (1 + exp(x))


def slope(x):
    return sigmoid(x) * sigmoid(-x)


def cdf(x):
    return np.longdouble(math.erfc(-float(x) * ROOT)) / 2


def density(x):
    return exp(-x * x / 2) / np.sqrt(2 * np.longdouble(math.pi))


def softplus(x):
    return (x if x > 0 else 0) + log1p(exp(-abs(x)))


def inner(x):
    """u of gelu(x) = x·σ(u) by tanh, u' and u''."""
    scale = 2 * math.sqrt(2 / math.pi)
    return scale * (x + 0.044715 * x**3), scale * (1 + 0.134145 * x**2), scale * 0.26829 * x


def gelu_tanh_slope(x):
    u, du, _ = inner(x)
    return sigmoid(u) + x * slope(u) * du


def gelu_tanh_curvature(x):
    u, du, d2u = inner(x)
    return slope(u) * (2 * du + x * d2u - x * du * du * tanh(u / 2))


# the function, its value and its derivatives of both orders
CASES: dict[str, tuple[Callable[[Tensor], Tensor], Reference, Reference, Reference]] = {
    "sigmoid": (F.sigmoid, sigmoid, slope, lambda x: -slope(x) * tanh(x / 2)),
    "tanh": (F.tanh, tanh, lambda x: 4 * slope(2 * x), lambda x: -8 * slope(2 * x) * tanh(x)),
    "softplus": (F.softplus, softplus, sigmoid, slope),
    "log_sigmoid": (
        F.log_sigmoid,
        lambda x: -softplus(-x),
        lambda x: sigmoid(-x),
        lambda x: -slope(x),
    ),
    "silu": (
        F.silu,
        lambda x: x * sigmoid(x),
        lambda x: sigmoid(x) * (1 + x * sigmoid(-x)),
        lambda x: slope(x) * (2 - x * tanh(x / 2)),
    ),
    "elu": (
        lambda x: F.elu(x, 1.5),
        lambda x: x if x > 0 else 1.5 * expm1(x),
        lambda x: 1 if x > 0 else 1.5 * exp(x),
        lambda x: 0 if x > 0 else 1.5 * exp(x),
    ),
    "gelu": (
        F.gelu,
        lambda x: x * cdf(x),
        lambda x: cdf(x) + x * density(x),
        lambda x: density(x) * (2 - x * x),
    ),
    "gelu by tanh": (
        lambda x: F.gelu(x, approximate="tanh"),
        lambda x: x * sigmoid(inner(x)[0]),
        gelu_tanh_slope,
        gelu_tanh_curvature,
    ),
    "exp": (F.exp, exp, exp, exp),
    "expm1": (F.expm1, expm1, exp, exp),
    "erf": (
        F.erf,
        lambda x: np.longdouble(math.erf(float(x))),
        lambda x: 2 / math.sqrt(math.pi) * exp(-x * x),
        lambda x: -4 / math.sqrt(math.pi) * x * exp(-x * x),
    ),
    "log of sigmoid": (  # the loss is the logit, and its gradient does not vanish
        lambda x: F.log(F.sigmoid(-F.relu(x))),
        lambda x: -softplus(max(x, 0)),
        lambda x: -sigmoid(x) if x > 0 else 0,
        lambda x: np.longdouble(np.nan),  # a difference of large numbers
    ),
}


def derivatives(function: Callable[[Tensor], Tensor], x: Tensor) -> list[Tensor]:
    """Value, gradient by both paths, second derivative."""
    value = function(x)
    plain = tinynn.grad(function(x).sum(), x)
    first = tinynn.grad(value.sum(), x, create_graph=True)
    if not first.requires_grad:
        return [value, plain, first, tinynn.zeros_like(x)]
    return [value, plain, first, tinynn.grad(first.sum(), x)]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # exp(100) in float32 is infinite
@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("dtype", EPS)
@pytest.mark.parametrize("name", CASES)
def test_relative_error(name: str, dtype: str, sign: int, device: str) -> None:
    """Within 16 roundings and what one rounding of an intermediate x² or u costs."""
    function, *references = CASES[name]
    points = (sign * POINTS).astype(dtype)
    if name == "log of sigmoid":
        points = points[np.abs(points) < 87]  # beyond, sigmoid underflows in float32
    x = tinynn.tensor(points, device=device, requires_grad=True)
    got = derivatives(function, x)
    limits = np.finfo(dtype)
    for order, tensor in zip((0, 1, 1, 2), got, strict=True):
        for point, value in zip(points.astype(np.longdouble), tensor.tolist(), strict=True):
            with np.errstate(all="ignore"):
                expected = references[order](point)
            if np.isnan(expected):
                continue
            if not abs(expected) < limits.max:
                assert value == expected or math.isinf(value)
                continue
            rounding = 200 if name == "erf" else 16
            condition = rounding + 3 * abs(inner(point)[0] if name == "gelu by tanh" else point**2)
            bound = condition * EPS[dtype] * abs(expected) + 4 * float(limits.smallest_subnormal)
            if abs(expected) < limits.smallest_normal / EPS[dtype]:
                bound += 4 * float(limits.smallest_normal)  # products of subnormal numbers
            assert abs(value - expected) <= bound, (order, float(point), value, float(expected))


def test_focal_loss_of_confident_predictions(device: str) -> None:
    """The factor (1 - p) is not 0 where p rounds to 1."""
    x = tinynn.tensor([20.0, -20.0], device=device, requires_grad=True)
    t = tinynn.tensor([1.0, 0.0], device=device)
    losses = F.sigmoid_focal_loss(x, t, alpha=-1, gamma=1, reduction="none")
    np.testing.assert_allclose(losses.numpy(), [math.exp(-40)] * 2, rtol=1e-4)
    grads = tinynn.grad(losses.sum(), x).numpy()
    np.testing.assert_allclose(grads, [-2 * math.exp(-40), 2 * math.exp(-40)], rtol=1e-4)


@pytest.mark.parametrize("name", [name for name in CASES if name != "exp"])
def test_huge_values_are_no_warning(name: str, device: str) -> None:
    x = tinynn.tensor([-3e38, -1e20, -1e4, 1e4, 1e20, 3e38], device=device, requires_grad=True)
    if name in ("expm1", "log of sigmoid"):
        x = tinynn.tensor([-3e38, -1e20, -1e4], device=device, requires_grad=True)
    value = CASES[name][0](x)
    first = tinynn.grad(value.sum(), x, create_graph=True)
    assert np.isfinite(value.numpy()).all()
    assert np.isfinite(first.numpy()).all()
    if first.requires_grad:
        assert np.isfinite(tinynn.grad(first.sum(), x).numpy()).all()
