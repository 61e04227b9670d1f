"""Boxes drawn on a photo."""

import numpy as np
import pytest

from tinynn.errors import ShapeError
from tinynn.vision import draw_boxes

GRAY = np.full((60, 80, 1), 90, dtype=np.uint8)


def changed(drawn: np.ndarray) -> np.ndarray:
    return (drawn != GRAY).any(axis=2)


def test_outlines_the_box_in_the_color() -> None:
    drawn = draw_boxes(GRAY, [[10, 20, 30, 25]], color=(255, 0, 0))
    for row, column in [(20, 10), (20, 40), (45, 10), (45, 40), (30, 10)]:
        assert drawn[row, column].tolist() == [255, 0, 0]
    assert not changed(drawn)[22:44, 12:39].any()


def test_does_not_change_the_photo() -> None:
    photo = np.zeros((50, 50, 3), dtype=np.uint8)
    draw_boxes(photo, [[5, 5, 20, 20]], [0.5])
    assert not photo.any()


def test_writes_scores_above_the_box() -> None:
    box = [[20, 30, 20, 20]]
    without, labeled = draw_boxes(GRAY, box), draw_boxes(GRAY, box, [0.97])
    assert changed(labeled)[:29].any()
    assert not changed(without)[:29].any()


def test_keeps_the_label_of_a_box_at_the_upper_edge_within_the_photo() -> None:
    assert changed(draw_boxes(GRAY, [[20, 0, 20, 20]], [0.97]))[:12].sum() > 50


def test_without_boxes_gives_the_photo_in_three_channels() -> None:
    np.testing.assert_array_equal(draw_boxes(GRAY, []), np.repeat(GRAY, 3, axis=2))


def test_needs_one_score_per_box() -> None:
    with pytest.raises(ShapeError, match=r"1 boxes need scores of shape \(1,\), got \(2,\)"):
        draw_boxes(GRAY, [[1, 2, 3, 4]], [0.5, 0.6])
