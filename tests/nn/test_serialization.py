"""Models in files: round trips, damage, and models that cannot be rebuilt."""

import errno
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save as to_bytes

import tinynn
from tinynn import functional as F
from tinynn import nn
from tinynn.autograd import Tensor
from tinynn.errors import ArgumentError, FileFormatError
from tinynn.files import safetensors_content, write_atomically

IMAGES = (2, 6, 6, 4)


def has_no_arguments(layer: Any) -> bool:
    """Whether it is a layer without a constructor of its own, such as ``ReLU``."""
    return isinstance(layer, type) and layer.__base__ is nn.Module and "__init__" not in vars(layer)


LAYERS: list[tuple[nn.Module, tuple[int, ...]]] = [
    (nn.Conv2d(4, 6, (3, 2), stride=2, padding="same", bias=False), IMAGES),
    (nn.Conv2d(4, 4, 2, padding=((1, 0), (0, 1)), groups=2), IMAGES),
    (nn.ConvTranspose2d(4, 2, 3, stride=(2, 1), output_padding=(1, 0)), IMAGES),
    (nn.Linear(4, 3), IMAGES),
    (nn.BatchNorm1d(5, momentum=0.3), (3, 5)),
    (nn.BatchNorm2d(4, eps=1e-3), IMAGES),
    (nn.BatchNorm2d(4, affine=False), IMAGES),
    (nn.LayerNorm((6, 4)), IMAGES),
    (nn.GroupNorm(2, 4), IMAGES),
    (nn.MaxPool2d(2, ceil_mode=True), IMAGES),
    (nn.AvgPool2d((2, 3), stride=1, padding=1, count_include_pad=False), IMAGES),
    (nn.Resize((3, 7), mode="nearest"), IMAGES),
    (nn.LeakyReLU(0.3), IMAGES),
    (nn.ELU(alpha=0.5), IMAGES),
    (nn.GELU("tanh"), IMAGES),
    (nn.Softmax(axis=1), IMAGES),
    (nn.LogSoftmax(0), IMAGES),
    (nn.Dropout(0.4), IMAGES),
    (nn.Flatten(2), IMAGES),
    (nn.Sequential(nn.Sequential(nn.Flatten()), nn.Linear(144, 2)), IMAGES),
    *((layer(), IMAGES) for layer in vars(nn).values() if has_no_arguments(layer)),
]


class Twin(nn.Module):
    """A custom model with every kind of constructor argument."""

    def __init__(self, sizes: tuple[int, int], parts: list[nn.Module], *, options: dict[str, Any]):
        self.left, self.right = nn.Linear(*sizes), nn.Linear(*sizes)
        self.parts = parts
        self.slope = options["slope"]

    def forward(self, x: Tensor) -> Tensor:
        x = F.leaky_relu(self.left(x) - self.right(x), self.slope)
        for part in self.parts:
            x = part(x)
        return x


def twin() -> Twin:
    return Twin((4, 3), [nn.Tanh(), nn.Linear(3, 1)], options={"slope": 0.5, "names": ["a", None]})


def write(path: Path, model: object, arrays: dict[str, np.ndarray] | None = None) -> Path:
    """A file with any model in its header."""
    text = model if isinstance(model, str) else json.dumps(model)
    header = {"tinynn": "tinynn-1", "model": text}
    write_atomically(path, safetensors_content(arrays or {}, header))
    return path


def layer(name: str, *args: object, **kwargs: object) -> dict[str, object]:
    return {"class": name, "args": list(args), "kwargs": kwargs}


class TestRoundTrip:
    def test_every_layer_is_in_the_table(self) -> None:
        holders = {"Module", "Sequential", "ModuleList", "ModuleDict", "Parameter"}
        layers = {name for name in nn.__all__ if isinstance(getattr(nn, name), type)}
        assert {type(module).__name__ for module, _ in LAYERS} | holders == layers | {"Sequential"}

    @pytest.mark.parametrize(("module", "shape"), LAYERS, ids=lambda value: repr(value)[:40])
    def test_a_layer_computes_the_same(
        self, module: nn.Module, shape: tuple[int, ...], tmp_path: Path, device: str
    ) -> None:
        x = tinynn.randn(shape, device=device)
        module.to(device)
        with tinynn.no_grad():
            module.train()(x)  # moves running statistics
            expected = module.eval()(x).numpy()
        tinynn.save(module, tmp_path / "layer.safetensors")
        loaded = tinynn.load(tmp_path / "layer.safetensors", device=device)
        assert repr(loaded) == repr(module)
        assert not loaded.training
        np.testing.assert_array_equal(loaded(x).numpy(), expected)

    def test_custom_models(self, tmp_path: Path) -> None:
        model = nn.Sequential(
            twin(), nn.ModuleDict({"a": nn.ModuleList([nn.Linear(1, 1)])})["a"][0]
        )
        tinynn.save(model, tmp_path / "twin")
        loaded = tinynn.load(tmp_path / "twin", classes=[Twin])
        x = tinynn.randn((5, 4))
        np.testing.assert_array_equal(loaded(x).numpy(), model(x).numpy())

    def test_lists_and_dicts_of_modules(self, tmp_path: Path) -> None:
        model = nn.ModuleDict({"a": nn.ModuleList([nn.Linear(2, 1)])})
        model["a"].append(nn.Linear(1, 2))
        tinynn.save(model, tmp_path / "model")
        loaded = tinynn.load(tmp_path / "model")
        assert list(loaded.state_dict()) == list(model.state_dict())

    @pytest.mark.parametrize("dtype", ["float16", "float64"])
    def test_dtype_is_kept(self, dtype: str, tmp_path: Path) -> None:
        model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).astype(dtype)
        tinynn.save(model, tmp_path / "model")
        loaded = tinynn.load(tmp_path / "model")
        assert {t.dtype.name for t in loaded.state_dict().values()} == {dtype}
        np.testing.assert_array_equal(loaded[0].weight.numpy(), model[0].weight.numpy())

    def test_extra_data(self, tmp_path: Path) -> None:
        tinynn.save(nn.ReLU(), tmp_path / "model", extra={"threshold": 0.5, "names": ["a"]})
        assert tinynn.load_extra(tmp_path / "model") == {"threshold": 0.5, "names": ["a"]}
        tinynn.save(nn.ReLU(), tmp_path / "model")
        assert tinynn.load_extra(tmp_path / "model") == {}

    def test_drawing_random_numbers_is_not_disturbed(self, tmp_path: Path) -> None:
        tinynn.save(nn.Linear(3, 3), tmp_path / "model")
        tinynn.manual_seed(4)
        expected = tinynn.randn((2,)).tolist()
        tinynn.manual_seed(4)
        tinynn.load(tmp_path / "model")
        assert tinynn.randn((2,)).tolist() == expected

    def test_an_argument_that_cannot_be_stored_is_named(self, tmp_path: Path) -> None:
        class Odd(nn.Module):
            def __init__(self, function: object) -> None:
                self.function = function

        with pytest.raises(ArgumentError, match=r"argument Sequential\.1\.0 = <function"):
            tinynn.save(nn.Sequential(nn.ReLU(), Odd(lambda x: x)), tmp_path / "model")
        assert list(tmp_path.iterdir()) == []


class TestWriting:
    def test_a_crash_leaves_the_old_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "model"
        tinynn.save(nn.Linear(1, 1), path)
        before = path.read_bytes()

        def crash(descriptor: int) -> None:
            raise OSError("no space left on device")

        monkeypatch.setattr(os, "fsync", crash)
        with pytest.raises(OSError, match="no space left"):
            tinynn.save(nn.Linear(5, 5), path)
        assert path.read_bytes() == before
        assert list(tmp_path.iterdir()) == [path]

    def test_permissions_are_those_of_any_new_file(self, tmp_path: Path) -> None:
        tinynn.save(nn.ReLU(), tmp_path / "model")
        (tmp_path / "other").touch()
        assert (tmp_path / "model").stat().st_mode == (tmp_path / "other").stat().st_mode


class TestDamage:
    @pytest.fixture
    def intact(self, tmp_path: Path) -> bytes:
        tinynn.save(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)), tmp_path / "intact")
        return (tmp_path / "intact").read_bytes()

    def test_cut_off_anywhere(self, intact: bytes, tmp_path: Path) -> None:
        path = tmp_path / "cut"
        for length in range(len(intact)):
            path.write_bytes(intact[:length])
            with pytest.raises(FileFormatError, match="cut"):
                tinynn.load(path)

    def test_a_flipped_byte_in_the_header_never_crashes(
        self, intact: bytes, tmp_path: Path
    ) -> None:
        path = tmp_path / "flipped"
        for position in range(8 + int.from_bytes(intact[:8], "little")):
            for flip in (0x01, 0x80, 0xFF):
                damaged = bytearray(intact)
                damaged[position] ^= flip
                path.write_bytes(damaged)
                try:
                    assert isinstance(tinynn.load(path), nn.Module)
                except FileFormatError as error:
                    assert "flipped" in str(error)  # noqa: PT017

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"\0" * 8,
            b"\xff" * 100,
            pickle.dumps({"weight": [1.0]}),
            b"PK\x03\x04" + b"\0" * 99,
        ],
        ids=["empty", "zeros", "ones", "pickle", "zip"],
    )
    def test_another_kind_of_file(self, content: bytes, tmp_path: Path) -> None:
        (tmp_path / "foreign").write_bytes(content)
        with pytest.raises(FileFormatError, match="foreign is not an intact safetensors file"):
            tinynn.load(tmp_path / "foreign")

    def test_a_directory(self, tmp_path: Path) -> None:
        with pytest.raises(FileFormatError, match="is a directory"):
            tinynn.load(tmp_path)

    def test_a_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="absent") as caught:
            tinynn.load_extra(tmp_path / "absent")
        assert caught.value.errno == errno.ENOENT
        with pytest.raises(FileNotFoundError, match="absent"):
            tinynn.load(tmp_path / "absent")

    def test_safetensors_of_another_program(self, tmp_path: Path) -> None:
        path = tmp_path / "foreign"
        path.write_bytes(to_bytes({"weight": np.zeros(3)}))
        with pytest.raises(FileFormatError, match=r"foreign .* not one of tinynn.save.*load_state"):
            tinynn.load(path)

    def test_a_class_that_was_not_passed(self, tmp_path: Path) -> None:
        tinynn.save(twin(), tmp_path / "model")
        with pytest.raises(FileFormatError, match=r"model: .*'Twin'.*classes=\[Twin\]"):
            tinynn.load(tmp_path / "model")

    @pytest.mark.parametrize("name", ["Parameter", "Module", "os.system", "__import__", "init"])
    def test_names_other_than_layers_are_unknown(self, name: str, tmp_path: Path) -> None:
        with pytest.raises(FileFormatError, match="needs the class"):
            tinynn.load(write(tmp_path / "model", layer(name, "x")))

    @pytest.mark.parametrize(
        "model",
        [
            layer("Linear", 10**6, 10**6),
            layer("Linear", 10**30, 1),
            layer("BatchNorm2d", 10**12),
            layer("BatchNorm2d", 10**12, affine=False),
            layer("Conv2d", 1, 1, 10**6),
            layer("Sequential", *[layer("Linear", 1000, 100)] * 10**4),
        ],
        ids=lambda model: f"{model['class']}{str(model['args'])[:20]}",
    )
    def test_a_header_cannot_ask_for_more_than_the_file_holds(
        self, model: object, tmp_path: Path
    ) -> None:
        too_large = r"model: .*is larger than (the file|any array can be)"
        with pytest.raises(FileFormatError, match=too_large):
            tinynn.load(write(tmp_path / "model", model))

    @pytest.mark.parametrize(
        "create",
        [
            lambda n: tinynn.zeros((n, n)),
            lambda n: tinynn.ones(n * n),
            lambda n: tinynn.full((n, n), 2.0, dtype="float64"),
            lambda n: tinynn.rand((n, n)),
            lambda n: tinynn.randn((n, n)),
            lambda n: tinynn.eye(n),
            lambda n: tinynn.arange(n * n),
            lambda n: tinynn.linspace(0, 1, n * n),
        ],
    )
    def test_tensors_of_a_constructor_cannot_take_more_either(
        self, create: Callable[[int], Tensor], tmp_path: Path
    ) -> None:
        class Holder(nn.Module):
            def __init__(self, size: int) -> None:
                self.held = create(size)

        tinynn.save(Holder(30), tmp_path / "small")
        assert tinynn.load(tmp_path / "small", [Holder]).held.size == 900
        for size in (3_000, 10**6):
            with pytest.raises(FileFormatError, match=r"model: .*is larger than the file"):
                tinynn.load(write(tmp_path / "model", layer("Holder", size)), [Holder])

    @pytest.mark.parametrize(
        "model",
        [
            "",
            "3",
            "null",
            "[]",
            "{}",
            "[" * 100_000,
            '{"class": ["Linear"], "args": [], "kwargs": {}}',
            layer("Linear"),
            layer("Linear", 2, 3, True, 4),
            layer("Linear", "2", None),
            layer("Linear", -1, 2),
            layer("Linear", 2, 2, nonsense=1),
            layer("Conv2d", 1, 1, 3, groups=0),
            layer("Sequential", 5),
            layer("ModuleDict", [1, 2]),
            {"tuple": 5},
            {"dict": [1]},
            {"class": "Linear", "args": 5, "kwargs": {}},
            {"class": "Linear", "args": [1, 1], "kwargs": [1]},
        ],
        ids=lambda model: str(model)[:50],
    )
    def test_an_invalid_header(self, model: object, tmp_path: Path) -> None:
        with pytest.raises(FileFormatError, match=r"cannot build the model of .*model"):
            tinynn.load(write(tmp_path / "model", model))

    def test_a_class_that_is_not_in_a_list(self, tmp_path: Path) -> None:
        tinynn.save(nn.ReLU(), tmp_path / "model")
        with pytest.raises(TypeError):  # not an error of the file
            tinynn.load(tmp_path / "model", classes=nn.ReLU)  # type: ignore[arg-type]

    def test_arrays_that_do_not_fit_the_model(self, tmp_path: Path) -> None:
        path = write(tmp_path / "model", layer("Linear", 2, 1), {"weight": np.zeros((1, 2))})
        with pytest.raises(FileFormatError, match=r"missing: bias(.|\n)*wrong shape: weight"):
            tinynn.load(path)

    def test_extra_data_that_is_damaged(self, tmp_path: Path) -> None:
        path = tmp_path / "model"
        for extra in ("{", "[]", "[" * 100_000):
            path.write_bytes(to_bytes({}, metadata={"extra": extra}))
            with pytest.raises(FileFormatError, match="model has a damaged header"):
                tinynn.load_extra(path)


class TestModelsThatCannotBeRebuilt:
    def test_a_layer_that_was_replaced(self, tmp_path: Path) -> None:
        model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
        vars(model)["1"] = nn.Tanh()
        with pytest.raises(ArgumentError, match=r"1 is Tanh.*make ReLU"):
            tinynn.save(model, tmp_path / "m.safetensors")

    def test_a_layer_that_is_shared(self, tmp_path: Path) -> None:
        layer = nn.Linear(2, 2)
        with pytest.raises(ArgumentError, match="1 is the same as 0"):
            tinynn.save(nn.Sequential(layer, layer), tmp_path / "m.safetensors")

    def test_a_setting_that_was_changed(self, tmp_path: Path) -> None:
        model = nn.Sequential(nn.Dropout(0.5))
        model[0].p = 0.1
        with pytest.raises(ArgumentError, match=r"0\.1.*0\.5"):
            tinynn.save(model, tmp_path / "m.safetensors")


def test_a_flipped_bit_in_an_array_is_detected(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    tinynn.save(nn.Linear(3, 4), path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match="checksum"):
        tinynn.load(path)


def test_a_module_that_holds_itself_is_refused() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    model[0].parent = model
    with pytest.raises(ArgumentError, match=r"0\.parent.*contains itself"):
        list(model.parameters())


def test_equal_models_make_equal_files(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(2, 3))
    files = [tmp_path / f"{number}.safetensors" for number in range(4)]
    for file in files:
        tinynn.save(model, file, extra={"b": 1, "a": 2})
    assert len({file.read_bytes() for file in files}) == 1
