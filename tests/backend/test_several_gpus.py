"""Two GPUs: kernels run on the device of their arrays, whichever device is current."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinynn
from tests.functional.cases import DIFFERENTIABLE, evaluate, variables
from tests.functional.test_cases import total
from tinynn import functional as F
from tinynn import nn, optim
from tinynn.autograd import Tensor
from tinynn.errors import DeviceError
from tinynn.gpucheck.cases import Case

if len(tinynn.devices()) < 3:
    pytest.skip("needs two GPUs", allow_module_level=True)

HERE, ELSEWHERE = "cuda:1", "cuda"


@pytest.fixture
def current_elsewhere() -> Iterator[Callable[[], None]]:
    """A function that makes the other device current."""
    import cupy

    other = cupy.cuda.Device(0)
    yield other.use
    other.use()


@pytest.mark.parametrize("case", DIFFERENTIABLE, ids=str)
def test_every_function_and_its_gradients(
    case: Case, current_elsewhere: Callable[[], None]
) -> None:
    inputs = variables(case, "float32", HERE)
    current_elsewhere()
    outputs = evaluate(case, inputs, HERE)
    loss = total(outputs)
    current_elsewhere()
    gradients = tinynn.grad(loss, inputs, create_graph=True, allow_unused=True)
    gradients = [gradient for gradient in gradients if gradient is not None]
    assert {x.device for x in (*outputs, *gradients)} == {HERE}
    again = [gradient for gradient in gradients if gradient.requires_grad]
    if again:
        loss = total(again)
        current_elsewhere()
        tinynn.grad(loss, inputs, allow_unused=True)


X: dict[str, Callable[[Tensor], Any]] = {
    "astype": lambda x: x.astype("float64"),
    "index": lambda x: x[np.array([1, 0])],
    "index by a tensor": lambda x: x[tinynn.tensor([1, 0], device=HERE)],
    "mask": lambda x: x[x > 0],
    "reshape that copies": lambda x: x.permute(1, 0).reshape(-1),
    "copy": tinynn.tensor,
    "like": tinynn.zeros_like,
    "from_dlpack": lambda x: tinynn.from_dlpack(x.data),
    "there and back": lambda x: x.to("cpu").to(HERE),
    "over the other GPU": lambda x: x.to(ELSEWHERE).to(HERE),
}


@pytest.mark.parametrize("name", X)
def test_other_array_functions(name: str, current_elsewhere: Callable[[], None]) -> None:
    x = tinynn.randn((3, 4), device=HERE)
    current_elsewhere()
    assert X[name](x).device == HERE


def test_values_are_read_back(current_elsewhere: Callable[[], None]) -> None:
    x = tinynn.tensor([[1.0, 2.0]], device=HERE)
    current_elsewhere()
    assert x.tolist() == [[1, 2]]
    assert x.numpy().tolist() == [[1, 2]]
    assert x.sum().item() == 3


@pytest.mark.parametrize("optimizer", [optim.SGD, optim.Adam, optim.AdamW, optim.RMSprop])
def test_training(optimizer: Any, current_elsewhere: Callable[[], None]) -> None:
    losses = {}
    for place in (HERE, "cpu"):
        tinynn.manual_seed(1)
        with tinynn.default_device(place):
            model = nn.Sequential(
                nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()
            )
            model = nn.Sequential(model, nn.Linear(16, 2), nn.Dropout(0.2))
            images, labels = tinynn.randn((6, 6, 6, 1)), tinynn.tensor([0, 1, 1, 0, 1, 0])
        steps = optimizer(model, 1e-2)
        losses[place] = []
        for _ in range(3):
            current_elsewhere()
            steps.zero_grad()
            loss = F.cross_entropy(model(images), labels)
            current_elsewhere()
            loss.backward()
            current_elsewhere()
            optim.clip_grad_norm(model, 1.0)
            current_elsewhere()
            steps.step()
            losses[place].append(float(loss))
    np.testing.assert_allclose(losses[HERE], losses["cpu"], rtol=1e-5)


@pytest.mark.parametrize(
    "function",
    [
        lambda x, y: x + y,
        lambda x, y: x @ y,
        lambda x, y: F.where(x > 0, x, y),
        lambda x, y: F.concat([x, y]),
        lambda x, y: F.linear(x, y),
        lambda x, y: x.sum().requires_grad_().backward(y.sum()),
        lambda x, y: F.cross_entropy(x, y.astype("int64")[0]),
    ],
)
def test_two_gpus_in_one_function_are_refused(function: Any) -> None:
    x, y = tinynn.ones((4, 4), device=HERE), tinynn.ones((4, 4), device=ELSEWHERE)
    with pytest.raises(DeviceError, match=r"^[a-z_]+: .*\bon cuda:1\b.*\bon cuda\b"):
        function(x, y)


def test_models_move_between_gpus(tmp_path: Path) -> None:
    model = nn.Linear(2, 2).to(HERE)
    before = model.weight.numpy()
    tinynn.save(model, tmp_path / "model.safetensors")
    for place in (ELSEWHERE, HERE, "cpu", HERE):
        loaded = tinynn.load(tmp_path / "model.safetensors", device=place)
        for copy in (model.to(place), loaded):
            weight = copy.state_dict()["weight"]
            assert weight.device == place
            np.testing.assert_array_equal(weight.numpy(), before)
