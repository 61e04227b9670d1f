"""The detector, with networks whose response is known."""

import numpy as np
import pytest

import tinynn
from tinynn import functional, nn
from tinynn.errors import ArgumentError, DtypeError, ShapeError
from tinynn.vision import Detector, Windows, detector, iou

WINDOW, STRIDE = 8, 2


def bright_square() -> nn.Module:
    """A positive logit where the center of a window is white and its border black."""
    template = np.full((WINDOW, WINDOW), -1.0, dtype=np.float32)
    template[2:-2, 2:-2] = 3
    network = nn.Sequential(nn.Conv2d(1, 1, WINDOW, stride=STRIDE))
    network.load_state_dict(
        {"0.weight": template[:, :, None, None] / 6, "0.bias": np.float32([-3])}
    )
    return network


def small_network() -> nn.Module:
    """Random weights and every kind of layer of the real detector."""
    tinynn.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout(0.5),
        nn.Conv2d(4, 1, 3),
    )


@pytest.fixture
def finder() -> Detector:
    return Detector(bright_square(), window=WINDOW, stride=STRIDE, min_size=WINDOW)


@pytest.fixture
def random_finder() -> Detector:
    return Detector(small_network(), window=WINDOW, stride=STRIDE, min_size=WINDOW, threshold=0.35)


def scene(*squares: tuple[int, int, int], height: int = 90, width: int = 120) -> np.ndarray:
    """White squares (x, y, side) on black, uint8 (height, width, 1)."""
    photo = np.zeros((height, width, 1), dtype=np.uint8)
    for x, y, side in squares:
        photo[y : y + side, x : x + side] = 255
    return photo


def noise(height: int = 40, width: int = 57, channels: int = 1) -> np.ndarray:
    rng = np.random.default_rng(2)
    return rng.integers(0, 256, (height, width, channels), dtype=np.uint8)


class TestDetect:
    @pytest.mark.parametrize("side", [4, 6, 11, 20, 33])
    def test_finds_an_object_of_any_size(self, finder: Detector, side: int) -> None:
        found = finder.detect(scene((41, 37, side)))
        around = [[41 - side / 2, 37 - side / 2, 2 * side, 2 * side]]
        assert len(found.boxes) == 1
        assert iou(found.boxes, around) > 0.5

    def test_finds_each_of_several_once_best_first(self, finder: Detector) -> None:
        found = finder.detect(scene((20, 20, 8), (70, 50, 8), (90, 10, 15)))
        assert len(found.boxes) == 3
        assert (np.diff(found.scores) <= 0).all()
        assert ((found.scores > finder.threshold) & (found.scores <= 1)).all()

    def test_gives_float32_boxes_and_scores(self, finder: Detector) -> None:
        found = finder.detect(scene((20, 20, 8)))
        assert found.boxes.dtype == found.scores.dtype == np.float32
        assert (found.boxes.shape, found.scores.shape) == ((1, 4), (1,))

    def test_boxes_lie_within_the_photo(self, random_finder: Detector) -> None:
        photo = noise()
        x, y, width, height = random_finder.detect(photo).boxes.T
        assert len(x) > 0
        assert (x >= 0).all()
        assert (y >= 0).all()
        assert (x + width <= photo.shape[1] + 1e-4).all()
        assert (y + height <= photo.shape[0] + 1e-4).all()

    def test_takes_gray_and_color(self, finder: Detector) -> None:
        photo = scene((20, 20, 8))
        expected = finder.detect(photo)
        for same in (photo[:, :, 0], np.repeat(photo, 3, axis=2)):
            found = finder.detect(same)
            np.testing.assert_array_equal(found.boxes, expected.boxes)
            np.testing.assert_array_equal(found.scores, expected.scores)

    @pytest.mark.parametrize("shape", [(1, 1), (7, 200), (200, 7, 3)])
    def test_finds_nothing_where_no_window_fits(
        self, finder: Detector, shape: tuple[int, ...]
    ) -> None:
        found = finder.detect(np.full(shape, 200, dtype=np.uint8))
        assert (found.boxes.shape, found.scores.shape) == ((0, 4), (0,))

    def test_a_higher_threshold_finds_a_part_of_it(self, random_finder: Detector) -> None:
        few = random_finder.windows(noise(), threshold=0.45).scores
        assert 0 < len(few) < len(random_finder.windows(noise(), threshold=0.3).scores)
        assert few.min() > 0.45

    def test_few_windows_are_not_a_detection(self, finder: Detector) -> None:
        photo = scene((20, 20, 8), (70, 50, 8))
        candidates = len(finder.windows(photo).boxes)
        assert len(finder.detect(photo).boxes) == 2
        finder.min_windows = candidates
        assert len(finder.detect(photo).boxes) == 0

    @pytest.mark.parametrize(
        ("shift", "expected"),
        [
            (4, [[21, 20, 8, 8]]),  # IoU 0.33: one object, between the two by their scores
            (5, [[20, 20, 8, 8], [25, 20, 8, 8]]),  # IoU 0.23: two
        ],
    )
    def test_windows_of_moderate_overlap_are_one_object(
        self,
        finder: Detector,
        shift: int,
        expected: list[list[float]],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        boxes = np.float32([[20, 20, 8, 8], [20 + shift, 20, 8, 8]])
        two = Windows(boxes, np.float32([0.9, 0.3]), np.zeros((2, 8, 8, 1), dtype=np.uint8))
        monkeypatch.setattr(finder, "windows", lambda photo: two)
        np.testing.assert_allclose(finder.detect(scene()).boxes, expected, rtol=1e-6)

    def test_refuses_floats(self, finder: Detector) -> None:
        with pytest.raises(DtypeError, match="a photo must be uint8"):
            finder.detect(np.ones((30, 30)))  # type: ignore[arg-type]


class TestWindows:
    @pytest.mark.parametrize(("share", "smallest"), [(0.0, 8), (0.05, 8), (0.25, 25), (0.5, 50)])
    def test_start_at_min_size_or_the_share_of_the_longer_side(
        self, random_finder: Detector, share: float, smallest: float
    ) -> None:
        random_finder.min_share = share
        sides = random_finder.windows(noise(60, 100), threshold=1e-6).boxes[:, 2:]
        assert sides.min() == pytest.approx(smallest, rel=0.1)

    @pytest.mark.parametrize("turned", [False, True])
    @pytest.mark.parametrize("width", [100, 200, 900, 5000])
    def test_the_share_of_a_panorama_is_that_of_its_shorter_side(
        self, random_finder: Detector, width: int, turned: bool
    ) -> None:
        random_finder.min_share = 1 / 4
        photo = noise(60, width)
        photo = photo.swapaxes(0, 1) if turned else photo
        sides = random_finder.windows(photo, threshold=1e-6).boxes[:, 2:]
        assert sides.min() == pytest.approx(min(width, 2 * 60) / 4, rel=0.1)

    def test_scores_are_those_of_the_network_on_the_patches(self, random_finder: Detector) -> None:
        found = random_finder.windows(noise())
        network = random_finder.network.eval()
        with tinynn.no_grad():
            logits = network(tinynn.from_numpy(found.patches.astype(np.float32) / 255)).numpy()
        np.testing.assert_allclose(found.scores, 1 / (1 + np.exp(-logits.ravel())), atol=1e-5)

    def test_misses_no_window(self, random_finder: Detector) -> None:
        """At the original scale: every position in steps of the stride."""
        photo = noise(20, 23)
        found = random_finder.windows(photo, threshold=1e-6)
        full_size = found.boxes[found.boxes[:, 2] == WINDOW]
        places = [(x, y) for y in range(0, 13, STRIDE) for x in range(0, 16, STRIDE)]
        assert [(x, y) for x, y, _, _ in full_size] == places
        for (x, y), patch in zip(places, found.patches, strict=False):
            np.testing.assert_array_equal(patch, photo[y : y + WINDOW, x : x + WINDOW])

    def test_a_strip_at_a_time_sees_the_same(
        self, random_finder: Detector, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = random_finder.windows(noise())
        monkeypatch.setattr(detector, "STRIP_PIXELS", 600)
        seen: list[int] = []
        random_finder.network.register_forward_hook(
            lambda module, inputs, output: seen.append(inputs[0].shape[1] * inputs[0].shape[2])
        )
        for part, expected in zip(random_finder.windows(noise()), whole, strict=True):
            np.testing.assert_allclose(part, expected, atol=1e-6)
        assert max(seen) <= 600

    def test_a_panorama_is_divided_into_columns_too(
        self, random_finder: Detector, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        photo = noise(11, 600)
        whole = random_finder.windows(photo, 0.3)
        monkeypatch.setattr(detector, "STRIP_PIXELS", 400)
        seen: list[int] = []
        random_finder.network.register_forward_hook(
            lambda module, inputs, output: seen.append(inputs[0].shape[1] * inputs[0].shape[2])
        )
        parts = random_finder.windows(photo, 0.3)
        assert max(seen) <= 400
        order = [np.lexsort(found.boxes.T) for found in (whole, parts)]
        for expected, part in zip(whole, parts, strict=True):
            np.testing.assert_allclose(part[order[1]], expected[order[0]], atol=1e-6)

    def test_batch_norm_is_folded_once_for_all_levels(
        self, random_finder: Detector, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        weights: list[tinynn.Tensor] = []
        compute = functional.conv2d_relu_max_pool2d

        def convolution(x: tinynn.Tensor, weight: tinynn.Tensor, *options: object) -> object:
            weights.append(weight)
            return compute(x, weight, *options)  # type: ignore[arg-type]

        monkeypatch.setattr(functional, "conv2d_relu_max_pool2d", convolution)
        random_finder.windows(noise())
        assert len(weights) > 3
        assert all(weight is weights[0] for weight in weights)
        assert weights[0] is not random_finder.network[0].weight

    def test_changed_weights_count_in_the_next_photo(self, random_finder: Detector) -> None:
        before = random_finder.windows(noise(), threshold=1e-6).scores
        random_finder.network[0].weight.data[...] = 0
        after = random_finder.windows(noise(), threshold=1e-6).scores
        assert not np.array_equal(before, after)
        assert np.ptp(after) < 1e-6


class TestNetwork:
    @pytest.fixture(params=[True, False])
    def mode(self, request: pytest.FixtureRequest, random_finder: Detector) -> bool:
        random_finder.network.train(request.param)
        return request.param

    def test_keeps_its_mode(self, random_finder: Detector, mode: bool) -> None:
        random_finder.network[0].train(not mode)
        random_finder.detect(noise())
        modes = [module.training for module in random_finder.network]
        assert modes == [not mode] + [mode] * 5

    def test_is_evaluated_whatever_its_mode(self, random_finder: Detector, mode: bool) -> None:
        first, again = random_finder.detect(noise()), random_finder.detect(noise())
        np.testing.assert_array_equal(first.scores, again.scores)

    def test_with_padding_is_refused(self) -> None:
        padded = nn.Sequential(nn.Conv2d(1, 1, WINDOW, padding=1))
        with pytest.raises(ShapeError, match=r"window 8 and stride 1.*\(1, 13, 13, 1\).*padding"):
            Detector(padded, window=WINDOW, stride=1, min_size=WINDOW).detect(noise(20, 20))

    @pytest.mark.parametrize("threshold", [0, 1, -0.5])
    def test_threshold_is_a_score(self, threshold: float) -> None:
        with pytest.raises(ArgumentError, match=r"threshold must be a number in \(0, 1\)"):
            Detector(bright_square(), threshold=threshold)

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("window", 0),
            ("window", 24.5),
            ("stride", 0),
            ("step", 1),
            ("step", np.nan),
            ("min_size", 0),
            ("min_size", np.inf),
            ("min_share", -0.1),
            ("min_share", 1.5),
            ("min_windows", 0),
        ],
    )
    def test_invalid_numbers_are_refused(self, name: str, value: float) -> None:
        with pytest.raises(ArgumentError, match=rf"^{name} must be .*, got {value}$"):
            Detector(bright_square(), **{name: value})  # type: ignore[arg-type]

    def test_may_have_no_parameters(self) -> None:
        finder = Detector(nn.AvgPool2d(8, stride=2), window=8, stride=2, min_size=8)
        assert len(finder.detect(np.full((8, 8), 255, dtype=np.uint8)).boxes) == 1
