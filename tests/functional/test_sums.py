"""Sums lose no digits: every reduction, over all axes, in every memory order and dtype."""

import math
from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
import pytest

import tinynn
from tinynn import functional as F
from tinynn import optim
from tinynn.autograd import Tensor
from tinynn.backend import get_backend

DTYPES = ("float16", "float32", "float64")
ROUNDINGS = 64  # the bound that docs/architecture.md states
SHAPE = (5, 31, 33, 3)
AXES = [axes for count in (1, 2, 3, 4) for axes in combinations(range(4), count)]

ORDERS: dict[str, Callable[[Any], Any]] = {
    "C": lambda x: x,
    "Fortran": lambda x: x.transpose(3, 2, 1, 0).copy().transpose(3, 2, 1, 0),
    "swapped": lambda x: x.transpose(0, 3, 2, 1).copy().transpose(0, 3, 2, 1),
    "reversed": lambda x: x[::-1, :, ::-1],
    "strided": lambda x: x.repeat(2, axis=3).repeat(2, axis=1)[:, ::2, :, ::2],
    "repeated": lambda x: np.broadcast_to(x[:, :1], x.shape),
}
VALUES = {
    "from 100 to 101": np.random.default_rng(0).random(SHAPE) + 100,
    "equal": np.full(SHAPE, 0.1),
    "of both signs": np.random.default_rng(1).standard_normal(SHAPE),
}
REDUCTIONS: dict[str, Callable[..., Any]] = {
    "sum": np.sum,
    "mean": np.mean,
    "var": np.var,
    "std": np.std,
    "logsumexp": lambda x, axis, keepdims: np.log(np.exp(x).sum(axis=axis, keepdims=keepdims)),
}


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")  # NumPy's, for sums in float16
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", REDUCTIONS)
def test_reduction(name: str, dtype: str, order: str, device: str) -> None:
    """Within ROUNDINGS of the same reduction of |x|; of the variance itself for var and std."""
    for kind, values in VALUES.items():
        host = values.astype(dtype)
        exact = ORDERS[order](host.astype(np.longdouble if dtype == "float64" else np.float64))
        x = Tensor(ORDERS[order](get_backend(device).xp.asarray(host)))
        for axes in AXES:
            expected = REDUCTIONS[name](exact, axis=axes, keepdims=True)
            scale = REDUCTIONS[name](abs(exact), axis=axes, keepdims=True)
            scale = abs(expected) if name in ("var", "std") else abs(scale) + abs(expected)
            eps = np.finfo(dtype).eps
            bound = ROUNDINGS * (eps if dtype != "float16" else 2.0**-23)
            # rounding of the result; for var and std also of equal values, whose mean is rounded
            bound = bound * scale + eps * (abs(expected) + 0.1 * (name in ("var", "std")))
            got = getattr(F, name)(x, axis=axes, keepdims=True).numpy().astype(exact.dtype)
            fits = abs(expected) <= np.finfo(dtype).max
            assert (abs(got - expected) <= bound)[fits].all(), (kind, axes)


def _seed(*shape: int) -> np.ndarray:
    return np.random.default_rng(2).random(shape) * 1e-4 + 0.1


def _gradient(function: Callable[..., Tensor], *shapes: tuple[int, ...], of: int) -> Any:
    """The gradient of one input, upstream gradients from 0.1 to 0.1001."""

    def run(dtype: str, device: str) -> np.ndarray:
        rng = np.random.default_rng(3)
        inputs = [
            tinynn.tensor(rng.random(shape).astype(np.float32), dtype, device, requires_grad=True)
            for shape in shapes
        ]
        out = function(*inputs)
        upstream = tinynn.tensor(_seed(*out.shape).astype(np.float32), dtype, device)
        return tinynn.grad((out * upstream).sum(), inputs[of]).numpy()

    return run


def _value(function: Callable[[Tensor], Tensor], *shape: int, offset: float = 0.0) -> Any:
    def run(dtype: str, device: str) -> np.ndarray:
        values = (_seed(*shape) + offset).astype(np.float32)
        return function(tinynn.tensor(values, dtype, device)).numpy()

    return run


def _conv(**options: Any) -> Callable[..., Tensor]:
    return lambda x, weight, bias: F.conv2d(x, weight, bias, **options)


def _running(x: Tensor) -> Tensor:
    """The running mean and variance after one batch."""
    channels = x.shape[-1]
    running = [tinynn.zeros(channels, x.dtype.name, x.device) for _ in range(2)]
    F.batch_norm(x, *running, training=True, momentum=1.0)
    return F.concat(running)


def _first(logits: Tensor) -> Tensor:
    """Labels of the first class."""
    return tinynn.zeros(len(logits), "int64", logits.device)


def _norm(x: Tensor) -> Tensor:
    parameter = tinynn.zeros(x.shape, x.dtype.name, x.device, requires_grad=True)
    parameter.grad = x
    return optim.clip_grad_norm([parameter], 1.0)


_IMAGES = (2, 130, 130, 4)
_CHANNELS = (4,)
SUMS: dict[str, Any] = {
    "global_avg_pool2d": _value(F.global_avg_pool2d, 1, 200, 200, 3, offset=100),
    "avg_pool2d of large windows": _value(lambda x: F.avg_pool2d(x, 100, 7), 1, 120, 130, 2),
    "avg_pool2d side by side": _value(lambda x: F.avg_pool2d(x, 200), 1, 200, 400, 2),
    "softmax over a leading axis": _value(lambda x: F.softmax(x, 0), 30000, 2),
    "log_softmax over a leading axis": _value(lambda x: F.log_softmax(x, 0), 30000, 2),
    "einsum": _value(lambda x: F.einsum("nc->c", x), 40000, 3),
    "einsum of vectors": _value(lambda x: F.einsum("i,i->", x, x), 300_000),
    "einsum of columns": _value(lambda x: F.einsum("nc,cn->c", x, x.permute(1, 0)), 20000, 3),
    "einsum of three": _value(lambda x: F.einsum("nc,nc,mc->c", x, x, x), 300, 2),
    "group_norm": _value(lambda x: F.group_norm(x, 2) + 4, 2, 50, 50, 4, offset=0.1),
    "layer_norm": _value(lambda x: F.layer_norm(x, 2) + 4, 3, 4000, 2, offset=0.1),
    "running statistics": _value(_running, 20000, 3, offset=10),
    "running statistics of some channels": _value(_running, 3000, 70),
    "clip_grad_norm": _value(_norm, 20000, 3),
    "mean of cross_entropy": _value(
        lambda x: F.cross_entropy(x, _first(x)), 30000, 2
    ),
    "l1_loss": _value(lambda x: F.l1_loss(x, tinynn.zeros(x.shape, x.dtype.name, x.device)), 9, 9),
    "bias of linear": _gradient(F.linear, (30000, 2), (2, 3), (3,), of=2),
    "bias by broadcasting": _gradient(F.add, (3, 80, 90, 3), (3,), of=1),
    "factor by broadcasting": _gradient(F.multiply, (60, 80, 5), (60, 1, 1), of=1),
    "leading axis by broadcasting": _gradient(F.add, (1, 3), (40000, 3), of=0),
    "bias of conv2d": _gradient(_conv(padding=1), _IMAGES, (3, 3, 4, 4), _CHANNELS, of=2),
    "bias of conv2d 1x1": _gradient(_conv(), _IMAGES, (1, 1, 4, 4), _CHANNELS, of=2),
    "bias of conv2d with stride": _gradient(
        _conv(stride=2), (5, *_IMAGES[1:]), (3, 3, 4, 4), _CHANNELS, of=2
    ),
    "bias of conv2d in groups": _gradient(
        _conv(groups=4, padding=1), _IMAGES, (3, 3, 1, 4), _CHANNELS, of=2
    ),
    "bias of conv2d with large kernels": _gradient(
        _conv(padding=4), (3, 60, 60, 32), (9, 9, 32, 4), _CHANNELS, of=2
    ),
    "weight of depthwise conv2d": _gradient(
        _conv(groups=4), _IMAGES, (1, 1, 1, 4), _CHANNELS, of=1
    ),
    "bias of batch_norm": _gradient(
        lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True),
        (40000, 3), (3,), (3,), of=2,
    ),
    "bias of layer_norm": _gradient(
        lambda x, w, b: F.layer_norm(x, 1, w, b), (4000, 2), (2,), (2,), of=2
    ),
    "repeated index": _gradient(lambda x: x[np.zeros(30000, int)], (2, 3), of=0),
    "embedding": _gradient(lambda x: x[np.arange(40000) % 3], (3, 2), of=0),
    "avg_pool2d, overlapping": _gradient(lambda x: F.avg_pool2d(x, 60, 1), (1, 120, 120, 1), of=0),
    "max_pool2d of one maximum": _gradient(
        lambda x: F.max_pool2d(F.pad(x, [(0, 0), (39, 39), (39, 39), (0, 0)]), 40, 1),
        (1, 1, 1, 1), of=0,
    ),
}  # fmt: skip


TOO_LARGE = ("running", "bias of conv2d", "weight of")  # sums beyond float16


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *((name, "float32") for name in SUMS),
        *((name, "float16") for name in SUMS if not name.startswith(TOO_LARGE)),
    ],
)
def test_sum_inside(name: str, dtype: str, device: str) -> None:
    """All terms are positive here, so that the bound is relative to the result."""
    exact, got = (SUMS[name](d, device).astype(np.float64) for d in ("float64", dtype))
    eps = float(np.finfo(dtype).eps)
    if dtype == "float16":  # the inputs were rounded, too
        np.testing.assert_allclose(got, exact, rtol=8 * eps)
    else:
        np.testing.assert_allclose(got, exact, rtol=ROUNDINGS * eps)


_HALF = [300.0, 0.0, -300.0]
_ZEROS = np.zeros(100_000)
_LARGE = np.full((1, 2, 2, 2), 6e4)
_LARGE_KERNEL = tinynn.tensor(np.float16([300, 300, -300, -300]).reshape(1, 4, 1, 1))
_SPREAD = np.array([[[6e4, -6e4], [6e4, -6e4]]])
HALF: dict[str, tuple[Callable[[Tensor], Any], Any, Any]] = {
    "var": (F.var, _HALF, 6e4),
    "std": (F.std, [3000.0, 0.0, -3000.0], math.sqrt(6e6)),
    "mean": (F.mean, _LARGE, 6e4),
    "logsumexp": (F.logsumexp, _ZEROS, math.log(1e5)),
    "softmax": (lambda x: F.softmax(x) * 1e3, _ZEROS[:10000], np.full(10000, 0.1)),
    "log_softmax": (F.log_softmax, _ZEROS, np.full(100_000, -math.log(1e5))),
    "global_avg_pool2d": (F.global_avg_pool2d, _LARGE, [[6e4, 6e4]]),
    "avg_pool2d": (lambda x: F.avg_pool2d(x, 2), _LARGE, [[[[6e4, 6e4]]]]),
    "avg_pool2d of many pixels": (
        lambda x: F.avg_pool2d(x, 90), np.full((1, 90, 90, 1), 2.0), [[[[2.0]]]]
    ),
    "mse_loss": (lambda x: F.mse_loss(x, x * 0), _HALF, 6e4),
    "huber_loss": (lambda x: F.huber_loss(x, x * 0, delta=1000.0), _HALF, 3e4),
    "huber_loss, linear": (lambda x: F.huber_loss(x, x * 0, delta=100.0), [500.0, 0.0], 22500),
    "l1_loss": (lambda x: F.l1_loss(x, -x), [6e4, 0.0], 6e4),
    "cross_entropy": (lambda x: F.cross_entropy(x, _first(x)), [[-6e4, 6e4], [6e4, 0]], 6e4),
    "cross_entropy with weights": (
        lambda x: F.cross_entropy(x, _first(x), x[0] * 0 + 300.0),
        [[0.0, 500.0], [0.0, 500.0]],
        500,
    ),
    "nll_loss": (lambda x: F.nll_loss(x, _first(x)), [[-6e4], [-6e4], [-3e4]], 5e4),
    "binary_cross_entropy": (
        lambda x: F.binary_cross_entropy_with_logits(x, x * 0 + 1, pos_weight=100.0),
        [-1000.0, 1000.0],
        5e4,
    ),
    "sigmoid_focal_loss": (
        lambda x: F.sigmoid_focal_loss(x, x * 0 + 1, alpha=-1), [-6e4, -3e4], 4.5e4
    ),
    "layer_norm": (F.layer_norm, _SPREAD, np.sign(_SPREAD)),
    "group_norm": (lambda x: F.group_norm(x, 1), _SPREAD, np.sign(_SPREAD)),
    "batch_norm": (
        lambda x: F.batch_norm(x, training=True), _SPREAD.swapaxes(1, 2),
        np.sign(_SPREAD).swapaxes(1, 2),
    ),
    "matmul": (
        lambda x: x @ F.concat([x[:, :2], -x[:, 2:]], 1).permute(1, 0),
        np.full((2, 4), 300.0), np.zeros((2, 2)),
    ),
    "conv2d": (
        lambda x: F.conv2d(x, _LARGE_KERNEL.to(x.device)), np.full((1, 1, 4, 1), 200.0),
        [[[[0.0]]]],
    ),
    "conv2d of one pixel": (
        lambda x: F.conv2d(x, F.concat([x[..., :2], -x[..., 2:]], 3).permute(0, 1, 3, 2)),
        np.full((1, 1, 1, 4), 300.0), [[[[0.0]]]],
    ),
    "weight of conv2d of one channel": (
        lambda x: _slope(
            lambda w: (F.conv2d(x, w) * F.concat([x[:, :, :2], -x[:, :, 2:]], 2)).sum(),
            x[:, :, :1] * 0,
        ),
        np.full((1, 1, 4, 1), 300.0), [[[[0.0]]]],
    ),
    "clip_grad_norm": (_norm, [300.0, 400.0], 500),
    "gradient of mean": (lambda x: _slope(lambda x: F.mean(x) * 1e4, x), _ZEROS, _ZEROS + 0.1),
    "gradient of var": (lambda x: _slope(F.var, x), _HALF, [200.0, 0.0, -200.0]),
    "gradient of mse_loss": (
        lambda x: _slope(lambda x: F.mse_loss(x, x.detach() * 0), x), _HALF, [200.0, 0, -200.0]
    ),
    "gradient of max": (lambda x: _slope(lambda x: F.max(x) * 1e4, x), _ZEROS, _ZEROS + 0.1),
    "gradient of softmax": (
        lambda x: _slope(lambda x: (F.softmax(x) * x.detach()).sum() * 6e4, x),
        np.arange(2.0), [-11796.7, 11796.7],
    ),
}  # fmt: skip


def _slope(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    x = x.detach()
    x.requires_grad = True
    return tinynn.grad(function(x), x)


@pytest.mark.parametrize("name", HALF)
def test_float16_overflows_only_in_the_result(name: str, device: str) -> None:
    function, values, expected = HALF[name]
    out = function(tinynn.tensor(np.asarray(values, np.float16), device=device))
    np.testing.assert_allclose(out.numpy().astype(np.float64), expected, rtol=3e-3)


def test_operands_by_name(device: str) -> None:
    """Also of functions that compute float16 in float32."""
    x = tinynn.tensor(np.float16(_HALF), device=device)
    assert F.mse_loss(prediction=x, target=x * 0).item() == F.var(x=x).item() == 6e4


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_clipping_of_tiny_and_huge_gradients(size: float, device: str) -> None:
    """Their squares are beyond float32."""
    x = tinynn.tensor([3.0, 4.0], device=device, requires_grad=True)
    x.grad = tinynn.tensor(np.float32([3 * size, 4 * size]), device=device)
    assert optim.clip_grad_norm([x], 1.0).item() == pytest.approx(5 * size)
    expected = np.float32([0.6, 0.8]) if size > 1 else np.float32([3e-30, 4e-30])
    np.testing.assert_allclose(x.grad.numpy(), expected, rtol=1e-5)


def test_unscaling_float16(device: str) -> None:
    """The inverse of a large scale is 0 in float16."""
    backend = get_backend(device)
    grad = backend.from_host(np.array([6e4], np.float16))
    found = backend.from_host(np.zeros((), np.bool_))
    for factor in (2.0**-30, 2.0**20):
        backend.unscale([grad], backend.from_host(np.array(factor, np.float32)), found)
    assert backend.to_host(grad)[0] == pytest.approx(6e4 / 1024, rel=1e-2)
    assert not backend.to_host(found)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_millions_of_terms(dtype: str, device: str) -> None:
    """Also where a GPU has few blocks for many rows."""
    x = tinynn.full((1_500_000, 2), 0.1, dtype, device)
    value, eps = float(np.float32(0.1)) if dtype == "float32" else 0.1, np.finfo(dtype).eps
    for got, expected in (
        (x.sum(axis=0), 1_500_000 * value),
        (x.mean(), value),
        (F.global_avg_pool2d(x.reshape(2, 1000, 750, 2)), value),
        (_running(x)[:2], value),
        (F.mse_loss(x, x * 0), value**2),
        (F.cross_entropy(x, _first(x)), math.log(2)),
    ):
        np.testing.assert_allclose(got.numpy(), expected, rtol=ROUNDINGS * eps)


def test_products_of_millions_of_terms() -> None:
    """BLAS on a CPU adds in its own order, but no more than some thousand terms at a time."""
    value = float(np.float32(0.1))
    row = tinynn.full((1, 2_000_000), 0.1)
    pixels = tinynn.full((1, 1000, 1000, 2), 0.1)
    weight = tinynn.full((1, 1, 2, 2), 0.1, requires_grad=True)
    slope = tinynn.grad((F.conv2d(pixels, weight) * tinynn.full(pixels.shape, 0.1)).sum(), weight)
    rows = tinynn.full((500_000, 5), 0.1)
    gram = rows[:, :2].permute(1, 0) @ rows[:, 2:]
    for got, terms in ((row @ row.permute(1, 0), 2e6), (slope, 1e6), (gram, 5e5)):
        np.testing.assert_allclose(got.numpy(), terms * value**2, rtol=512 * np.finfo("f").eps)


@pytest.mark.parametrize("groups", [1, 2])
def test_weight_gradient_of_many_pixels(groups: int, device: str) -> None:
    """A block of a GPU adds no more than some thousand pixels."""
    pixels = tinynn.full((1, 1001, 500, 2), 0.1, device=device)
    weight = tinynn.zeros((2, 1, 2 // groups, 2), device=device, requires_grad=True)
    slope = tinynn.grad(F.conv2d(pixels, weight, groups=groups).sum(), weight)
    expected = 500_000 * float(np.float32(0.1))
    np.testing.assert_allclose(slope.numpy(), expected, rtol=512 * np.finfo("f").eps)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("margin", [0.0, 5.0, 25.0, 60.0])
def test_cross_entropy_of_a_sure_prediction(margin: float, dtype: str, device: str) -> None:
    """The loss log(1 + 2·exp(-margin)) and its gradient keep their digits near 0."""
    values = np.array([[0.0, -margin, -margin], [-margin, -margin, 0.0]])
    x = tinynn.tensor(values, dtype, device, requires_grad=True)
    labels = tinynn.tensor([0, 2], device=device)
    loss = F.cross_entropy(x, labels)
    expected, share = math.log1p(2 * math.exp(-margin)), 1 / (2 + math.exp(margin))
    tolerance = 1e-6 if dtype == "float32" else 1e-13
    assert loss.item() == pytest.approx(expected, rel=tolerance)
    assert F.log_softmax(x)[0, 0].item() == pytest.approx(-expected, rel=tolerance)
    slope = tinynn.grad(loss, x).numpy()[0]
    np.testing.assert_allclose(slope, np.array([-2, 1, 1]) * share / 2, rtol=tolerance)


@pytest.mark.parametrize("method", [optim.Adam, optim.RMSprop])
def test_an_optimizer_squares_float16_in_float32(method: Any, device: str) -> None:
    x = tinynn.tensor(np.float16([1.0, 2.0]), device=device, requires_grad=True)
    x.grad = tinynn.tensor(np.float16([500.0, -500.0]), device=device)
    method([x], learning_rate=0.125).step()
    assert x.numpy()[0] < 0.9
    assert x.numpy()[1] > 2.1


def test_integers_beyond_float32(device: str) -> None:
    x = tinynn.tensor([2**24 + 1, 2**24 + 3, 2**24 + 1, 2**24 + 3], device=device)
    assert (x.var().item(), x.std().item(), x.mean().item()) == (1, 1, 2**24 + 2)
    assert x.mean().dtype == x.var().dtype == np.float32


NORMALIZATIONS: dict[str, Callable[..., Tensor]] = {
    "batch_norm": lambda x, *affine: F.batch_norm(x, None, None, *affine, training=True),
    "layer_norm": lambda x, *affine: F.layer_norm(x, 1, *affine),
    "group_norm": lambda x, *affine: F.group_norm(x, 1, *affine),
}


@pytest.mark.parametrize("name", NORMALIZATIONS)
@pytest.mark.parametrize("offset", [0, 1000])
def test_normalization_far_from_zero(offset: int, name: str, device: str) -> None:
    """Output, and gradients of x and weight. The mean is up to 3,500 standard deviations."""
    if name == "batch_norm" and device != "cpu" and offset:
        pytest.skip("a GPU subtracts the mean in the precision of the data")
    rng = np.random.default_rng(4)
    values = rng.random((40, 30, 30, 2), np.float32) + np.float32(offset)
    upstream = rng.standard_normal(values.shape, np.float32)
    results = []
    for dtype in ("float32", "float64"):
        inputs = [
            tinynn.tensor(array, dtype, device, requires_grad=True)
            for array in (values, np.ones(2), np.zeros(2))
        ]
        out = NORMALIZATIONS[name](*inputs)
        grads = tinynn.grad((out * tinynn.tensor(upstream, dtype, device)).sum(), inputs)
        results.append([tensor.numpy() for tensor in (out, *grads)])
    for got, exact in zip(*results, strict=True):
        assert abs(got - exact).max() <= 4e-6 * abs(exact).max()
