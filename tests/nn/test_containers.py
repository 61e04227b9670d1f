"""Containers."""

import pytest

import tinynn
from tinynn import nn
from tinynn.errors import ArgumentError


class TestSequential:
    def test_passes_the_output_on(self, device: str) -> None:
        model = nn.Sequential(nn.Flatten(), nn.Linear(6, 2), nn.ReLU()).to(device)
        out = model(tinynn.ones((4, 2, 3), device=device))
        assert out.shape == (4, 2)
        assert nn.Sequential()(out) is out

    def test_is_a_sequence(self) -> None:
        model = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Tanh())
        assert len(model) == 3
        assert isinstance(model[-1], nn.Tanh)
        assert [type(m).__name__ for m in model] == ["Linear", "ReLU", "Tanh"]
        part = model[:2]
        assert isinstance(part, nn.Sequential)
        assert part[0] is model[0]

    def test_accepts_modules_only(self) -> None:
        with pytest.raises(ArgumentError, match=r"holds modules, got function as '1'.*forward"):
            nn.Sequential(nn.ReLU(), lambda x: x)


class TestModuleList:
    def test_numbers_its_modules(self) -> None:
        layers = nn.ModuleList([nn.Linear(1, 2), nn.ReLU()])
        layers.append(nn.Linear(2, 1))
        assert len(layers) == 3
        assert layers[2] is list(layers)[2]
        assert [path for path, _ in layers.named_parameters()] == [
            "0.weight",
            "0.bias",
            "2.weight",
            "2.bias",
        ]


class TestModuleDict:
    def test_names_its_modules(self) -> None:
        heads = nn.ModuleDict({"face": nn.Linear(1, 1, bias=False)})
        heads["age"] = nn.Linear(1, 2, bias=False)
        assert list(heads) == ["face", "age"]
        assert "age" in heads
        assert "hair" not in heads
        assert dict(heads.items())["age"] is heads["age"]
        assert [path for path, _ in heads.named_parameters()] == ["face.weight", "age.weight"]

    @pytest.mark.parametrize("name", ["", "a.b", 1])
    def test_names_are_parts_of_a_path(self, name: object) -> None:
        with pytest.raises(ArgumentError, match="names without dots"):
            nn.ModuleDict({name: nn.ReLU()})

    @pytest.mark.parametrize("name", ["training", "forward", "items", "state_dict"])
    def test_names_do_not_hide_attributes(self, name: str) -> None:
        with pytest.raises(ArgumentError, match=f"{name!r}.*every ModuleDict has that attribute"):
            nn.ModuleDict({name: nn.ReLU()})
