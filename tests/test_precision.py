"""autocast, loss scaling, TF32."""

from typing import Any

import numpy as np
import pytest

import tinynn
from tinynn import functional as F
from tinynn import nn, optim
from tinynn.errors import ArgumentError, GradientError

rng = np.random.default_rng(2)


def network(device: str) -> nn.Sequential:
    tinynn.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Flatten(), nn.Linear(8 * 16, 3),
    ).to(device)  # fmt: skip


def data(device: str) -> tuple[tinynn.Tensor, tinynn.Tensor]:
    images = rng.random((12, 8, 8, 3)).astype(np.float32)
    labels = np.arange(12) % 3
    images[np.arange(12), labels] += 2.0
    return tinynn.tensor(images, device=device), tinynn.tensor(labels, device=device)


class TestAutocast:
    def test_products_are_float16_and_parameters_stay(self, device: str) -> None:
        model, (images, labels) = network(device), data(device)
        with tinynn.autocast():
            logits = model(images)
            loss = F.cross_entropy(logits, labels)
        assert logits.dtype == np.float16
        assert loss.dtype == np.float32
        loss.backward()
        for parameter in model.parameters():
            assert parameter.dtype == np.float32
            assert parameter.grad is not None
            assert parameter.grad.dtype == np.float32

    def test_gradients_are_those_of_float32_to_rounding(self, device: str) -> None:
        images, labels = data(device)
        grads = []
        for enabled in (True, False):
            model = network(device)
            with tinynn.autocast(enabled=enabled):
                loss = F.cross_entropy(model(images), labels)
            loss.backward()
            grads.append([p.grad.numpy() for p in model.parameters() if p.grad is not None])
        half, full = (np.concatenate([g.ravel() for g in one]) for one in grads)
        assert np.linalg.norm(half - full) < 0.03 * np.linalg.norm(full)

    def test_residual_sums_are_float32(self, device: str) -> None:
        x = tinynn.ones((2, 3), device=device)
        with tinynn.autocast():
            y = F.linear(x, tinynn.ones((3, 3), device=device))
            assert y.dtype == np.float16
            assert (x + y).dtype == np.float32
            assert F.layer_norm(y).dtype == np.float32
            with tinynn.autocast(enabled=False):
                assert F.linear(x, tinynn.ones((3, 3), device=device)).dtype == np.float32
        with pytest.raises(tinynn.errors.DtypeError):
            F.add(x, y)

    def test_normalization_by_float16_parameters_is_float32(self, device: str) -> None:
        x, half = (tinynn.ones((2, 4), dtype, device) for dtype in ("float32", "float16"))
        with tinynn.autocast():
            assert F.layer_norm(x, 1, half[0], half[0]).dtype == np.float32
            assert F.group_norm(half, 2, half[0], half[0]).dtype == np.float32

    def test_other_dtypes_are_errors(self) -> None:
        with pytest.raises(ArgumentError, match="float16"), tinynn.autocast("float8"):
            pass


@pytest.mark.filterwarnings("ignore:overflow encountered")  # intended
class TestLossScaler:
    def test_it_trains(self, device: str) -> None:
        model, (images, labels) = network(device), data(device)
        optimizer, scaler = optim.SGD(model, 0.05, momentum=0.9), optim.LossScaler()
        losses = []
        for _ in range(20):
            optimizer.zero_grad()
            with tinynn.autocast():
                loss = F.cross_entropy(model(images), labels)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            losses.append(loss.item())
        assert losses[-1] < 0.3 * losses[0]

    def test_without_overflow_it_is_the_plain_step(self, device: str) -> None:
        weights = []
        for scaled in (True, False):
            model, (images, labels) = network(device), data(device)
            images = tinynn.tensor(np.ones((12, 8, 8, 3), np.float32), device=device)
            optimizer, scaler = optim.Adam(model, 0.01), optim.LossScaler(2.0**8)
            for _ in range(3):
                optimizer.zero_grad()
                loss = F.cross_entropy(model(images), labels)
                (scaler.scale(loss) if scaled else loss).backward()
                if scaled:
                    scaler.step(optimizer)
                else:
                    optimizer.step()
            weights.append([parameter.numpy() for parameter in model.parameters()])
        for one, other in zip(*weights, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)

    @pytest.mark.parametrize("make", [
        lambda p: optim.SGD(p, 0.1, momentum=0.9), lambda p: optim.Adam(p, 0.1),
        lambda p: optim.RMSprop(p, 0.1, momentum=0.9),
    ])  # fmt: skip
    def test_an_overflow_changes_the_scale_and_nothing_else(self, make: Any, device: str) -> None:
        weight = tinynn.tensor([1.0, 2.0], device=device, requires_grad=True)
        other = tinynn.tensor([3.0], device=device, requires_grad=True)
        optimizer, scaler = make([weight, other]), optim.LossScaler(8.0, growth_interval=2)
        scales = []
        for factor in (1.0, 1e38, 1.0, 1.0, 1.0):
            optimizer.zero_grad()
            before = weight.numpy().copy(), other.numpy().copy()
            scaler.scale((weight * factor).sum() + other.sum()).backward()
            scaler.step(optimizer)
            moved = bool(np.any(weight.numpy() != before[0])), bool(other.item() != before[1][0])
            assert moved == ((False, False) if factor > 1 else (True, True))
            scales.append(scaler.state_dict()["scale"])
        assert scales == [8.0, 4.0, 4.0, 8.0, 8.0]

    def test_two_optimizers_may_step_for_one_loss(self, device: str) -> None:
        first = tinynn.tensor([1.0], device=device, requires_grad=True)
        second = tinynn.tensor([1.0], device=device, requires_grad=True)
        scaler = optim.LossScaler(8.0, growth_interval=1)  # the first step doubles the scale
        scaler.scale((first + second).sum()).backward()
        for parameter in (first, second):
            scaler.step(optim.SGD([parameter], 0.5))
        assert first.item() == second.item() == 0.5

    def test_gradients_are_clipped_without_their_scale(self, device: str) -> None:
        weight = tinynn.tensor([3.0, 4.0], device=device, requires_grad=True)
        optimizer, scaler = optim.SGD([weight], 1.0), optim.LossScaler(2.0**10)
        scaler.scale((weight * weight).sum() * 0.5).backward()  # the gradient is the weight
        scaler.step(optimizer, max_norm=1.0)
        np.testing.assert_allclose(weight.numpy(), [2.4, 3.2], rtol=1e-5)
        with pytest.raises(GradientError, match="called twice"):
            scaler.step(optimizer)

    def test_the_scale_stays_finite(self, device: str) -> None:
        weight = tinynn.tensor([1.0], device=device, requires_grad=True)
        scaler = optim.LossScaler(2.0**40, growth_interval=1)
        optimizer = optim.SGD([weight], 0.5)
        for _ in range(2):
            optimizer.zero_grad()
            scaler.scale(weight.sum()).backward()
            scaler.step(optimizer)
        assert scaler.state_dict()["scale"] == 2.0**40
        assert weight.item() == 0.0

    def test_its_state_is_restored(self, device: str) -> None:
        scaler, again = optim.LossScaler(4.0), optim.LossScaler()
        scaler.scale(tinynn.ones((), device=device))
        again.load_state_dict(scaler.state_dict())
        assert again.scale(tinynn.ones((), device=device)).item() == 4.0
        for wrong in ({"scale": 1.0}, {"scale": 0.0, "good": 0}, {"scale": 1.0, "good": -5}):
            with pytest.raises(tinynn.errors.FileFormatError):
                again.load_state_dict(wrong)

    def test_misuse_is_an_error(self) -> None:
        with pytest.raises(ArgumentError):
            optim.LossScaler(0.0)
        parameter = tinynn.ones(2, requires_grad=True)
        with pytest.raises(GradientError, match="backward"):
            optim.LossScaler().step(optim.SGD([parameter], 0.1))

    def test_it_does_not_synchronize(self, device: str) -> None:
        if device == "cpu":
            pytest.skip("needs pytest --device cuda")
        cpucuda = pytest.importorskip("cpucuda", reason="only an emulated device counts")
        model, (images, labels) = network(device), data(device)
        optimizer, scaler = optim.SGD(model, 0.05, momentum=0.9), optim.LossScaler()

        def step() -> None:
            optimizer.zero_grad()
            with tinynn.autocast():
                loss = F.cross_entropy(model(images), labels)
            scaler.scale(loss).backward()
            scaler.step(optimizer)

        step()
        with cpucuda.count() as counts:
            step()
        names = ("h2d_copies", "d2h_copies", "stream_syncs", "device_syncs", "event_syncs")
        assert [counts[name] for name in names] == [0] * 5


class TestMatmulPrecision:
    def test_it_is_remembered_and_checked(self) -> None:
        assert tinynn.get_matmul_precision() == "float32"
        tinynn.set_matmul_precision("tf32")
        assert tinynn.get_matmul_precision() == "tf32"
        tinynn.set_matmul_precision("float32")
        with pytest.raises(ArgumentError, match="tf32"):
            tinynn.set_matmul_precision("bfloat16")

    def test_it_reaches_cupy(self, device: str) -> None:
        if device == "cpu":
            pytest.skip("needs pytest --device cuda")
        from cupy._core import _routines_linalg as linalg

        tinynn.set_matmul_precision("tf32")
        assert linalg.get_compute_type("f") == linalg.COMPUTE_TYPE_TF32
        tinynn.set_matmul_precision("float32")
        assert linalg.get_compute_type("f") == linalg.COMPUTE_TYPE_DEFAULT
