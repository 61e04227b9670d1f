"""The networks shared by examples, benchmarks and GPU checks."""

from typing import Any

import pytest

import tinynn
from tinynn import nn
from tinynn.vision.models import face_cnn, original_cnn


@pytest.mark.parametrize(
    ("build", "shape", "parameters"),
    [(face_cnn, (2, 48, 48, 3), 318_882), (original_cnn, (1, 91, 91, 1), 34_879_714)],
)
def test_two_logits_per_image(build: Any, shape: tuple[int, ...], parameters: int) -> None:
    model = build().eval()
    assert model.num_parameters() == parameters
    with tinynn.no_grad():
        assert model(tinynn.zeros(shape)).shape == (shape[0], 2)


def test_dropout_is_optional() -> None:
    counts = [
        sum(isinstance(module, nn.Dropout) for module in face_cnn(dropout=p).modules())
        for p in (0.0, 0.25)
    ]
    assert counts == [0, 1]


@pytest.mark.parametrize("build", [face_cnn, original_cnn])
def test_another_library_builds_the_same_layers(build: Any) -> None:
    class Recorder:
        """Stands for a module such as torch.nn: returns (name, arguments) of each layer."""

        def __getattr__(self, name: str) -> Any:
            return lambda *args, **kwargs: (name, args, kwargs)

    name, layers, _ = build(Recorder())
    assert name == "Sequential"
    assert [layer for layer, _, _ in layers] == [type(module).__name__ for module in build()]
