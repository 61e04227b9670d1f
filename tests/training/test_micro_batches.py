"""Gradient accumulation over micro-batches: the same gradient in less memory."""

from typing import Any

import numpy as np
import pytest

import tinynn
from tinynn import functional as F
from tinynn import nn, optim
from tinynn.autograd import Tensor
from tinynn.backend import get_backend
from tinynn.data import ArrayDataset, DataLoader
from tinynn.errors import ArgumentError, DeviceMemoryError
from tinynn.training import History, fit, largest_micro_batch

LABELS = np.arange(10) % 3


def network(device: str) -> nn.Sequential:
    tinynn.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.GELU(), nn.Flatten(), nn.Linear(4 * 4 * 4, 3)).to(
        device
    )


def loader(device: str) -> DataLoader:
    images = np.random.default_rng(0).random((10, 6, 6, 1), dtype=np.float32)
    return DataLoader(ArrayDataset(images, LABELS), 7, device=device)


def train(model: nn.Module, batches: DataLoader, micro_batch: object) -> History:
    return fit(
        model, batches, optim.SGD(model, 0.1, momentum=0.9), F.cross_entropy, epochs=3,
        micro_batch=micro_batch, description=None,  # type: ignore[arg-type]
    )  # fmt: skip


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 100])
def test_micro_batches_give_the_step_of_the_batch(size: int, device: str) -> None:
    """In float64, so that a wrong weight of the smaller last micro-batch exceeds rounding."""
    whole, parts = (network(device).astype("float64") for _ in range(2))
    batches = [(images.astype("float64"), labels) for images, labels in loader(device)]
    one, other = train(whole, batches, None), train(parts, batches, size)  # type: ignore[arg-type]
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-10, atol=1e-13)
    for first, second in zip(one.training, other.training, strict=True):
        assert first.loss == pytest.approx(second.loss, rel=1e-10)
        assert first.accuracy == second.accuracy


def test_a_batch_smaller_than_a_micro_batch(device: str) -> None:
    seen: list[int] = []
    model = network(device)
    model[3].register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    train(model, loader(device), 4)
    assert seen == [4, 3, 3] * 3


class Hungry(nn.Module):
    """Raises MemoryError for more than ``room`` examples."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.largest = 0

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > self.room:
            raise MemoryError(f"no memory for {len(x)}")
        self.largest = max(self.largest, len(x) if self.training else 0)
        return x


def hungry(room: int, device: str) -> nn.Sequential:
    tinynn.manual_seed(0)
    return nn.Sequential(
        nn.BatchNorm2d(1), Hungry(room), nn.Flatten(), nn.Dropout(0.5), nn.Linear(36, 3)
    ).to(device)


def test_auto_finds_the_largest_size_and_changes_nothing(device: str) -> None:
    model = hungry(4, device)
    before = {path: np.array(tensor.numpy()) for path, tensor in model.state_dict().items()}
    random = tinynn.random.default_generator.state
    images, labels = next(iter(loader(device)))
    assert largest_micro_batch(model, F.cross_entropy, images, labels) == 4
    assert tinynn.random.default_generator.state == random
    assert all(parameter.grad is None for parameter in model.parameters())
    for path, tensor in model.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), before[path])


def test_fit_with_auto(device: str) -> None:
    model = hungry(2, device)
    train(model, loader(device), "auto")
    assert model[1].largest == 2


def test_the_whole_batch_if_it_fits(device: str) -> None:
    images, labels = next(iter(loader(device)))
    assert largest_micro_batch(network(device), F.cross_entropy, images, labels) == 7


def test_an_estimate_above_the_memory_is_not_even_tried(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU, Linux kills the process instead of refusing the memory."""
    model = network(device)
    images, labels = next(iter(loader(device)))
    size: list[int] = []
    model[0].register_forward_hook(
        lambda module, inputs, output: size.append(len(output)) if module.training else None
    )
    need = tinynn.summary(model, (6, 6, 1)).activation_bytes * 2 * 3
    monkeypatch.setattr(type(get_backend(device)), "available_memory", lambda self: 2 * need)
    assert largest_micro_batch(model, F.cross_entropy, images, labels) in (2, 4)
    assert max(size) <= 4


def test_not_even_one(device: str) -> None:
    with pytest.raises(DeviceMemoryError, match="not even one example fits: no memory for 1"):
        train(hungry(0, device).eval(), loader(device), "auto")


def test_out_of_memory_names_the_size_that_fits(device: str) -> None:
    with pytest.raises(
        MemoryError,
        match=r"no memory for 7(.|\n)*; micro-batches of 4 examples fit: micro_batch=4 gives",
    ):
        train(hungry(4, device), loader(device), None)


@pytest.mark.parametrize("size", [0, -1])
def test_invalid_sizes(size: int, device: str) -> None:
    with pytest.raises(ArgumentError, match="at least 1"):
        train(network(device), loader(device), size)


def test_a_gpu_that_is_full(device: str) -> None:
    """The limit of CuPy's memory pool simulates a small GPU."""
    if device == "cpu":
        pytest.skip("needs pytest --device cuda")
    import cupy

    model = nn.Sequential(nn.Conv2d(1, 64, 3), nn.GELU(), nn.Flatten(), nn.Linear(64 * 900, 3))
    model.to(device)
    data = ArrayDataset(np.zeros((64, 32, 32, 1), np.float32), np.arange(64) % 3)
    pool = cupy.get_default_memory_pool()
    tinynn.memory.free()
    limit = pool.get_limit()
    pool.set_limit(pool.used_bytes() + (20 << 20))
    try:
        with pytest.raises(
            DeviceMemoryError, match=r"(?s)out of memory: .* bytes more.*micro_batch="
        ):
            train(model, DataLoader(data, 64, device=device), None)
        tinynn.memory.free()
        train(model, DataLoader(data, 64, device=device), "auto")
    finally:
        pool.set_limit(limit)


@pytest.mark.parametrize(
    "loss_function",
    [
        lambda a, b: ((a - b) ** 2).sum() * 0.01,
        lambda a, b: ((a - b) ** 2).max(),
        lambda a, b: F.mse_loss(a, b) ** 0.5,
        lambda a, b: 2 * F.mse_loss(a, b) + F.l1_loss(a, b, reduction="sum") * 0.01,
        lambda a, b: F.mse_loss(a[b > 0.3], b[b > 0.3]),
    ],
    ids=["sum", "maximum", "root of a mean", "combination", "selection"],
)
def test_losses_written_by_users(loss_function: Any) -> None:
    rng = np.random.default_rng(0)
    batch = (tinynn.from_numpy(rng.random((8, 3), "f")), tinynn.from_numpy(rng.random((8, 2), "f")))
    weights = []
    for size in (None, 3):
        tinynn.manual_seed(0)
        model = nn.Linear(3, 2)
        optimizer = optim.SGD(model, 0.5)
        options: Any = {"epochs": 2, "micro_batch": size, "description": None}
        fit(model, [batch], optimizer, loss_function, **options)
        weights.append(model.weight.numpy())
    np.testing.assert_allclose(weights[1], weights[0], atol=1e-6)


def test_a_loss_that_leaves_out_labels_of_a_later_micro_batch_only() -> None:
    batch = tinynn.ones((8, 3)), tinynn.tensor([1.0] * 6 + [-1.0] * 2)

    def masked(outputs: Tensor, labels: Tensor) -> Tensor:
        return F.mse_loss(outputs.squeeze(1)[labels > 0], labels[labels > 0])

    model = nn.Linear(3, 1)
    with pytest.raises(ArgumentError, match="in examples 4 to 7 of a batch it left out"):
        fit(model, [batch], optim.SGD(model, 0.5), masked, epochs=1, micro_batch=4)
