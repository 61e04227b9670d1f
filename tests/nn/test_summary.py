"""``tinynn.summary``: counts that can be verified on paper."""

import pytest

import tinynn
from tinynn import nn
from tinynn.errors import ShapeError

MODEL = nn.Sequential(
    nn.Conv2d(3, 16, 3, padding="same"),
    nn.ReLU(),
    nn.MaxPool2d(2),
    nn.Conv2d(16, 8, (3, 1), groups=2, bias=False),
    nn.Flatten(),
    nn.Linear(24 * 22 * 8, 2),
)


def test_numbers_of_each_layer() -> None:
    summary = tinynn.summary(MODEL, (48, 48, 3), batch_size=5)
    assert [
        (layer.path, layer.kind, layer.output_shape, layer.parameters, layer.multiply_adds)
        for layer in summary.layers
    ] == [
        ("0", "Conv2d", (5, 48, 48, 16), 27 * 16 + 16, 5 * 48 * 48 * 16 * 27),
        ("1", "ReLU", (5, 48, 48, 16), 0, 0),
        ("2", "MaxPool2d", (5, 24, 24, 16), 0, 0),
        ("3", "Conv2d", (5, 22, 24, 8), 3 * 8 * 8, 5 * 22 * 24 * 8 * 3 * 8),
        ("4", "Flatten", (5, 4224), 0, 0),
        ("5", "Linear", (5, 2), 4224 * 2 + 2, 5 * 2 * 4224),
    ]
    assert summary.layers[0].activation_bytes == 5 * 48 * 48 * 16 * 4


def test_totals() -> None:
    summary = tinynn.summary(MODEL, (48, 48, 3))
    assert summary.parameters == 448 + 192 + 8450
    assert summary.multiply_adds == sum(layer.multiply_adds for layer in summary.layers)
    assert summary.activation_bytes == 4 * (2 * 48 * 48 * 16 + 24 * 24 * 16 + 2 * 22 * 24 * 8 + 2)


def test_prints_a_table() -> None:
    lines = str(tinynn.summary(MODEL, (48, 48, 3))).splitlines()
    assert lines[0].split("  ")[0] == "layer"
    assert "input" in lines[2]
    assert "(1, 48, 48, 3)" in lines[2]
    assert lines[3].split() == [
        "0",
        "(Conv2d)",
        "(1,",
        "48,",
        "48,",
        "16)",
        "448",
        "995,328",
        "147.5",
        "kB",
    ]
    assert "9,090" in lines[-2]
    assert lines[-1].startswith("memory of a training step with this batch: about ")


def test_leaves_the_model_as_it_was() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.5))
    model[1].eval()
    tinynn.summary(model, (3,))
    assert [m.training for m in model] == [True, False]
    assert model[0].running_mean.tolist() == [0, 0, 0]
    assert not model[0]._forward_hooks


def test_a_layer_used_twice_counts_once_in_the_total() -> None:
    layer = nn.Linear(2, 2)
    summary = tinynn.summary(nn.Sequential(layer, nn.ReLU(), layer), (2,))
    assert summary.parameters == 6


def test_an_input_that_does_not_fit_is_explained() -> None:
    with pytest.raises(ShapeError, match=r"Sequential\.0 \(Conv2d\)"):
        tinynn.summary(MODEL, (48, 48, 1))
