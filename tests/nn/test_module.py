"""``Module``: parameters and children, state, hooks, and errors that name the layer."""

import copy
import pickle
from contextlib import nullcontext
from functools import partial
from typing import Any

import numpy as np
import pytest

import tinynn
from tinynn import functional as F
from tinynn import nn
from tinynn.autograd import Tensor
from tinynn.errors import ArgumentError, DtypeError, FileFormatError, LabelError, ShapeError
from tinynn.training import fit


class Block(nn.Module):
    """Children as attributes, and in lists, tuples and dicts."""

    def __init__(self) -> None:
        self.first = nn.Linear(2, 3)
        self.scale = nn.Parameter(np.ones(3, np.float32))
        self.branches = [nn.Linear(3, 3, bias=False), nn.ReLU()]
        self.heads = {"a": nn.Linear(3, 1), "b": (nn.Linear(3, 2), nn.Tanh())}
        self.offset = tinynn.zeros(3)
        self._cache = tinynn.zeros(7)
        self.name = "block"

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x) * self.scale + self.offset
        for branch in self.branches:
            x = branch(x)
        return self.heads["a"](x)


PARAMETERS = {
    "scale": (3,),
    "first.weight": (2, 3),
    "first.bias": (3,),
    "branches.0.weight": (3, 3),
    "heads.a.weight": (3, 1),
    "heads.a.bias": (1,),
    "heads.b.0.weight": (3, 2),
    "heads.b.0.bias": (2,),
}


class TestContents:
    def test_parameters_are_found_from_plain_attributes(self) -> None:
        found = {path: p.shape for path, p in Block().named_parameters()}
        assert found == PARAMETERS
        assert Block().num_parameters() == sum(int(np.prod(s)) for s in PARAMETERS.values())

    def test_other_tensors_are_buffers_unless_private(self) -> None:
        assert [path for path, _ in Block().named_buffers()] == ["offset"]

    def test_children_have_paths(self) -> None:
        paths = [path for path, _ in Block().named_modules()]
        assert paths == [
            "",
            "first",
            "branches.0",
            "branches.1",
            "heads.a",
            "heads.b.0",
            "heads.b.1",
        ]

    def test_an_attribute_set_later_counts(self) -> None:
        block = Block()
        block.extra = nn.Linear(1, 1)
        assert "extra.weight" in dict(block.named_parameters())

    def test_a_shared_parameter_counts_once(self) -> None:
        layer = nn.Linear(2, 2)
        model = nn.Sequential(layer, nn.ReLU(), layer)
        assert [path for path, _ in model.named_parameters()] == ["0.weight", "0.bias"]
        assert model.num_parameters() == 6
        assert set(model.state_dict()) == {"0.weight", "0.bias", "2.weight", "2.bias"}

    def test_a_frozen_module_gets_no_gradient(self, device: str) -> None:
        model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1)).to(device)
        model[0].requires_grad_(False)
        model(tinynn.ones((1, 2), device=device)).sum().backward()
        assert [p.grad is None for p in model.parameters()] == [True, True, False, False]
        model.zero_grad()
        assert all(p.grad is None for p in model.parameters())

    def test_a_copy_is_independent_and_usable(self, device: str) -> None:
        model = Block().to(device)
        twin = copy.deepcopy(model)
        twin.first.weight.data[...] = 0
        assert twin(tinynn.ones((1, 2), device=device)).shape == (1, 1)
        assert model.first.weight.numpy().any()


class TestModes:
    def test_reach_all_children_and_start_in_training(self) -> None:
        block = Block()
        assert all(m.training for m in block.modules())
        assert block.eval() is block
        assert not any(m.training for m in block.modules())
        assert all(m.training for m in block.train().modules())

    @pytest.mark.parametrize(
        "clone", [copy.copy, copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))]
    )
    def test_a_copy_has_the_mode_of_the_block_that_it_is_made_in(self, clone: Any) -> None:
        model = nn.Sequential(nn.Dropout(0.5), nn.ReLU())
        with model.in_mode(training=False):
            twin = clone(model)
            assert not twin.training
        assert not twin.training
        assert clone(model).training

    @pytest.mark.parametrize("mode", ["no", [], 2, np.ones(2)])
    def test_is_a_bool(self, mode: Any) -> None:
        layer = nn.ReLU()
        for change in (layer.train, partial(setattr, layer, "training")):
            with pytest.raises(ArgumentError, match="training"):
                change(mode)
        assert layer.training

    @pytest.mark.parametrize("way", ["train", "in_mode", "fit"])
    def test_a_module_may_keep_the_mode_of_its_layers(self, way: str) -> None:
        """Frozen batch norm, by a method of the layer itself or of the module that holds it."""

        class Frozen(nn.BatchNorm1d):
            def train(self, mode: bool = True) -> "Frozen":
                return super().train(False)

        class Holder(nn.Module):
            def __init__(self) -> None:
                self.norm, self.rest = nn.BatchNorm1d(2), nn.Linear(2, 2)

            def train(self, mode: bool = True) -> "Holder":
                super().train(mode)
                self.norm.eval()
                return self

            def forward(self, x: Tensor) -> Tensor:
                return self.rest(self.norm(x))

        model = nn.Sequential(Frozen(2), Holder())
        if way == "train":
            model.train()
        with model.in_mode(training=True) if way == "in_mode" else nullcontext():
            if way == "fit":
                batch = tinynn.ones((4, 2)), tinynn.tensor([0, 1, 0, 1])
                optimizer = tinynn.optim.SGD(model, 0.1)
                fit(model, [batch], optimizer, F.cross_entropy, epochs=1, description=None)
            else:
                modes = [m.training for m in model.modules()]
                assert modes == [True, False, True, False, True]
                model(tinynn.ones((4, 2)))
        for norm in (model[0], model[1].norm):
            assert norm.running_mean.tolist() == [0, 0]


class TestReplacement:
    """An attribute that is part of the state stays part of it."""

    @pytest.mark.parametrize("name", ["weight", "bias", "running_mean"])
    @pytest.mark.parametrize(
        "make",
        [
            lambda held: held.numpy() + 1,
            lambda held: 1.0,
            lambda held: held.tolist(),
            lambda held: "weights",
        ],
    )
    def test_by_what_is_no_tensor_is_refused(self, make: Any, name: str) -> None:
        norm = nn.BatchNorm1d(3)
        held, before = getattr(norm, name), sorted(norm.state_dict())
        with pytest.raises(
            ArgumentError, match=rf"{name} of BatchNorm1d is a .*\[\.\.\.\] = array within no_grad"
        ):
            setattr(norm, name, make(held))
        assert getattr(norm, name) is held
        assert sorted(norm.state_dict()) == before

    @pytest.mark.parametrize(
        "make", [lambda held: held * 2, Tensor.detach, lambda held: tinynn.zeros(3)]
    )
    def test_of_a_parameter_by_a_tensor_is_refused(self, make: Any) -> None:
        norm = nn.BatchNorm1d(3)
        with pytest.raises(
            ArgumentError, match=r"replaced by an nn\.Parameter or None, got Tensor"
        ):
            norm.weight = make(norm.weight)

    def test_by_the_same_kind_none_or_a_module_is_allowed(self) -> None:
        norm, tied = nn.BatchNorm1d(3), nn.Parameter(np.ones(3, np.float32))
        norm.weight = norm.bias = tied
        norm.running_mean = norm.running_mean * 0.9
        assert [path for path, _ in norm.named_parameters()] == ["weight"]
        assert set(norm.state_dict()) == {"weight", "bias", "running_mean", "running_var"}
        norm.bias = None
        norm.weight = nn.Identity()
        assert not list(norm.parameters())

    @pytest.mark.parametrize("make", [tinynn.tensor, np.ndarray.tolist, lambda array: 1.0])
    def test_of_the_array_of_a_parameter_by_another_kind_is_refused(self, make: Any) -> None:
        layer = nn.Linear(1, 1)
        with pytest.raises(ArgumentError, match="data of a parameter is a NumPy or CuPy array"):
            layer.weight.data = make(np.ones((1, 1), np.float32))
        layer.weight.data = np.ones((1, 1), np.float32)
        assert layer.weight.tolist() == [[1]]

    def test_of_private_tensors_is_free(self) -> None:
        block = Block()
        block._cache = "nothing"
        assert block._cache == "nothing"

    def test_deleting_comes_first_where_a_parameter_is_computed(self) -> None:
        layer = nn.Linear(2, 1)
        raw = layer.weight
        del layer.weight
        layer.weight = raw * 2
        layer(tinynn.ones((1, 2))).sum().backward()
        assert raw.grad.tolist() == [[2], [2]]


class TestDeviceAndDtype:
    def test_moves_everything_in_place(self, device: str) -> None:
        block = Block()
        weight = block.first.weight
        assert block.to(device) is block
        assert block.first.weight is weight
        assert {t.device for t in block.state_dict().values()} == {
            tinynn.zeros(1, device=device).device
        }

    def test_astype_converts_all_floats(self, device: str) -> None:
        block = Block().to(device).astype("float64")
        assert {t.dtype.name for t in block.state_dict().values()} == {"float64"}
        assert block(tinynn.ones((1, 2), "float64", device)).dtype == np.float64
        with pytest.raises(DtypeError, match="int64"):
            block.astype("int64")

    def test_is_float32_from_the_start(self) -> None:
        assert {t.dtype.name for t in Block().state_dict().values()} == {"float32"}


class TestState:
    def test_round_trip(self, device: str) -> None:
        source, target = Block().to(device), Block().to(device)
        target.load_state_dict(source.state_dict())
        for path, tensor in target.state_dict().items():
            np.testing.assert_array_equal(tensor.numpy(), source.state_dict()[path].numpy())
        target.first.weight.data[...] = 7
        assert not (source.first.weight.numpy() == 7).any()

    def test_takes_numpy_arrays(self, device: str) -> None:
        layer = nn.Linear(2, 1).to(device)
        layer.load_state_dict({"weight": np.ones((2, 1)), "bias": np.zeros(1)})
        assert layer.weight.tolist() == [[1], [1]]
        assert layer.weight.dtype == np.float32

    def test_strict_lists_everything_that_is_wrong(self) -> None:
        layer = nn.Linear(2, 3)
        before = layer.weight.numpy().copy()
        state = {"weight": np.zeros((3, 2)), "extra": np.zeros(1)}
        with pytest.raises(FileFormatError) as caught:
            layer.load_state_dict(state)
        for words in (
            "does not fit this Linear",
            "missing: bias (3,)",
            "unexpected: extra",
            "wrong shape: weight is (2, 3), got (3, 2)",
        ):
            assert words in str(caught.value)
        np.testing.assert_array_equal(layer.weight.numpy(), before)

    def test_not_strict_loads_the_common_paths(self) -> None:
        layer = nn.Linear(2, 1)
        layer.load_state_dict({"weight": np.ones((2, 1)), "extra": np.zeros(1)}, strict=False)
        assert layer.weight.tolist() == [[1], [1]]
        with pytest.raises(FileFormatError, match="wrong shape: bias"):
            layer.load_state_dict({"bias": np.ones(2)}, strict=False)

    def test_integers_are_not_weights(self) -> None:
        state = {"weight": np.ones((2, 1), int), "bias": np.zeros(1)}
        with pytest.raises(FileFormatError, match="wrong dtype: weight is float32, got int64"):
            nn.Linear(2, 1).load_state_dict(state)


class TestHooks:
    def test_get_inputs_and_output(self, device: str) -> None:
        layer = nn.ReLU()
        seen: list[Any] = []
        remove = layer.register_forward_hook(lambda *call: seen.append(call))
        x = tinynn.ones(2, device=device)
        y = layer(x)
        assert seen == [(layer, (x,), y)]
        remove()
        layer(x)
        assert len(seen) == 1

    def test_may_replace_the_output(self, device: str) -> None:
        layer = nn.Identity()
        layer.register_forward_hook(lambda module, inputs, output: output * 2)
        layer.register_forward_hook(lambda module, inputs, output: output + 1)
        assert layer(tinynn.ones(1, device=device)).tolist() == [3]

    def test_removing_one_leaves_the_others(self, device: str) -> None:
        layer = nn.Identity()
        removers = [
            layer.register_forward_hook(lambda m, i, output, k=k: output + k) for k in (1, 10, 100)
        ]
        removers[1]()
        removers[1]()
        assert layer(tinynn.zeros(1, device=device)).tolist() == [101]


class TestRepr:
    def test_shows_arguments_and_children(self) -> None:
        model = nn.Sequential(nn.Conv2d(3, 8, 3, padding="same"), nn.Sequential(nn.ReLU()))
        assert repr(model) == (
            "Sequential(\n"
            "  0: Conv2d(3, 8, 3, padding='same')\n"
            "  1: Sequential(\n"
            "    0: ReLU()\n"
            "  )\n"
            ")"
        )


class TestErrors:
    def test_a_shape_error_names_the_layer_and_lists_all_shapes(self, device: str) -> None:
        model = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.Sequential(nn.ReLU(), nn.Flatten()), nn.Linear(100, 2)
        ).to(device)
        with pytest.raises(ShapeError) as caught:
            model(tinynn.zeros((2, 8, 8, 3), device=device))
        message = str(caught.value)
        assert "linear expects an input (..., 100)" in message
        assert "in Sequential.2 (Linear), which got (2, 144)" in message
        rows = [line.split("  ") for line in message.splitlines()[-5:]]
        story = [(row[2].strip(), row[-1].strip()) for row in rows]
        assert story == [
            ("input", "(2, 8, 8, 3)"),
            ("0 (Conv2d)", "(2, 6, 6, 4)"),
            ("1.0 (ReLU)", "(2, 6, 6, 4)"),
            ("1.1 (Flatten)", "(2, 144)"),
            ("2 (Linear)", "failed here"),
        ]

    def test_any_other_error_names_the_layer(self, device: str) -> None:
        class Broken(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                raise KeyError("eyes")

        model = nn.Sequential(nn.ReLU(), Broken())
        with pytest.raises(KeyError) as caught:
            model(tinynn.zeros(1, device=device))
        assert caught.value.__notes__ == ["in Sequential.1 (Broken)"]

    def test_a_caught_error_does_not_affect_the_next_call(self, device: str) -> None:
        model = nn.Sequential(nn.ReLU(), nn.Linear(2, 1)).to(device)
        for size in (3, 4):
            with pytest.raises(ShapeError) as caught:
                model(tinynn.zeros((1, size), device=device))
            assert str(caught.value).count("failed here") == 1
            assert f"input       (1, {size})" in str(caught.value)
        assert model(tinynn.zeros((1, 2), device=device)).shape == (1, 1)

    def test_an_error_outside_of_a_model_is_unchanged(self, device: str) -> None:
        labels = tinynn.tensor([2], device=device)
        with pytest.raises(LabelError) as caught:
            F.cross_entropy(tinynn.zeros((1, 2), device=device), labels).item()
        assert "failed here" not in str(caught.value)

    def test_forward_must_be_defined(self) -> None:
        class Empty(nn.Module):
            pass

        with pytest.raises(TypeError, match=r"Empty has no forward\(\)"):
            Empty()(1)

    @pytest.mark.parametrize("sizes", [(0, 2), (2, -1), (2.0, 2), (True, 2)])
    def test_sizes_are_integers(self, sizes: tuple[Any, Any]) -> None:
        with pytest.raises(ArgumentError, match="Linear: the sizes must be integers >= 1"):
            nn.Linear(*sizes)


def test_parameters_in_lists_and_dicts_are_found(device: str) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            self.scales = [nn.Parameter(np.ones(2)), nn.Parameter(np.ones(3))]
            self.named = {"shift": nn.Parameter(np.zeros(1))}
            self._seen = [tinynn.zeros(4)]

    assert list(dict(Net().named_parameters())) == ["scales.0", "scales.1", "named.shift"]
    assert list(Net().state_dict()) == ["scales.0", "scales.1", "named.shift"]
    assert Net().to(device).scales[1].device == device
