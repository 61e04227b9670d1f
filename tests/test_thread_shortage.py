"""A system that refuses to start threads (``ulimit -u``, a pids limit): fewer threads."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import tinynn
from tinynn import functional as F
from tinynn import nn, optim
from tinynn.backend.cpu import threads
from tinynn.data import ArrayDataset, DataLoader, ImageFolder
from tinynn.training import Checkpoints, fit, predict

IMAGES = np.random.default_rng(0).random((40, 24, 24, 3), dtype=np.float32)
LABELS = np.arange(40) % 2


def network() -> nn.Sequential:
    tinynn.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(22 * 22 * 16, 2))


def load(folder: Path) -> Any:
    loader = DataLoader(ArrayDataset(IMAGES, LABELS), 8, shuffle=True, seed=1)
    return np.concatenate([labels.numpy() for _ in range(2) for _, labels in loader])


def decode(folder: Path) -> Any:
    for number in range(20):
        path = folder / "photos" / str(number % 2) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), number).save(path)
    return ImageFolder(folder / "photos", size=8, gray=True)[np.arange(20)][0]


def train(folder: Path) -> Any:
    model, loader = network(), DataLoader(ArrayDataset(IMAGES, LABELS), 8)
    with Checkpoints(folder / "checkpoints", every=0, watch_spot=True) as checkpoints:
        optimizer = optim.SGD(model, 0.01)
        fit(model, loader, optimizer, F.cross_entropy, epochs=2, checkpoints=checkpoints)
    return model[0].weight.numpy()


USES: dict[str, Callable[[Path], Any]] = {
    "kernels": lambda folder: network()(tinynn.tensor(IMAGES)).numpy(),
    "predict": lambda folder: predict(network(), IMAGES),
    "DataLoader": load,
    "ImageFolder": decode,
    "fit with Checkpoints": train,
}


@pytest.fixture
def shortage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """A function that allows so many more threads."""
    start, left = threading.Thread.start, [10**9]

    def limited(thread: threading.Thread) -> None:
        if left[0] <= 0:
            raise RuntimeError("can't start new thread")
        left[0] -= 1
        start(thread)

    def allow(more: int) -> None:
        monkeypatch.setattr(threads, "_pool", threads._Pool())
        threads._pool.chosen = 4
        monkeypatch.setattr(threading.Thread, "start", limited)
        left[0] = more

    yield allow
    left[0] = 10**9


@pytest.mark.parametrize("allowed", [0, 1, 2])
@pytest.mark.parametrize("name", USES)
def test_everything_works_with_fewer_threads(
    name: str,
    allowed: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    shortage: Callable[[int], None],
) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:9")
    (tmp_path / "usual").mkdir()
    right = USES[name](tmp_path / "usual")
    shortage(allowed)
    np.testing.assert_array_equal(USES[name](tmp_path), right)
