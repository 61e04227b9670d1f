"""Targets of any shape and dtype: training, evaluation, metrics, logs, curves, micro-batches."""

import copy
import csv
import math
import pickle
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinynn
from tinynn import functional as F
from tinynn import nn, optim
from tinynn.autograd import Tensor
from tinynn.data import ArrayDataset, DataLoader
from tinynn.errors import (
    ArgumentError,
    DtypeError,
    FileFormatError,
    Interrupted,
    ShapeError,
    TinynnError,
)
from tinynn.training import (
    Checkpoints,
    History,
    MetricAccumulator,
    TrainingState,
    evaluate,
    find_learning_rate,
    fit,
    log_csv,
    log_json_lines,
    plot_history,
    predict,
)

N = 12
RNG = np.random.default_rng(0)
IMAGES = RNG.random((N, 4, 4, 1), dtype=np.float32)
CLASSES = RNG.integers(0, 3, N)
PARTLY = np.where(np.arange(N) % 4 == 1, -100, CLASSES)  # a part of the labels is ignored
PARTLY[:5] = -100  # and all of a micro-batch
PIXELS = RNG.integers(0, 3, (N, 4, 4))
SEVERAL = RNG.integers(0, 2, (N, 3))
SHARES = RNG.dirichlet(np.ones(3), N)
WEIGHT = np.array([1.0, 9.0, 0.3])


def vector(outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, outputs))


def dense(outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, outputs, 3, padding="same"))


def flat(outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 1), nn.Flatten(0))


Loss = Callable[[Tensor, Tensor], Tensor]
Model = Callable[[int], nn.Sequential]
# name: model, its outputs, targets, loss function, whether there is an accuracy
TARGETS: dict[str, tuple[Model, int, Any, Loss, bool]] = {
    "classes": (vector, 3, CLASSES, F.cross_entropy, True),
    "uint8 classes": (vector, 3, CLASSES.astype(np.uint8), F.cross_entropy, True),
    "big-endian classes": (vector, 3, CLASSES.astype(">i4"), F.cross_entropy, True),
    "ignored": (vector, 3, PARTLY, partial(F.cross_entropy, ignore_index=-100), True),
    "pixels": (dense, 3, PIXELS, F.cross_entropy, True),
    "ignored pixels": (
        dense, 3, np.where(PIXELS == 2, 255, PIXELS).astype(np.uint8),
        partial(F.cross_entropy, ignore_index=255), True,
    ),
    "probabilities": (vector, 3, SHARES, F.cross_entropy, False),
    "binary": (
        vector, 1, SEVERAL[:, 0],
        lambda x, t: F.binary_cross_entropy_with_logits(x.reshape(-1), t), True,
    ),
    "binary column": (vector, 1, SEVERAL[:, :1], F.binary_cross_entropy_with_logits, True),
    "bool": (flat, 1, SEVERAL[:, 0] > 0, F.binary_cross_entropy_with_logits, True),
    "mask": (dense, 1, PIXELS[..., None] > 1, F.binary_cross_entropy_with_logits, True),
    "several labels": (vector, 3, SEVERAL, F.binary_cross_entropy_with_logits, False),
    "several bools": (vector, 3, SEVERAL > 0, F.sigmoid_focal_loss, False),
    "several floats": (vector, 3, SEVERAL.astype(float), F.sigmoid_focal_loss, False),
    "values": (flat, 1, RNG.normal(size=N), F.mse_loss, False),
    "float16 column": (vector, 1, RNG.normal(size=(N, 1)).astype("f2"), F.l1_loss, False),
    "landmarks": (vector, 4, RNG.random((N, 4)), F.huber_loss, False),
    "ages": (flat, 1, np.arange(N) * 5, F.huber_loss, False),
    "age column": (vector, 1, np.arange(N)[:, None], F.mse_loss, False),
    "counts": (vector, 3, np.arange(3 * N).reshape(N, 3), F.l1_loss, False),
    "images": (dense, 1, IMAGES[:, ::-1], F.mse_loss, False),
}  # fmt: skip
every_target = pytest.mark.parametrize("name", TARGETS)


def start(name: str, device: str = "cpu") -> tuple[nn.Module, DataLoader, Loss]:
    build, outputs, targets, loss, _ = TARGETS[name]
    tinynn.manual_seed(0)
    loader = DataLoader(ArrayDataset(IMAGES, targets), 5, shuffle=True, device=device)
    return build(outputs).to(device), loader, loss


def reference_accuracy(outputs: np.ndarray, targets: np.ndarray) -> float:
    classes = outputs.shape[-1] if outputs.size > targets.size else 1
    outputs, targets = outputs.reshape(-1, classes), targets.reshape(-1)
    predicted = outputs.argmax(1) if classes > 1 else outputs[:, 0] > 0
    counted = (targets >= 0) & (targets < max(2, classes))
    return float((predicted == targets)[counted].mean())


@every_target
def test_the_whole_way(name: str, device: str, tmp_path: Path) -> None:
    model, loader, loss = start(name, device)
    has_accuracy = TARGETS[name][4]
    seen: list[float | None] = []

    def error(outputs: np.ndarray, targets: np.ndarray) -> float:
        seen.append(reference_accuracy(outputs, targets) if has_accuracy else None)
        return float(len(targets))

    history = fit(
        model, loader, optim.SGD(model, 1e-3), loss, epochs=2, validation=loader,
        metrics={"error": error}, keep_best="loss", patience=3, description="fit",
        callbacks=[log_csv(tmp_path / "a.csv"), log_json_lines(tmp_path / "a.jsonl")],
    )  # fmt: skip
    if name != "ignored":  # a batch whose labels are all ignored has a loss of 0
        assert history.training[1].loss < history.training[0].loss
    found = [epoch.accuracy for epoch in history.validation]
    assert found == (pytest.approx(seen) if has_accuracy else [None, None])
    assert history.validation[1].metrics == {"error": N}
    with (tmp_path / "a.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert ("validation_accuracy" in rows[1]) is has_accuracy
    assert float(rows[1]["validation_loss"]) == history.validation[1].loss
    again = History()
    again.load_state_dict(history.state_dict())
    assert again == history
    assert predict(model, IMAGES).shape[0] == N


def test_curves_without_accuracy() -> None:
    model, loader, loss = start("landmarks")
    history = fit(model, loader, optim.SGD(model, 1e-3), loss, epochs=2, description=None)
    (axes,) = plot_history(history).axes
    assert axes.get_ylabel() == "loss"


@every_target
def test_a_resume(name: str, tmp_path: Path) -> None:
    def run(place: Path | None, end: int) -> tuple[History, list[Any]]:
        model, loader, loss = start(name)

        def stop(event: str, state: TrainingState) -> None:
            if event == "step" and state.steps == end:
                signal.raise_signal(signal.SIGTERM)

        history = fit(
            model, loader, optim.Adam(model, optim.step_decay(1e-2, every=2)), loss, epochs=2,
            keep_best="loss", callbacks=[stop], description=None,
            checkpoints=None if place is None else Checkpoints(place),
        )  # fmt: skip
        return history, [p.tolist() for p in model.parameters()]

    with pytest.raises(Interrupted):
        run(tmp_path, 4)
    assert run(tmp_path, 0) == run(None, 0)


def test_a_learning_rate_for_regression() -> None:
    model, loader, loss = start("landmarks")
    found = find_learning_rate(model, loader, optim.SGD(model, 0.1), loss, high=0.1, steps=20)
    assert len(found.rates) == 20


# -- micro-batches ---------------------------------------------------------------------------------


def log_likelihood(outputs: Tensor, labels: Tensor) -> Tensor:
    return F.nll_loss(F.log_softmax(outputs, -1), labels)


def weighted(device: str, **options: Any) -> Loss:
    weight = tinynn.tensor(WEIGHT, "float64", device)
    return lambda x, t: F.cross_entropy(x, t, weight=weight, **options)


# name: model, its outputs, targets, loss function of a device
LOSSES: dict[str, tuple[Model, int, Any, Callable[[str], Loss]]] = {
    **{
        name: (build, outputs, targets, lambda device, loss=loss: loss)
        for name, (build, outputs, targets, loss, _) in TARGETS.items()
    },
    "nll": (vector, 3, CLASSES, lambda device: log_likelihood),
    "smoothing": (
        vector, 3, CLASSES, lambda device: partial(F.cross_entropy, label_smoothing=0.2),
    ),
    "weighted": (vector, 3, CLASSES, weighted),
    "weighted, ignored": (vector, 3, PARTLY, partial(weighted, ignore_index=-100)),
    "weighted, smoothing": (vector, 3, CLASSES, partial(weighted, label_smoothing=0.1)),
    "weighted pixels": (dense, 3, PIXELS, weighted),
    "weighted probabilities": (vector, 3, SHARES, weighted),
    "pos_weight": (
        vector, 3, SEVERAL,
        lambda device: partial(F.binary_cross_entropy_with_logits, pos_weight=7.0),
    ),
    "sum": (vector, 3, CLASSES, lambda device: partial(F.cross_entropy, reduction="sum")),
    "sum of squares": (
        vector, 4, RNG.random((N, 4)), lambda device: partial(F.mse_loss, reduction="sum"),
    ),
    "sum per example": (
        vector, 3, CLASSES, lambda device: lambda x, t: F.cross_entropy(x, t, reduction="sum") / N,
    ),
    "own weights": (
        vector, 3, CLASSES,
        lambda device: lambda x, t: (F.cross_entropy(x, t, reduction="none") * (t + 1)).sum()
        / (t + 1).astype(x.dtype).sum(),
    ),
    "two terms": (
        vector, 3, PARTLY,
        lambda device: lambda x, t: weighted(device, ignore_index=-100)(x, t)
        + F.l1_loss(x, tinynn.zeros_like(x)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("size", [1, 5])
@pytest.mark.parametrize("name", LOSSES)
def test_micro_batches_equal_the_whole_batch(name: str, size: int, device: str) -> None:
    build, outputs, targets, loss = LOSSES[name]
    kinds = {"f": "float64", "b": "bool"}
    labels = np.asarray(targets).astype(kinds.get(np.asarray(targets).dtype.kind, "int64"))
    batch = tinynn.tensor(IMAGES, "float64", device), tinynn.tensor(labels, device=device)

    def train(micro_batch: int | None) -> tuple[History, list[np.ndarray]]:
        tinynn.manual_seed(0)
        model = build(outputs).to(device).astype("float64")
        optimizer = optim.SGD(model, 0.01, momentum=0.9)
        history = fit(
            model, [batch], optimizer, loss(device), epochs=3, micro_batch=micro_batch,
            description=None,
        )  # fmt: skip
        return history, [p.numpy() for p in model.parameters()]

    (whole, expected), (parts, found) = train(None), train(size)
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-13)
    for first, second in zip(whole.training, parts.training, strict=True):
        assert first.loss == pytest.approx(second.loss, rel=1e-10)
        assert first.accuracy == second.accuracy


def test_the_additional_forward_pass_leaves_no_trace(device: str) -> None:
    """A weighted mean with equal weights is the plain mean, with batch norm and dropout, too."""
    equal = tinynn.ones(3, device=device)
    weighted_mean = partial(F.cross_entropy, weight=equal)
    states = []
    for loss in (F.cross_entropy, weighted_mean):
        tinynn.manual_seed(0)
        model = nn.Sequential(
            nn.BatchNorm2d(1), nn.Dropout(0.5), nn.Flatten(), nn.Linear(16, 3)
        ).to(device)
        loader = DataLoader(ArrayDataset(IMAGES, CLASSES), 12, device=device)
        fit(model, loader, optim.SGD(model, 0.1), loss, epochs=3, micro_batch=5, description=None)
        states.append((model.state_dict(), tinynn.random.default_generator.state))
    (one, random), (other, random_too) = states
    assert random == random_too
    for path, tensor in one.items():
        np.testing.assert_allclose(tensor.numpy(), other[path].numpy(), rtol=1e-5, atol=1e-6)


# -- the history -----------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [0, 3, 4, 5])
def test_the_learning_rate_of_the_last_step(end: int, tmp_path: Path) -> None:
    def run() -> History:
        model, loader, loss = start("classes")

        def callback(event: str, state: TrainingState) -> None:
            if event == "step" and state.steps == end:
                signal.raise_signal(signal.SIGTERM)

        return fit(
            model, loader, optim.SGD(model, optim.step_decay(1.0, every=3, factor=0.1)), loss,
            epochs=3, callbacks=[callback], checkpoints=Checkpoints(tmp_path), description=None,
        )  # fmt: skip

    if end:
        with pytest.raises(Interrupted):
            run()
    assert run().learning_rate == pytest.approx([1, 0.1, 0.01])


@pytest.mark.parametrize("changed", [1, 2])
def test_a_learning_rate_that_a_callback_changed_is_resumed(changed: int, tmp_path: Path) -> None:
    def run(rate: float, end: int) -> list[float]:
        model, loader, loss = start("classes")

        def callback(event: str, state: TrainingState) -> None:
            if event == "epoch" and len(state.history.training) == changed:
                state.optimizer.learning_rate = rate / 2
            if event == "step" and state.steps == end:
                signal.raise_signal(signal.SIGTERM)

        return fit(
            model, loader, optim.SGD(model, rate), loss, epochs=4, callbacks=[callback],
            checkpoints=Checkpoints(tmp_path), description=None,
        ).learning_rate  # fmt: skip

    with pytest.raises(Interrupted):
        run(0.5, 3 * changed + 1)
    assert run(0.5, 0) == [0.5] * changed + [0.25] * (4 - changed)


@pytest.mark.parametrize(("first", "second"), [(False, True), (True, False)])
def test_a_validation_may_come_and_go(first: bool, second: bool, tmp_path: Path) -> None:
    def run(epochs: int, validated: bool) -> History:
        model, loader, loss = start("classes")
        return fit(
            model, loader, optim.SGD(model, 0.1), loss, epochs=epochs, keep_best="accuracy",
            validation=loader if validated else None, checkpoints=Checkpoints(tmp_path),
            callbacks=[log_csv(tmp_path / "log.csv")], description="fit",
        )  # fmt: skip

    run(2, first)
    history = run(4, second)
    validated = [epoch for epoch in range(1, 5) if (first if epoch <= 2 else second)]
    assert [row["epoch"] for row in history.rows() if "validation_loss" in row] == validated
    with (tmp_path / "log.csv").open() as file:
        logged = [int(row["epoch"]) for row in csv.DictReader(file) if row["validation_loss"]]
    assert logged == validated
    plot_history(history)


def test_the_best_epoch_is_chosen_among_comparable_ones(tmp_path: Path) -> None:
    """The training loss of the first epochs is below every validation loss."""

    def run(epochs: int, validation: Any) -> list[float]:
        model, loader, loss = start("values")
        fit(
            model, loader, optim.SGD(model, 0.1), loss, epochs=epochs, keep_best="loss",
            validation=validation, checkpoints=Checkpoints(tmp_path), description=None,
        )  # fmt: skip
        return [p.tolist() for p in model.parameters()]

    far = DataLoader(ArrayDataset(IMAGES, np.full(N, 50.0)), 5)
    early = run(2, None)
    assert run(4, far) != early


# -- refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize("epochs", [2.5, -3, True, "3", None, math.nan, math.inf, [1]])
def test_epochs(epochs: Any) -> None:
    model, loader, loss = start("classes")
    with pytest.raises(ArgumentError, match="epochs must be an integer >= 0"):
        fit(model, loader, optim.SGD(model, 0.1), loss, epochs=epochs, description=None)


def test_numpy_integers_are_integers() -> None:
    model, loader, loss = start("classes")
    loader = DataLoader(loader.dataset, np.int64(5), prefetch=np.uint8(1), seed=np.int32(3))
    history = fit(
        model, loader, optim.SGD(model, 0.1), loss, epochs=np.int8(2), micro_batch=np.int64(2),
        patience=np.int16(4), description=None,
    )  # fmt: skip
    assert len(history.training) == 2


@pytest.mark.parametrize("options", [
    {"micro_batch": 0}, {"micro_batch": 2.5}, {"micro_batch": True}, {"micro_batch": "all"},
    {"patience": 0}, {"patience": 1.5}, {"patience": True},
    {"metrics": {"m": len}}, {"metrics": {"loss": len}, "validation": []},
    {"keep_best": "accuracy"},
])  # fmt: skip
def test_arguments_of_fit(options: dict[str, Any]) -> None:
    model, loader, loss = start("landmarks")
    optimizer = optim.SGD(model, 0.1)
    with pytest.raises(ArgumentError):
        fit(model, loader, optimizer, loss, epochs=1, description=None, **options)
    assert optimizer.steps == 0


@pytest.mark.parametrize("rate", [-1.0, math.nan, math.inf, -math.inf, "0.1", True, None])
def test_learning_rates(rate: Any) -> None:
    model, loader, loss = start("classes")
    with pytest.raises(ArgumentError, match="learning rate must be"):
        optim.SGD(model, rate)
    optimizer = optim.SGD(model, 0.1)
    with pytest.raises(ArgumentError, match="learning rate must be"):
        optimizer.learning_rate = rate
    with pytest.raises(ArgumentError, match="learning rate of the schedule at step 0 must be"):
        fit(model, loader, optim.SGD(model, lambda step: rate), loss, epochs=1, description=None)


class Stream:
    """As PyTorch's loader of an iterable dataset: it has the method, but no length."""

    def __iter__(self) -> Iterator[Any]:
        yield from ()

    def __len__(self) -> int:
        raise TypeError("no length")


@pytest.mark.parametrize("loader", [iter([]), [], map(str, []), 3, None, Stream()])
def test_a_loader_can_be_repeated(loader: Any) -> None:
    model, good, loss = start("classes")
    optimizer = optim.SGD(model, 0.1)
    with pytest.raises(ArgumentError, match="loader"):
        fit(model, loader, optimizer, loss, epochs=1, description=None)
    with pytest.raises(ArgumentError, match="loader"):
        find_learning_rate(model, loader, optimizer, loss)
    if loader is not None:
        with pytest.raises(ArgumentError, match="validation"):
            fit(model, good, optimizer, loss, epochs=1, validation=loader, description=None)


@pytest.mark.parametrize("returned", [
    lambda x, t: F.cross_entropy(x, t, reduction="none"), lambda x, t: 0.5, lambda x, t: None,
    lambda x, t: np.ones(()),
])  # fmt: skip
def test_a_loss_is_a_scalar_tensor(returned: Any) -> None:
    model, loader, _ = start("classes")
    with pytest.raises(ShapeError, match="the loss of the batch, a tensor with one element"):
        fit(model, loader, optim.SGD(model, 0.1), returned, epochs=1, description=None)
    with pytest.raises(ShapeError, match="the loss of the batch, a tensor with one element"):
        evaluate(model, loader, returned)


@pytest.mark.parametrize("targets", [
    ["a"] * N, [b"a"] * N, [None] * N, np.ones(N, complex), np.zeros(N, "M8[s]"),
    np.zeros(N, [("x", "f4")]),
])  # fmt: skip
def test_targets_are_numbers(targets: Any) -> None:
    with pytest.raises(DtypeError, match="expected numbers as targets"):
        ArrayDataset(IMAGES, targets)


def test_a_model_with_several_outputs() -> None:
    class Heads(nn.Module):
        def __init__(self) -> None:
            self.one, self.two = nn.Linear(16, 3), nn.Linear(16, 1)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            x = x.reshape(len(x), -1)
            return self.one(x), self.two(x)

    def loss(outputs: Any, labels: Tensor) -> Tensor:
        return F.cross_entropy(outputs[0], labels) + F.l1_loss(outputs[1][:, 0], labels)

    _, loader, _ = start("classes")
    model = Heads()
    history = fit(
        model, loader, optim.SGD(model, 0.01), loss, epochs=3, validation=loader, description=None
    )
    assert history.validation[-1].loss < history.validation[0].loss
    assert history.validation[-1].accuracy is None
    with pytest.raises(ArgumentError, match="expects a model that returns a tensor, got a tuple"):
        fit(model, loader, optim.SGD(model, 0.01), loss, epochs=1, micro_batch=2, description=None)


def run_with(**options: Any) -> Any:
    model, loader, loss = start("classes")
    given = {"model": model, "loader": loader, "loss": loss, **options}
    optimizer = given.pop("optimizer", optim.SGD(model, 0.1))
    model, loader, loss = (given.pop(name) for name in ("model", "loader", "loss"))
    return fit(model, loader, optimizer, loss, epochs=1, description=None, **given)


def loading(returned: Any, **options: Any) -> Any:
    class Data:
        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: Any) -> Any:
            return returned(index)

    return next(iter(DataLoader(Data(), 4, **options)))


FOUR = np.zeros((4, 2), np.float32)
BATCH = tinynn.tensor(IMAGES), tinynn.tensor(CLASSES)
VALID = {"validation": [BATCH]}
WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "three in a batch": (lambda: run_with(loader=[(*BATCH, 1)]), r"batches \(images, labels\)"),
    "only images": (lambda: run_with(loader=[BATCH[0]]), r"batches \(images, labels\)"),
    "labels no tensor": (lambda: run_with(loader=[(BATCH[0], CLASSES)]), "got a numpy.ndarray"),
    "lengths": (
        lambda: run_with(loader=[(BATCH[0], BATCH[1][:5])], micro_batch=2),
        "12 images but 5 labels",
    ),
    "metrics in a list": (lambda: run_with(metrics=[len], **VALID), "functions by name"),
    "metric by number": (lambda: run_with(metrics={1: len}, **VALID), "functions by name"),
    "no function": (lambda: run_with(metrics={"a": 1}, **VALID), "functions by name"),
    "metric of none": (
        lambda: run_with(metrics={"a": lambda x, y: None}, **VALID), "'a' must return a number",
    ),
    "metric of three": (
        lambda: run_with(metrics={"a": lambda x, y: np.ones(3)}, **VALID), "'a' must return a numb",
    ),
    "best of nothing": (lambda: run_with(keep_best=3), "keep_best must be"),
    "a callback": (lambda: run_with(callbacks=print), "a sequence of functions"),
    "callbacks": (lambda: run_with(callbacks=[3]), "a sequence of functions"),
    "no loss": (lambda: run_with(loss=None), "loss function must be a function"),
    "no model": (lambda: run_with(model=None), "expected a module and an optimizer, got NoneType"),
    "no optimizer": (lambda: run_with(optimizer=None), "expected a module and an optimizer"),
    "another's optimizer": (
        lambda: run_with(optimizer=optim.SGD(vector(3), 0.1)), "has no parameter of this model",
    ),
    "ragged labels": (lambda: ArrayDataset(FOUR, [[1], [1, 2]] * 2), "do not form an array"),
    "beyond float32": (lambda: loading(lambda i: (FOUR, np.full(4, -1e300))), "exceed float32"),
    "beyond int64": (
        lambda: ArrayDataset(FOUR, np.full(4, 2**63 + 1, np.uint64)), "exceed int64",
    ),
    "list of pairs": (lambda: DataLoader([(FOUR[0], 1)], 1), "ArrayDataset"),
    "one array": (lambda: loading(lambda i: FOUR), r"expected \(images, labels\)"),
    "nothing": (lambda: loading(lambda i: None), r"expected \(images, labels\)"),
    "names": (lambda: loading(lambda i: (FOUR, ["a"] * 4)), "expected numbers as targets"),
    "too few": (lambda: loading(lambda i: (FOUR, [1])), "expected 4 images and 4 labels"),
    "stopped": (lambda: loading(lambda i: next(iter(()))), "ended early"),
    "augmented away": (
        lambda: loading(lambda i: (FOUR, [1] * 4), augment=lambda x, rng: None), "4 float32 images",
    ),
    "device": (lambda: loading(None, device="tpu"), "'tpu'"),
    "seed": (lambda: loading(None, seed=-1), "a seed must be"),
    "epoch": (lambda: setattr(start("classes")[1], "epoch", 1.5), "epoch must be an integer >= 0"),
    "position": (lambda: setattr(start("classes")[1], "position", 9), "from 0 to 3, got 9"),
    "first": (lambda: next(start("classes")[1].batches(0, -1)), "first must be an integer >= 0"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_named(name: str) -> None:
    wrong, message = WRONG[name]
    with pytest.raises(TinynnError, match=message):
        wrong()


def test_a_model_of_two_inputs() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            self.layer = nn.Linear(2, 3)

        def forward(self, x: tuple[Tensor, Tensor]) -> Tensor:
            return self.layer(x[0] + x[1])

    model, ones = Pair(), tinynn.ones((4, 2))
    batches = [((ones, ones), tinynn.tensor([0, 1, 2, 0]))]
    history = fit(
        model, batches, optim.SGD(model, 0.1), F.cross_entropy, epochs=2, validation=batches,
        description=None,
    )  # fmt: skip
    assert history.training[1].loss < history.training[0].loss


def test_a_subclass_may_change_the_batches() -> None:
    class Negative(DataLoader):
        def __iter__(self) -> Any:
            return ((-images, labels) for images, labels in super().__iter__())

    model = vector(3)
    plain, negative = (kind(ArrayDataset(IMAGES, CLASSES), 5) for kind in (DataLoader, Negative))
    by_hand = [(-images, labels) for images, labels in plain]
    assert evaluate(model, negative, F.cross_entropy) == evaluate(model, by_hand, F.cross_entropy)


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))]
)
def test_a_history_can_be_copied(copied: Any) -> None:
    history = run_with(validation=[BATCH], metrics={"a": lambda x, y: 1.0})
    assert copied(history) == history


# -- states ----------------------------------------------------------------------------------------

SAVED: dict[str, Callable[[], Any]] = {
    "SGD": lambda: stepped(optim.SGD),
    "momentum": lambda: stepped(partial(optim.SGD, momentum=0.9)),
    "Adam": lambda: stepped(optim.Adam),
    "AdamW": lambda: stepped(optim.AdamW),
    "RMSprop": lambda: stepped(optim.RMSprop),
    "another model": lambda: stepped(optim.SGD, vector(2)),
    "a deeper model": lambda: stepped(optim.SGD, nn.Sequential(nn.Flatten(), *vector(2))),
    "scaler": optim.LossScaler,
    "loader": lambda: start("classes")[1],
    "smaller loader": lambda: DataLoader(ArrayDataset(IMAGES[:6], CLASSES[:6]), 5, shuffle=True),
    "generator": lambda: tinynn.random.Generator(3),
    "history": lambda: History(learning_rate=[0.1]),
    "meter": MetricAccumulator,
}  # fmt: skip


def stepped(kind: Any, model: Any = None) -> optim.Optimizer:
    model = vector(3) if model is None else model
    optimizer = kind(model, 0.1)
    model(tinynn.tensor(IMAGES)).sum().backward()
    optimizer.step()
    return optimizer


REFUSED = [(own, other) for own in SAVED for other in SAVED if own != other]
ALIKE = {frozenset(["SGD", "momentum"]), frozenset(["another model", "momentum"])}
PLAIN = {"SGD", "another model"}  # without arrays, only paths tell models apart


@pytest.mark.parametrize(("own", "other"), [
    (a, b) for a, b in REFUSED if not {a, b} <= PLAIN
])  # fmt: skip
def test_the_state_of_something_else(own: str, other: str) -> None:
    target, state = SAVED[own](), SAVED[other]().state_dict()
    before = target.state_dict()
    with pytest.raises(FileFormatError):
        target.load_state_dict(state)
    np.testing.assert_equal(target.state_dict(), before)


GARBAGE = ["text", None, -1, math.nan, [1, "a"], {"a": 1}, b"bytes", 2.5, np.ones((2, 2)), [None]]


@pytest.mark.parametrize("name", SAVED)
def test_a_damaged_state(name: str) -> None:
    """Every value is replaced by one of another type; a value of a valid type may be accepted."""
    target = SAVED[name]()
    for state in (None, [], "text", 3, {}, {"x": 1}):
        with pytest.raises(FileFormatError):
            target.load_state_dict(state)
    refused = 0
    for key in target.state_dict():
        for value in GARBAGE:
            try:
                SAVED[name]().load_state_dict({**target.state_dict(), key: value})
            except FileFormatError:
                refused += 1
    assert refused >= 5 * len(target.state_dict())
