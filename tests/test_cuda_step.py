"""A training step of the face CNN on a GPU: its launches, copies and synchronizations, by the
counters of an emulated device; and whether its results equal the CPU's."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinynn
from tinynn import functional as F
from tinynn import nn, optim
from tinynn.autograd import Tensor
from tinynn.data import ArrayDataset, DataLoader
from tinynn.training import evaluate, fit, predict
from tinynn.vision import models

MAX_STEP_LAUNCHES, MAX_INFERENCE_LAUNCHES = 40, 12  # kernels and library calls
SYNCHRONIZATIONS = ("stream_syncs", "device_syncs", "event_syncs")
COPIES = ("h2d_copies", "d2h_copies")


@pytest.fixture
def count(device: str) -> Callable[[], Any]:
    """``cpucuda.count``."""
    if device == "cpu":
        pytest.skip("needs pytest --device cuda")
    cpucuda = pytest.importorskip("cpucuda", reason="only an emulated device counts")
    counter: Callable[[], Any] = cpucuda.count
    return counter


def face_cnn(device: str, dropout: float = 0.0) -> nn.Sequential:
    with tinynn.default_device(device):
        return models.face_cnn(dropout=dropout)


def faces(count: int) -> ArrayDataset:
    """Noise, a little brighter in the middle for class 1."""
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 2
    images = rng.integers(0, 200, (count, 48, 48, 3)).astype(np.uint8)
    images[:, 16:32, 16:32] += (50 * labels).astype(np.uint8)[:, None, None, None]
    return ArrayDataset(images, labels)


def batch_on(device: str, size: int = 4) -> tuple[Tensor, Tensor]:
    return next(iter(DataLoader(faces(size), size, device=device)))


def step(model: nn.Module, optimizer: optim.Optimizer, images: Tensor, labels: Tensor) -> Tensor:
    """One step as a user writes it."""
    optimizer.zero_grad()
    loss = F.cross_entropy(model(images), labels)
    loss.backward()
    optimizer.step()
    return loss


def losses_on(device: str, steps: int) -> list[float]:
    """Losses at a learning rate small enough for rounding errors not to grow.

    At five times the rate float32 on the CPU also differs from float64 by more than 1e-4: it is
    enough that rounding flips the sign of one ReLU's input.
    """
    tinynn.manual_seed(3)
    model = face_cnn(device, dropout=0.25)
    optimizer = optim.SGD(model, learning_rate=0.0002, momentum=0.9)
    loader = DataLoader(faces(8 * steps // 2), 8, shuffle=True, seed=1, device=device)
    losses = [step(model, optimizer, *batch) for _ in range(2) for batch in loader]
    return [float(loss) for loss in losses]


class TestCounts:
    def test_a_training_step(self, device: str, count: Callable[[], Any]) -> None:
        model = face_cnn(device)
        optimizer = optim.SGD(model, learning_rate=0.01, momentum=0.9)
        images, labels = batch_on(device)
        for _ in range(2):  # velocities, compilation
            step(model, optimizer, images, labels)
        with count() as counts:
            step(model, optimizer, images, labels)
        assert [counts[name] for name in (*SYNCHRONIZATIONS, *COPIES)] == [0] * 5
        assert 10 < counts["launches"] <= MAX_STEP_LAUNCHES, counts.kernels

    def test_inference(self, device: str, count: Callable[[], Any]) -> None:
        model = face_cnn(device).eval()
        images, _ = batch_on(device)
        with tinynn.no_grad():
            model(images)
            with count() as counts:
                model(images)
        assert [counts[name] for name in (*SYNCHRONIZATIONS, *COPIES)] == [0] * 5
        assert 3 < counts["launches"] <= MAX_INFERENCE_LAUNCHES, counts.kernels

    def test_an_epoch_of_fit_uploads_its_batches_and_fetches_its_metrics(
        self, device: str, count: Callable[[], Any]
    ) -> None:
        model = face_cnn(device)
        optimizer = optim.SGD(model, learning_rate=0.01, momentum=0.9)

        def epoch_of(batches: int) -> dict[str, int]:
            loader = DataLoader(faces(4 * batches), 4, device=device)
            with count() as counts:
                fit(model, loader, optimizer, F.cross_entropy, epochs=1, description=None)
            return {name: counts[name] for name in (*SYNCHRONIZATIONS, *COPIES, "launches")}

        epoch_of(2)
        short, long = epoch_of(2), epoch_of(6)
        more = {name: long[name] - short[name] for name in long}
        assert more.pop("h2d_copies") == 2 * 4  # images and labels of four more batches
        assert more.pop("launches") <= 4 * (MAX_STEP_LAUNCHES + 1)  # and the metrics
        assert set(more.values()) == {0}
        assert short["d2h_copies"] <= 2  # the metrics, and whether a label was out of range

    def test_evaluation_and_prediction_fetch_once(
        self, device: str, count: Callable[[], Any]
    ) -> None:
        model, data = face_cnn(device), faces(12)
        loader = DataLoader(data, 4, device=device)
        evaluate(model, loader, F.cross_entropy)
        with count() as counts:
            evaluate(model, loader, F.cross_entropy)
        assert counts["d2h_copies"] <= 2
        predict(model, data.images, batch_size=4)
        with count() as counts:
            predict(model, data.images, batch_size=4)
        assert counts["d2h_copies"] == 1


def test_losses_match_the_cpu(device: str) -> None:
    if device == "cpu":
        pytest.skip("needs pytest --device cuda")
    np.testing.assert_allclose(losses_on(device, 50), losses_on("cpu", 50), rtol=1e-4)


def test_the_same_weights_masks_and_order_on_both(device: str) -> None:
    def drawn(place: str) -> list[np.ndarray]:
        tinynn.manual_seed(5)
        model = face_cnn(place)
        mask = F.dropout(tinynn.ones((7, 9), device=place), 0.5, training=True)
        loader = DataLoader(faces(9), 4, shuffle=True, seed=2, device=place)
        return [*(p.numpy() for p in model.parameters()), mask.numpy(), *(
            labels.numpy() for _, labels in loader
        )]  # fmt: skip

    for one, other in zip(drawn(device), drawn("cpu"), strict=True):
        np.testing.assert_array_equal(one, other)


def test_two_runs_are_bit_identical(device: str) -> None:
    assert losses_on(device, 6) == losses_on(device, 6)


TRAINING = """
import sys
import tinynn
from tests.test_cuda_step import F, DataLoader, face_cnn, faces, fit, optim, predict
device, plain_memory = sys.argv[1], sys.argv[2] == "guarded"
if plain_memory:
    import cupy
    cupy.cuda.set_allocator(None)
tinynn.manual_seed(3)
model, data = face_cnn(device, dropout=0.25), faces(10)
loader = DataLoader(data, 4, shuffle=True, seed=1, device=device)
optimizer = optim.SGD(model, learning_rate=0.01, momentum=0.9)
history = fit(model, loader, optimizer, F.cross_entropy, epochs=2, description=None)
print(*(f"{value:.7g}" for metrics in history.training for value in metrics.named().values()))
print(*(f"{value:.5g}" for value in predict(model, data.images, 4).ravel()))
"""


def train_elsewhere(device: str, memory: str = "pool", **settings: str) -> list[float]:
    """Metrics and predictions of a short training run in a process with these settings."""
    finished = subprocess.run(
        [sys.executable, "-c", TRAINING, device, memory],
        env={**os.environ, **settings}, cwd=Path(__file__).parents[1],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    return [float(word) for word in finished.stdout.split()]


@pytest.mark.usefixtures("count")
@pytest.mark.parametrize(
    ("place", "memory", "settings"),
    [
        ("cuda", "pool", {"CPUCUDA_DEFER": "1"}),  # copies arrive at the next synchronization only
        ("cuda", "guarded", {"CPUCUDA_GUARD": "1"}),  # out-of-bounds accesses fail
        ("cuda:1", "pool", {"CPUCUDA_DEVICES": "2"}),  # device 0 is the current one
    ],
)
def test_training_under_stress(place: str, memory: str, settings: dict[str, str]) -> None:
    found = train_elsewhere(place, memory, **settings)
    np.testing.assert_allclose(found, train_elsewhere("cpu"), rtol=1e-4, atol=1e-5)
