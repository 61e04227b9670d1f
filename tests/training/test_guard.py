"""The guard against NaN names the layer, the step and the batch."""

from collections.abc import Callable

import numpy as np
import pytest

import tinynn
from tinynn import functional as F
from tinynn import nn, optim
from tinynn.autograd import Tensor
from tinynn.data import ArrayDataset, DataLoader
from tinynn.errors import NonFiniteError
from tinynn.training import MetricAccumulator, TrainingState, fit

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, of what we provoke

IMAGES = np.random.default_rng(0).random((12, 4, 4, 1), dtype=np.float32)


class Root(nn.Module):
    """Its gradient at 0 is infinite."""

    def forward(self, x: Tensor) -> Tensor:
        return (x * x) ** 0.5


class Explodes(nn.Module):
    """Infinite from its call number ``call`` on."""

    def __init__(self, call: int) -> None:
        self.call, self.calls = call, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += self.training
        return x * (1.0 if self.calls < self.call else float("inf"))


def network(*middle: nn.Module) -> nn.Sequential:
    tinynn.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 4), nn.Dropout(0.2), *middle, nn.Linear(4, 2))


def loader(device: str, images: np.ndarray = IMAGES) -> DataLoader:
    data = ArrayDataset(images, np.arange(12) % 2)
    return DataLoader(data, 4, shuffle=True, device=device)


def train(
    model: nn.Module,
    batches: object,
    loss: Callable[..., Tensor] = F.cross_entropy,
    **options: object,
) -> None:
    optimizer = optim.SGD(model, 0.1, momentum=0.9)
    fit(model, batches, optimizer, loss, epochs=3, description=None, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("micro_batch", [None, 2])
def test_the_layer_and_the_step(device: str, micro_batch: int | None) -> None:
    pieces = 1 if micro_batch is None else 2
    model = network(Explodes(4 * pieces + 1)).to(device)  # in step 5
    with pytest.raises(NonFiniteError) as caught:
        train(model, loader(device), micro_batch=micro_batch)
    assert str(caught.value).startswith(
        "the loss is nan in step 5 (batch 1 of epoch 1): Sequential.3 (Explodes) is the first "
        "layer whose output is not finite, from inputs up to "
    )
    assert "smaller learning rate" in str(caught.value)


def test_the_parameters_stay_those_from_before(device: str) -> None:
    model = network(Explodes(3)).to(device)
    seen: list[np.ndarray] = []

    def keep(event: str, state: TrainingState) -> None:
        if event == "step" and state.steps <= 2:
            seen.append(model[1].weight.numpy().copy())

    with pytest.raises(NonFiniteError, match="in step 3"):
        train(model, loader(device), callbacks=[keep])
    np.testing.assert_array_equal(model[1].weight.numpy(), seen[1])


def test_the_input(device: str) -> None:
    images = IMAGES.copy()
    images[7] = np.inf
    with pytest.raises(NonFiniteError, match=r"in step \d \(.*\): the input is not finite"):
        train(network().to(device), loader(device, images))


def test_the_labels(device: str) -> None:
    targets = np.zeros((12, 2), np.float32)
    targets[7] = np.nan
    batches = DataLoader(ArrayDataset(IMAGES, targets), 4, device=device)
    with pytest.raises(NonFiniteError, match=r"in step 2 \(.*\): the labels are not finite"):
        train(network().to(device), batches, F.mse_loss)


def test_several_inputs(device: str) -> None:
    class First(nn.Module):
        def __init__(self) -> None:
            self.layer = Explodes(1)

        def forward(self, x: tuple[Tensor, Tensor]) -> Tensor:
            return self.layer(x[0]) * x[1]

    ones = tinynn.ones((4, 2), device=device)
    model, labels = nn.Sequential(First(), nn.Linear(2, 2)).to(device), tinynn.tensor([0, 1] * 2)
    batches = [((ones, ones), labels.to(device))]
    with pytest.raises(NonFiniteError, match="the layer is unknown, because the input is a tuple"):
        train(model, batches)


def test_a_gradient(device: str) -> None:
    """The loss is finite, the gradient is not: the step after it shows it."""
    model = network(nn.Linear(4, 4), Root()).to(device)
    model[3].weight.data[...] = 0
    with pytest.raises(
        NonFiniteError,
        match=r"in step 2 .*parameter 3\.bias is not finite: its gradient in the step",
    ):
        train(model, loader(device))


def test_the_loss_itself(device: str) -> None:
    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels) * float("inf")

    with pytest.raises(
        NonFiniteError, match=r"loss is inf in step 1 .*the loss function is to blame"
    ):
        train(network().to(device), loader(device), loss)


def test_in_the_validation(device: str) -> None:
    images = IMAGES.copy()
    images[7] = np.nan
    with pytest.raises(NonFiniteError, match="in the validation after epoch 1: the loss is nan"):
        train(network().to(device), loader(device), validation=loader(device, images))


def test_a_list_of_batches(device: str) -> None:
    batches = list(loader(device))
    with pytest.raises(NonFiniteError, match=r"in step 4 \(batch 0 of epoch 1\): Sequential\.3"):
        train(network(Explodes(4)).to(device), batches)


def test_a_loader_that_cannot_repeat_a_batch(device: str) -> None:
    class Stream:
        def __len__(self) -> int:
            return 3

        def __iter__(self) -> object:
            return iter(list(loader(device)))

    with pytest.raises(NonFiniteError, match=r"in step 2 .*cannot repeat the batch"):
        train(network(Explodes(2)).to(device), Stream())


def test_on_a_cpu_at_that_very_step() -> None:
    model = network(Explodes(2))
    with pytest.raises(NonFiniteError):
        train(model, loader("cpu"))
    assert model[3].calls == 3  # two steps, and once more to see where


def test_in_a_hand_written_loop(device: str) -> None:
    """A MetricAccumulator guards a hand-written loop."""
    model, meter = network(Explodes(2)).to(device), MetricAccumulator()
    optimizer = optim.SGD(model, 0.1)
    weights = []
    for images, labels in loader(device):
        logits = model(images)
        loss = F.cross_entropy(logits, labels)
        meter.add(loss, logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step(skip=meter.failed)
        weights.append(model[1].weight.numpy().copy())
    assert meter.first_failure == 1
    np.testing.assert_array_equal(weights[0], weights[2])
    with pytest.raises(NonFiniteError, match="the loss is nan in batch 1"):
        meter.compute()


def test_the_guard_costs_no_synchronization(device: str) -> None:
    if device == "cpu":
        pytest.skip("needs pytest --device cuda")
    cpucuda = pytest.importorskip("cpucuda")
    model, meter = network().to(device), MetricAccumulator()
    optimizer = optim.SGD(model, 0.1)
    batches = list(loader(device))

    def step(guarded: bool, images: Tensor, labels: Tensor) -> None:
        logits = model(images)
        loss = F.cross_entropy(logits, labels)
        if guarded:
            meter.add(loss, logits, labels)
            meter.check(wait=False)
        loss.backward()
        optimizer.step(skip=meter.failed if guarded else None)

    def counts(guarded: bool) -> dict[str, int]:
        optimizer.zero_grad()
        with cpucuda.count() as counted:
            for batch in batches:
                step(guarded, *batch)
        waits = ("stream_syncs", "device_syncs", "event_syncs", "h2d_copies", "d2h_copies")
        return {name: counted[name] for name in waits}

    step(True, *batches[0])  # the first makes the sums
    assert counts(True) == counts(False)
