"""Saliency maps and filters of a classifier."""

from typing import Any

import numpy as np
import pytest

import tinynn
from tinynn import nn
from tinynn.autograd import Tensor
from tinynn.errors import ArgumentError, DtypeError, LabelError, ShapeError
from tinynn.vision import first_filters, grad_cam, hires_cam, occlusion_map, overlay

RNG = np.random.default_rng(0)
IMAGES = RNG.random((3, 11, 9, 2), dtype=np.float32)  # sides that pooling does not divide


def network(device: str = "cpu", dtype: str = "float32") -> nn.Sequential:
    tinynn.manual_seed(1)
    return (
        nn.Sequential(
            nn.Conv2d(2, 4, 3, padding="same"),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.MaxPool2d(2, ceil_mode=True),
            nn.Conv2d(4, 5, 2),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Flatten(),
            nn.Linear(5 * 4 * 5, 3),
        )
        .astype(dtype)
        .to(device)
    )


class Corner(nn.Module):
    """Class 1 if the upper left 4 x 4 pixels are bright, class 0 otherwise."""

    def __init__(self) -> None:
        self.convolution = nn.Conv2d(1, 1, 3, padding="same", bias=False)
        self.convolution.weight.data[...] = 1 / 9

    def forward(self, x: Tensor) -> Tensor:
        bright = self.convolution(x)[:, :4, :4].mean(axis=(1, 2, 3)).reshape(-1, 1)
        return tinynn.functional.concat([1 - bright, bright], axis=1) * 10


def corner(device: str) -> nn.Module:
    return Corner().to(device)


class TestPositions:
    @pytest.mark.parametrize("explain", [grad_cam, hires_cam])
    def test_the_maps_find_the_place(self, explain: Any, device: str) -> None:
        images = np.ones((2, 12, 12, 1), np.float32)
        maps = explain(corner(device), images * _gradient(), np.array([1, 1]))
        assert maps.shape == (2, 12, 12)
        assert maps[0, :4, :4].mean() > 2 * maps[0, 8:, 8:].mean()

    def test_occlusion_finds_the_place(self, device: str) -> None:
        images = np.ones((1, 12, 12, 1), np.float32)
        lost = occlusion_map(corner(device), images, [1], patch=3, stride=1, fill=0.0)[0]
        assert lost[:4, :4].min() > 0
        assert np.abs(lost[7:, :]).max() < 1e-6
        assert np.abs(lost[:, 7:]).max() < 1e-6

    def test_of_the_other_class_it_is_the_opposite(self, device: str) -> None:
        images = np.ones((1, 12, 12, 1), np.float32)
        for_one, for_none = (
            occlusion_map(corner(device), images, [c], patch=3, fill=0.0) for c in (1, 0)
        )
        np.testing.assert_allclose(for_one, -for_none, atol=1e-6)


def _gradient() -> np.ndarray[Any, Any]:
    """Bright in the upper left."""
    ramp = np.linspace(1, 0, 12, dtype=np.float32)
    return (ramp[:, None] * ramp[None, :])[None, :, :, None]


@pytest.mark.parametrize("layer", ["0", "4", "5"])
@pytest.mark.parametrize("explain", [grad_cam, hires_cam])
def test_maps_by_finite_differences(explain: Any, layer: str) -> None:
    """Slopes from central differences of the rest of the network, in float64."""
    model = network(dtype="float64").eval()
    cut = int(layer) + 1
    front, back = nn.Sequential(*model[:cut]).eval(), nn.Sequential(*model[cut:]).eval()
    with tinynn.no_grad():
        activation = front(tinynn.tensor(IMAGES.astype(np.float64))).numpy()
        classes = model(tinynn.tensor(IMAGES.astype(np.float64))).numpy().argmax(axis=1)

        def score(changed: np.ndarray) -> np.ndarray:
            rows = back(tinynn.tensor(changed)).numpy()
            return rows[np.arange(3), classes] - rows.mean(axis=1)

        step, slopes = 1e-6, np.zeros(activation.shape)
        for place in np.ndindex(*activation.shape[1:]):
            up, down = activation.copy(), activation.copy()
            up[:, *place] += step
            down[:, *place] -= step
            slopes[:, *place] = (score(up) - score(down)) / (2 * step)
    weights = slopes.mean(axis=(1, 2), keepdims=True) if explain is grad_cam else slopes
    cam = np.maximum((activation * weights).sum(axis=3), 0)
    large = tinynn.functional.resize_bilinear(
        tinynn.tensor(cam[..., None].astype(np.float32)), (11, 9)
    ).numpy()[..., 0]
    top = large.max(axis=(1, 2), keepdims=True)
    expected = np.divide(large, top, out=np.zeros_like(large), where=top > 0)
    assert expected.max() == 1
    np.testing.assert_allclose(explain(model, IMAGES, layer=layer), expected, atol=1e-4)


def test_the_last_image_is_taken() -> None:
    np.testing.assert_array_equal(
        grad_cam(network(), IMAGES), grad_cam(network(), IMAGES, layer="6")
    )


def test_uint8_and_float_alike(device: str) -> None:
    bytes_ = (IMAGES * 255).astype(np.uint8)
    floats = bytes_.astype(np.float32) / np.float32(255)
    for explain in (grad_cam, hires_cam, occlusion_map):
        np.testing.assert_array_equal(
            explain(network(device), bytes_), explain(network(device), floats)
        )


@pytest.mark.parametrize("explain", [grad_cam, hires_cam, occlusion_map])
def test_one_picture_is_as_in_a_batch(explain: Any, device: str) -> None:
    model = network(device)
    alone = np.concatenate([explain(model, IMAGES[i : i + 1]) for i in range(3)])
    np.testing.assert_allclose(explain(model, IMAGES), alone, atol=1e-5)


@pytest.mark.parametrize("explain", [grad_cam, hires_cam, occlusion_map])
def test_many_pictures(explain: Any) -> None:
    many = np.concatenate([IMAGES] * 30)  # more than are computed at a time
    np.testing.assert_allclose(explain(network(), many)[87:], explain(network(), IMAGES), atol=1e-5)


@pytest.mark.parametrize("explain", [grad_cam, hires_cam, occlusion_map])
def test_nothing_is_changed(explain: Any, device: str) -> None:
    model = network(device).train()
    model[0].weight.requires_grad = False
    before = {path: np.array(tensor.numpy()) for path, tensor in model.state_dict().items()}
    random = tinynn.random.default_generator.state
    explain(model, IMAGES)
    with pytest.raises(LabelError):
        explain(model, IMAGES, [0, 1, 9])
    for path, tensor in model.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), before[path])
    assert tinynn.random.default_generator.state == random
    assert all(module.training for module in model.modules())
    assert not any(module.is_observed for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert [p.requires_grad for p in model.parameters()] == [False] + [True] * 7


def test_occlusion_at_the_edge(device: str) -> None:
    """Steps of 5 would leave the last rows out: the edge gets a square of its own."""
    model = network(device).eval()
    with tinynn.no_grad():

        def probabilities(images: np.ndarray) -> np.ndarray:
            rows = model(tinynn.tensor(images, device=device))
            return tinynn.functional.softmax(rows, axis=1).numpy().astype(float)

        whole = probabilities(IMAGES)
        chosen = whole.argmax(axis=1)
        lost, covered = np.zeros((3, 11, 9)), np.zeros((11, 9))
        for top in (0, 3):
            for left in (0, 1):
                hidden = IMAGES.copy()
                hidden[:, top : top + 8, left : left + 8] = 0.5
                drop = (whole - probabilities(hidden))[np.arange(3), chosen]
                lost[:, top : top + 8, left : left + 8] += drop[:, None, None]
                covered[top : top + 8, left : left + 8] += 1
    ours = occlusion_map(network(device), IMAGES, patch=8, stride=5)
    np.testing.assert_allclose(ours, lost / covered, atol=1e-5)


class TestFilters:
    def test_each_in_its_own_range(self) -> None:
        filters = first_filters(network())
        assert (filters.shape, filters.dtype) == ((4, 3, 3, 2), np.float32)
        np.testing.assert_allclose(filters.min(axis=(1, 2, 3)), 0, atol=1e-7)
        np.testing.assert_allclose(filters.max(axis=(1, 2, 3)), 1, atol=1e-7)

    def test_a_constant_one(self) -> None:
        model = network()
        model[0].weight.data[..., 1] = 7
        np.testing.assert_array_equal(first_filters(model)[1], 0.5)

    def test_none(self) -> None:
        with pytest.raises(ArgumentError, match="Linear has no Conv2d"):
            first_filters(nn.Linear(2, 2))


class TestOverlay:
    def test_cold_places_stay_as_they_are(self) -> None:
        image = RNG.integers(0, 256, (5, 4, 1)).astype(np.uint8)
        np.testing.assert_array_equal(
            overlay(image, np.zeros((5, 4), np.float32)), np.repeat(image, 3, axis=2)
        )

    def test_hotter_is_lighter(self) -> None:
        ramp = np.linspace(0, 1, 9, dtype=np.float32)[None]
        shown = overlay(np.zeros((1, 9, 3), np.uint8), ramp, strength=1.0)
        assert (np.diff(shown[0].astype(int).sum(axis=1)) > 0).all()

    def test_sizes_that_do_not_fit(self) -> None:
        with pytest.raises(ShapeError, match=r"got \(5, 4, 1\) and \(4, 5\)"):
            overlay(np.zeros((5, 4, 1), np.uint8), np.zeros((4, 5), np.float32))


class TestErrors:
    @pytest.mark.parametrize("explain", [grad_cam, hires_cam, occlusion_map])
    @pytest.mark.parametrize(
        ("images", "classes", "error", "message"),
        [
            (IMAGES[0], None, ShapeError, r"images \(N, H, W, C\) with N >= 1"),
            (IMAGES[:0], None, ShapeError, "N >= 1"),
            (IMAGES.astype(np.float64), None, DtypeError, r"uint8 .* or float32"),
            (IMAGES, [0, 1], ShapeError, r"one integer class per image, \(3,\)"),
            (IMAGES, [0.0, 1.0, 2.0], ShapeError, "one integer class"),
            (IMAGES, [0, 1, 3], LabelError, "must be from 0 to 2, got 3"),
        ],
    )
    def test_inputs(
        self, explain: Any, images: Any, classes: Any, error: type[Exception], message: str
    ) -> None:
        with pytest.raises(error, match=message):
            explain(network(), images, classes)

    def test_layers(self) -> None:
        with pytest.raises(ArgumentError, match=r"in the model: \['', '0', .*, got 'features'"):
            grad_cam(network(), IMAGES, layer="features")
        with pytest.raises(ArgumentError, match="not layer '8' has"):
            grad_cam(network(), IMAGES, layer="8")

    def test_a_network_without_images(self) -> None:
        model = nn.Sequential(nn.Flatten(), nn.Linear(11 * 9 * 2, 3))
        with pytest.raises(ArgumentError, match="no layer of Sequential has"):
            grad_cam(model, IMAGES)

    @pytest.mark.parametrize("sizes", [{"patch": 0}, {"patch": 10}, {"patch": 3, "stride": 4}])
    def test_patches(self, sizes: dict[str, int]) -> None:
        with pytest.raises(ArgumentError, match="1 <= stride <= patch <= 9"):
            occlusion_map(network(), IMAGES, **sizes)

    def test_a_single_logit(self) -> None:
        model = nn.Sequential(nn.Conv2d(2, 1, 3), nn.Flatten(), nn.Linear(63, 1))
        with pytest.raises(ShapeError, match=r"logits \(N, classes\)"):
            grad_cam(model, IMAGES)
