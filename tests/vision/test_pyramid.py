"""The image pyramid: which sizes there are and what they show."""

import numpy as np
import pytest

from tinynn.errors import ArgumentError
from tinynn.vision import image_pyramid
from tinynn.vision.pyramid import resize


def photo(height: int, width: int, channels: int = 1) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (height, width, channels), dtype=np.uint8)


def test_shrinks_by_step_until_the_window_fills_the_shorter_side() -> None:
    shapes = [level.photo.shape[:2] for level in image_pyramid(photo(100, 200), 2, 24, 24)]
    assert shapes == [(100, 200), (50, 100), (25, 50)]


def test_starts_where_the_window_covers_min_size() -> None:
    first = next(iter(image_pyramid(photo(100, 100), 1.2, window=24, min_size=48)))
    assert first.photo.shape == (50, 50, 1)


def test_enlarges_when_min_size_is_less_than_the_window() -> None:
    first = next(iter(image_pyramid(photo(30, 30), 1.2, window=24, min_size=12)))
    assert first.photo.shape == (60, 60, 1)


def test_ends_at_max_size() -> None:
    levels = list(image_pyramid(photo(200, 200), 2, 24, 24, max_size=60))
    assert [level.photo.shape[0] for level in levels] == [200, 100]


def test_every_level_holds_a_window() -> None:
    for height in range(24, 60):
        for level in image_pyramid(photo(height, 61), 1.2, 24, 24):
            assert min(level.photo.shape[:2]) >= 24


def test_scales_are_those_of_the_rounded_sizes() -> None:
    for level in image_pyramid(photo(101, 67), 1.3, 24, 24):
        assert level.photo.shape[:2] == (101 * level.scale_y, 67 * level.scale_x)


def test_a_photo_smaller_than_min_size_has_no_level() -> None:
    assert list(image_pyramid(photo(20, 100), 1.2, 24, 24)) == []


def test_keeps_channels() -> None:
    assert next(iter(image_pyramid(photo(30, 30, 3), 1.2, 24, 24))).photo.shape == (30, 30, 3)


def test_shrinking_averages_what_is_covered() -> None:
    stripes = np.tile(np.uint8([[[0], [255]]]), (40, 20, 1))
    assert abs(resize(stripes, 10, 10)[:, 1:-1].astype(int) - 127).max() <= 1


@pytest.mark.parametrize("step", [1, 0.5])
def test_step_must_be_more_than_one(step: float) -> None:
    with pytest.raises(ArgumentError, match=r"step must be a number in \(1, inf\)"):
        list(image_pyramid(photo(30, 30), step, 24, 24))


@pytest.mark.parametrize(("window", "min_size"), [(0, 24), (24, 0)])
def test_window_and_min_size_are_positive(window: int, min_size: int) -> None:
    with pytest.raises(ArgumentError, match=r"(window|min_size) must be .* got 0"):
        list(image_pyramid(photo(30, 30), 1.2, window, min_size))
