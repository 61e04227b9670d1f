"""Labels out of range raise an error: at once on a CPU, with the next synchronization on a GPU."""

from collections.abc import Callable

import numpy as np
import pytest

import tinynn
from tinynn import functional as F
from tinynn.data import ArrayDataset, DataLoader
from tinynn.errors import InvalidIndexError, LabelError

Loss = Callable[[tinynn.Tensor, tinynn.Tensor], tinynn.Tensor]
LOSSES: dict[str, Loss] = {
    "fused": F.cross_entropy,
    "smoothed": lambda x, y: F.cross_entropy(x, y, label_smoothing=0.1),
    "ignoring": lambda x, y: F.cross_entropy(x, y, ignore_index=5),
    "sum": lambda x, y: F.cross_entropy(x, y, reduction="sum"),
    "nll": F.nll_loss,
}


def batch(device: str, labels: list[int], dtype: str = "int64") -> tuple[tinynn.Tensor, ...]:
    logits = tinynn.zeros((len(labels), 3), device=device, requires_grad=True)
    return logits, tinynn.tensor(np.array(labels, dtype), device=device)


@pytest.mark.parametrize("wrong", [3, -1, 2**31 - 1, -(2**31)])
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
def test_the_first_one_is_named(loss: Loss, wrong: int, device: str) -> None:
    logits, labels = batch(device, [0, 1, wrong, 2, wrong])
    with pytest.raises(
        LabelError, match=f"from 0 to 2 for 3 classes, got {wrong} at position 2 of"
    ):
        loss(logits, labels).item()
    logits, labels = batch(device, [0, 1, 2])
    assert np.isfinite(loss(logits, labels).item())  # it is raised once


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "int64"])
def test_labels_of_any_integer_dtype(dtype: str, device: str) -> None:
    logits, labels = batch(device, [0, 2, 1], dtype)
    assert F.cross_entropy(logits, labels).item() == pytest.approx(np.log(3))
    logits, labels = batch(device, [0, 7, 1], dtype)
    with pytest.raises(LabelError, match="got 7 at position 1"):
        F.cross_entropy(logits, labels).item()


def test_a_batch_of_a_loader_is_named(device: str) -> None:
    data = ArrayDataset(np.zeros((10, 2, 2, 1), np.float32), np.array([0, 1] * 5))
    data.labels[7] = 9
    loader = DataLoader(data, 3, device=device)
    losses = []

    def epoch() -> None:
        for images, labels in loader:
            losses.append(F.cross_entropy(images.reshape(-1, 4)[:, :2], labels))
        losses[-1].item()

    with pytest.raises(LabelError, match="got 9 at position 1 of batch 2 of epoch 0"):
        epoch()
    assert len(losses) == (2 if device == "cpu" else 4)


def test_many_checks_without_synchronization(device: str) -> None:
    """With more checks than can be pending the library synchronizes and loses none."""
    logits, labels = batch(device, [0, 1])
    bad = batch(device, [0, 4])[1]

    def check() -> None:
        F.cross_entropy(logits, bad)
        for _ in range(5000):
            logits.backend.check_labels(labels.data, 3, None)
        logits.numpy()

    with pytest.raises(LabelError, match="got 4"):
        check()


def test_the_gradient_of_a_wrong_label_reads_nothing_outside(device: str) -> None:
    if device == "cpu":
        pytest.skip("on a CPU the loss is an error already")
    logits, labels = batch(device, [0, 10**6])
    loss = F.cross_entropy(logits, labels)
    loss.backward()
    with pytest.raises(LabelError):
        loss.item()
    assert logits.grad is not None
    assert np.isfinite(logits.grad.numpy()).all()


@pytest.mark.parametrize(
    ("key", "text"),
    [
        (([0, 3],), "index 3 .* 3"),
        (([-4],), "index -4 .* 3"),
        ((Ellipsis, [4]), "index 4 .* 4"),
        ((None, slice(None), np.array([[0], [9]], np.uint8)), "index 9 .* 4"),
        (([True, False, True], [0, 7]), "index 7 .* 4"),
    ],
)
def test_index_out_of_range(key: tuple[object, ...], text: str, device: str) -> None:
    x = tinynn.zeros((3, 4), device=device)
    with pytest.raises(InvalidIndexError, match=text):
        x[key].numpy()

    def assign() -> None:
        x[key] = 1
        x.numpy()

    with pytest.raises(InvalidIndexError, match=text):
        assign()
    x[[-3, 2], [-4, 3]] = 1
    assert x[[0, 2], [0, -1]].tolist() == [1, 1]
