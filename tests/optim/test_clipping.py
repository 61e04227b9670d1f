"""Gradient clipping."""

import math

import numpy as np
import pytest

import tinynn
from tinynn import nn, optim
from tinynn.autograd import Tensor
from tinynn.errors import ArgumentError


@pytest.fixture
def pair(device: str) -> list[Tensor]:
    """Two tensors whose gradients have the joint norm 13."""
    tensors = [tinynn.ones(n, device=device, requires_grad=True) for n in (2, 1)]
    tensors[0].grad = tinynn.tensor([3.0, -4.0], device=device)
    tensors[1].grad = tinynn.tensor([12.0], device=device)
    return tensors


def gradients(tensors: list[Tensor]) -> list[float]:
    return [float(v) for t in tensors for v in t.grad.numpy()]


def test_a_long_gradient_is_scaled_to_the_norm(pair: list[Tensor]) -> None:
    assert optim.clip_grad_norm(pair, 1.3).item() == pytest.approx(13)
    assert gradients(pair) == pytest.approx([0.3, -0.4, 1.2], rel=1e-5)


def test_a_short_gradient_stays(pair: list[Tensor]) -> None:
    assert optim.clip_grad_norm(pair, 20.0).item() == pytest.approx(13)
    assert gradients(pair) == [3, -4, 12]


def test_values_are_clipped_to_the_limit(pair: list[Tensor]) -> None:
    optim.clip_grad_value(pair, 3.5)
    assert gradients(pair) == [3, -3.5, 3.5]


def test_tensors_that_share_one_gradient_are_scaled_once(device: str) -> None:
    a, b = (tinynn.ones(2, device=device, requires_grad=True) for _ in range(2))
    (a + b).sum().backward()  # both share one broadcast array of ones
    optim.clip_grad_norm([a, b], 1.0)
    assert gradients([a, b]) == pytest.approx([0.5] * 4, rel=1e-5)
    (a + b).sum().backward()
    optim.clip_grad_value([a, b], 1.0)
    assert gradients([a, b]) == [1.0] * 4


def test_takes_a_model_and_skips_what_has_no_gradient(device: str) -> None:
    model = nn.Sequential(nn.Linear(2, 1), nn.Linear(1, 1)).to(device)
    model[1].requires_grad_(False)
    (model(tinynn.ones((1, 2), device=device)) * 1000).sum().backward()
    optim.clip_grad_norm(model, 0.5)
    total = math.sqrt(
        sum(float((p.grad.numpy() ** 2).sum()) for p in model.parameters() if p.grad is not None)
    )
    assert total == pytest.approx(0.5, rel=1e-4)
    assert all(p.grad.dtype == np.float32 for p in model[0].parameters())


def test_arguments(pair: list[Tensor]) -> None:
    for norm in (0, -1, math.nan):
        with pytest.raises(ArgumentError, match=r"max_norm must be a number in \(0, inf\]"):
            optim.clip_grad_norm(pair, norm)
    with pytest.raises(ArgumentError, match=r"limit must be a number in \(0, inf\)"):
        optim.clip_grad_value(pair, 0)
    with pytest.raises(ArgumentError, match=r"no gradients: call loss\.backward\(\)"):
        optim.clip_grad_norm(nn.Linear(1, 1), 1.0)
