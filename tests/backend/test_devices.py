"""Devices by name, and the default device."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import tinynn
from tests.backend.test_cuda_setup import T4, WHEEL_12, install, on_machine, run
from tinynn import nn
from tinynn.backend import backend_of, default_backend, get_backend
from tinynn.errors import DeviceError


def test_each_device_has_one_backend(device: str) -> None:
    backend = get_backend(device)
    assert get_backend(device) is backend
    assert backend_of(backend.xp.zeros(3)) is backend
    assert backend.device == device


def test_threads_that_ask_at_once_get_the_same_backend() -> None:
    code = """
import threading, time
from concurrent.futures import ThreadPoolExecutor
from tinynn.backend import registry
class Slow(registry.NumpyBackend):
    def __init__(self): time.sleep(0.1)
registry.NumpyBackend = Slow
with ThreadPoolExecutor(4) as pool:
    print(len(set(pool.map(registry.get_backend, ["cpu"] * 4))))
"""
    assert run(code) == "1\n"


def test_other_objects_belong_to_no_device() -> None:
    assert backend_of([1.0]) is None
    assert backend_of(np.float32(1)) is None


@pytest.mark.parametrize("name", ["", "gpu", "CPU", "cuda:", "cuda:-1", "cuda:x", 0, None])
def test_other_names_are_errors(name: str) -> None:
    with pytest.raises(DeviceError, match='"cpu", "cuda" or "cuda:<number>"'):
        get_backend(name)


def test_a_missing_device(device: str) -> None:
    if device == "cpu":
        pytest.skip("needs CuPy")
    with pytest.raises(DeviceError, match="no device cuda:99: CUDA devices here: cuda:0"):
        get_backend("cuda:99")


def test_arrays_go_there_and_back(device: str) -> None:
    backend = get_backend(device)
    array = np.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(backend.to_host(backend.from_host(array)), array)


@pytest.fixture
def restored_default() -> Iterator[None]:
    before = tinynn.default_device()
    yield
    tinynn.set_default_device(before)


@pytest.mark.usefixtures("restored_default")
class TestDefaultDevice:
    def test_is_the_cpu_at_first(self) -> None:
        assert run("import tinynn; print(tinynn.default_device())", TINYNN_DEVICE="") == "cpu\n"

    def test_new_tensors_are_created_there(self, device: str) -> None:
        with tinynn.default_device(device):
            assert tinynn.default_device() == device
            assert default_backend() is get_backend(device)
            made = [tinynn.zeros(2), tinynn.tensor([1.0]), tinynn.randn(3), tinynn.arange(3)]
        assert {x.device for x in made} == {device}
        assert tinynn.zeros(2).device == "cpu"

    def test_so_are_parameters_and_buffers(self, device: str) -> None:
        with tinynn.default_device(device):
            model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Linear(3, 2))
        assert {tensor.device for tensor in model.state_dict().values()} == {device}

    def test_the_same_seed_gives_the_same_model_anywhere(self, device: str) -> None:
        models = []
        for place in ("cpu", device):
            tinynn.manual_seed(5)
            with tinynn.default_device(place):
                models.append(nn.Sequential(nn.Conv2d(2, 3, 3), nn.Linear(3, 2)))
        for here, there in zip(*(model.parameters() for model in models), strict=True):
            np.testing.assert_array_equal(here.numpy(), there.numpy())

    def test_an_explicit_device_comes_first(self, device: str) -> None:
        with tinynn.default_device(device):
            assert tinynn.zeros(2, device="cpu").device == "cpu"

    def test_existing_tensors_stay(self, device: str) -> None:
        x = tinynn.zeros(2, device=device)
        copies = [tinynn.tensor(x), tinynn.ones_like(x), x + 1, x.astype("float64"), x.detach()]
        assert {copy.device for copy in copies} == {device}
        with tinynn.default_device(device):
            assert tinynn.from_numpy(np.zeros(2)).device == "cpu"

    def test_blocks_nest_and_end_with_an_error(self, device: str) -> None:
        with tinynn.default_device(device):
            with pytest.raises(KeyError), tinynn.default_device("cpu"):
                raise KeyError
            assert tinynn.default_device() == device

    def test_a_block_is_that_of_one_thread(self, tmp_path: Path) -> None:
        install(tmp_path, WHEEL_12)
        code = """
from concurrent.futures import ThreadPoolExecutor
import tinynn
with ThreadPoolExecutor(1) as pool, tinynn.default_device("cuda:0"):
    print(tinynn.default_device(), pool.submit(tinynn.default_device).result())
"""
        assert on_machine(tmp_path, T4, code) == "cuda cpu\n"

    def test_setting_it_is_for_every_thread(self, device: str) -> None:
        tinynn.set_default_device(device)
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(tinynn.default_device).result() == device
        assert tinynn.zeros(1).device == device

    @pytest.mark.parametrize("change", [tinynn.default_device, tinynn.set_default_device])
    def test_a_missing_device_changes_nothing(self, change: object) -> None:
        before = tinynn.default_device()
        with pytest.raises(DeviceError, match="'gpu'"):
            change("gpu")  # type: ignore[operator]
        assert tinynn.default_device() == before

    def test_comes_from_the_environment(self, device: str) -> None:
        code = "import tinynn; print(tinynn.zeros(1).device, tinynn.nn.Linear(1, 1).weight.device)"
        assert run(code, TINYNN_DEVICE=device) == f"{device} {device}\n"

    def test_a_wrong_environment_is_an_error_at_first_use(self) -> None:
        code = """
import tinynn
try:
    tinynn.zeros(1)
except tinynn.TinynnError as error:
    print(error)
print(tinynn.zeros(1, device="cpu").device)
"""
        assert run(code, TINYNN_DEVICE="gpu") == (
            'the environment variable TINYNN_DEVICE=\'gpu\': expected a device "cpu", "cuda" or '
            "\"cuda:<number>\", got 'gpu'\ncpu\n"
        )


class TestSession:
    """The context in which a device runs a forward or backward pass."""

    @pytest.fixture
    def opened(self, device: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """The sessions of the device since the test began."""
        backend, opened = get_backend(device), list[str]()
        session = backend.session
        monkeypatch.setattr(backend, "session", lambda: opened.append(device) or session())
        return opened

    def test_each_pass_runs_in_one(self, device: str, opened: list[str]) -> None:
        model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1)).to(device)
        x = tinynn.tensor([[1.0, 2.0]], device=device)
        loss = model(x).sum()
        assert opened == [device]
        loss.backward(retain_graph=True)
        assert opened == [device] * 2
        tinynn.grad(loss, list(model.parameters()))
        assert opened == [device] * 3

    def test_without_tensor_inputs_the_parameters_decide(
        self, device: str, opened: list[str]
    ) -> None:
        class Constant(nn.Module):
            def __init__(self) -> None:
                self.weight = nn.Parameter(np.ones(2, np.float32))

            def forward(self) -> tinynn.Tensor:
                return self.weight * 2

        Constant().to(device)()
        assert opened == [device]


class TestModelsOnEitherDevice:
    def model(self) -> nn.Module:
        return nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3))

    @pytest.mark.parametrize("back", [False, True])
    def test_a_model_moves_with_its_gradients(self, device: str, back: bool) -> None:
        start, end = (device, "cpu") if back else ("cpu", device)
        model = self.model().to(start)
        model(tinynn.ones((1, 4, 4, 2), device=start)).sum().backward()
        before = {path: tensor.numpy().copy() for path, tensor in model.state_dict().items()}
        assert model.to(end) is model
        for path, tensor in model.state_dict().items():
            assert tensor.device == end
            np.testing.assert_array_equal(tensor.numpy(), before[path])
        assert {p.grad.device for p in model.parameters() if p.grad is not None} == {end}

    @pytest.mark.parametrize("back", [False, True])
    def test_a_file_of_one_is_read_on_the_other(
        self, tmp_path: Path, device: str, back: bool
    ) -> None:
        start, end = (device, "cpu") if back else ("cpu", device)
        model = self.model().to(start)
        tinynn.save(model, tmp_path / "model.safetensors")
        assert next(model.parameters()).device == start  # saving moves nothing
        twin = tinynn.load(tmp_path / "model.safetensors", device=end)
        for path, tensor in twin.state_dict().items():
            assert tensor.device == end
            np.testing.assert_array_equal(tensor.numpy(), model.state_dict()[path].numpy())

    def test_a_file_is_read_on_the_default_device(self, tmp_path: Path, device: str) -> None:
        tinynn.save(self.model(), tmp_path / "model.safetensors")
        with tinynn.default_device(device):
            twin = tinynn.load(tmp_path / "model.safetensors")
        assert {tensor.device for tensor in twin.state_dict().values()} == {device}

    def test_a_move_is_differentiable(self, device: str) -> None:
        x = tinynn.ones(3, requires_grad=True)
        (x.to(device) * 2).to("cpu").sum().backward()
        assert x.grad is not None
        assert (x.grad.device, x.grad.tolist()) == ("cpu", [2, 2, 2])
