"""``fit``, ``evaluate`` and ``predict``."""

from collections.abc import Iterator

import numpy as np
import pytest

import tinynn
from tinynn import functional as F
from tinynn import nn, optim
from tinynn.autograd import Tensor
from tinynn.data import ArrayDataset, DataLoader
from tinynn.errors import ArgumentError, TinynnError
from tinynn.training import evaluate, fit, predict

Batches = list[tuple[Tensor, Tensor]]


@pytest.fixture
def batches() -> Batches:
    """Points on both sides of a line, in two batches of different sizes."""
    points = np.random.default_rng(0).normal(size=(30, 2)).astype(np.float32)
    labels = (points[:, 0] > points[:, 1]).astype(np.int64)
    return [
        (tinynn.tensor(points[part]), tinynn.tensor(labels[part]))
        for part in (slice(0, 20), slice(20, 30))
    ]


@pytest.fixture
def model() -> nn.Sequential:
    tinynn.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 2))


def test_fit_learns_and_returns_the_history(model: nn.Sequential, batches: Batches) -> None:
    optimizer = optim.SGD(model, 0.5)
    history = fit(
        model, batches, optimizer, F.cross_entropy, epochs=30, validation=batches, description=None
    )
    assert len(history.training) == len(history.validation) == 30
    assert history.training[-1].loss < history.training[0].loss
    assert history.validation[-1].accuracy > 0.9


def test_fit_equals_a_hand_written_loop(batches: Batches) -> None:
    def linear() -> nn.Module:
        tinynn.manual_seed(1)
        return nn.Linear(2, 2)

    fitted, own = linear(), linear()
    fit(fitted, batches, optim.SGD(fitted, 0.1), F.cross_entropy, epochs=2, description=None)
    optimizer = optim.SGD(own, 0.1)
    for _ in range(2):
        for images, labels in batches:
            optimizer.zero_grad()
            F.cross_entropy(own(images), labels).backward()
            optimizer.step()
    for one, other in zip(fitted.parameters(), own.parameters(), strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())


def test_without_validation_there_are_no_validation_metrics(
    model: nn.Sequential, batches: Batches
) -> None:
    history = fit(
        model, batches, optim.SGD(model, 0.1), F.cross_entropy, epochs=1, description=None
    )
    assert history.validation == []


def test_a_mean_over_batches_weights_examples_equally(
    model: nn.Sequential, batches: Batches
) -> None:
    images = tinynn.tensor(np.concatenate([batch.numpy() for batch, _ in batches]))
    labels = tinynn.tensor(np.concatenate([label.numpy() for _, label in batches]))
    together = evaluate(model, [(images, labels)], F.cross_entropy)
    apart = evaluate(model, batches, F.cross_entropy)
    assert apart.loss == pytest.approx(together.loss, rel=1e-5)
    assert apart.accuracy == pytest.approx(together.accuracy)


@pytest.mark.parametrize("training", [True, False])
def test_every_module_keeps_the_mode_it_had(
    model: nn.Sequential, batches: Batches, training: bool
) -> None:
    model.train(training)
    frozen = model[2]
    frozen.eval()
    evaluate(model, batches, F.cross_entropy)
    fit(model, batches, optim.SGD(model, 0.1), F.cross_entropy, epochs=1, description=None)
    predict(model, np.zeros((1, 2), dtype=np.float32))
    assert model.training is training
    assert frozen.training is False


def test_evaluation_sees_no_dropout_and_changes_nothing(batches: Batches) -> None:
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(0.5))
    before = {name: np.array(value) for name, value in model.state_dict().items()}
    first = evaluate(model, batches, F.cross_entropy)
    assert evaluate(model, batches, F.cross_entropy) == first
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(np.array(value), before[name])
    assert all(parameter.grad is None for parameter in model.parameters())


def test_predict_does_not_depend_on_the_batch_size() -> None:
    tinynn.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2 * 2 * 2, 3))
    images = np.random.default_rng(0).integers(0, 256, (7, 4, 4, 1)).astype(np.uint8)
    expected = model(tinynn.tensor(images.astype(np.float32) / 255)).numpy()
    for batch_size in (1, 3, 100):
        np.testing.assert_allclose(
            predict(model, images, batch_size), expected, rtol=1e-5, atol=1e-6
        )


def test_the_classes_of_single_logits_are_counted_too(batches: Batches) -> None:
    model = nn.Linear(2, 1)

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(
            logits.reshape(len(labels)), labels.astype(np.float32)
        )

    history = fit(model, batches, optim.SGD(model, 0.5), loss, epochs=20, description=None)
    assert history.training[-1].accuracy > 0.8


def test_a_diverged_training_stops_with_advice(model: nn.Sequential, batches: Batches) -> None:
    def broken(logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels) * float("nan")

    with pytest.raises(TinynnError, match=r"the loss is nan.*smaller learning rate"):
        fit(model, batches, optim.SGD(model, 0.1), broken, epochs=1, description=None)


def test_an_empty_loader_is_an_error(model: nn.Sequential) -> None:
    with pytest.raises(ArgumentError, match="loader is empty"):
        fit(model, [], optim.SGD(model, 0.1), F.cross_entropy, epochs=1, description=None)


def test_the_loader_of_the_library_fits(model: nn.Sequential) -> None:
    data = ArrayDataset(np.zeros((8, 2), dtype=np.float32), np.arange(8) % 2)
    loader = DataLoader(data, batch_size=4, shuffle=True)
    fit(model, loader, optim.SGD(model, 0.1), F.cross_entropy, epochs=3, description=None)
    assert loader.epoch == 3


def test_away_from_a_terminal_progress_is_a_line_for_each_tenth(
    model: nn.Sequential, batches: Batches, capsys: pytest.CaptureFixture[str]
) -> None:
    optimizer = optim.SGD(model, 0.1)
    fit(model, batches, optimizer, F.cross_entropy, epochs=20, description="points")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10
    assert lines[-1].startswith("points: epoch 20/20, loss ")


def test_without_a_description_nothing_is_shown(
    model: nn.Sequential, batches: Batches, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(model, batches, optim.SGD(model, 0.1), F.cross_entropy, epochs=1, description=None)
    assert capsys.readouterr().err == ""


def test_an_interrupted_training_leaves_the_mode_as_it_was(model: nn.Sequential) -> None:
    class Interrupted:
        def __len__(self) -> int:
            return 1

        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            raise KeyboardInterrupt

    model.eval()
    with pytest.raises(KeyboardInterrupt):
        fit(
            model, Interrupted(), optim.SGD(model, 0.1), F.cross_entropy, epochs=1, description=None
        )
    assert model.training is False


def test_predict_needs_no_parameters() -> None:
    images = np.full((3, 2, 2, 1), 255, dtype=np.uint8)
    np.testing.assert_array_equal(predict(nn.Flatten(), images), np.ones((3, 4)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"checkpoints": "run"}, r"checkpoints must be Checkpoints\(\"folder\"\), got 'run'"),
        ({"callbacks": print}, "callbacks must be a sequence of functions, got <built-in"),
        ({"callbacks": ["print"]}, r"callbacks must be a sequence of functions, got \('print',\)"),
    ],
)
def test_fit_names_arguments_of_a_wrong_type(
    options: dict[str, object], message: str, model: nn.Sequential, batches: Batches
) -> None:
    with pytest.raises(ArgumentError, match=message):
        fit(model, batches, optim.SGD(model, 0.1), F.cross_entropy, epochs=1, **options)
