"""Boxes: overlap, clipping, suppression and merging."""

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tinynn.errors import ArgumentError, ShapeError
from tinynn.vision import clip_boxes, drop_nested, iou, merge_overlapping, non_maximum_suppression

SIZE = 30  # pixels of the naive references' canvas


def whole_boxes(min_count: int = 0) -> st.SearchStrategy[np.ndarray]:
    """Boxes with integer coordinates on a canvas of SIZE x SIZE."""
    box = st.tuples(*(st.integers(0, SIZE // 2) for _ in range(4)))
    return st.lists(box, min_size=min_count, max_size=6).map(
        lambda boxes: np.array(boxes, dtype=np.float32).reshape(-1, 4)
    )


def painted(box: np.ndarray) -> np.ndarray:
    """The pixels that a box covers."""
    x, y, width, height = box.astype(int)
    canvas = np.zeros((SIZE, SIZE), dtype=bool)
    canvas[y : y + height, x : x + width] = True
    return canvas


def naive_iou(a: np.ndarray, b: np.ndarray) -> float:
    both, either = painted(a) & painted(b), painted(a) | painted(b)
    return both.sum() / either.sum() if either.any() else 0.0


class TestIou:
    @given(whole_boxes(), whole_boxes())
    def test_counts_the_shared_pixels(self, a: np.ndarray, b: np.ndarray) -> None:
        expected = [[naive_iou(first, second) for second in b] for first in a]
        np.testing.assert_allclose(iou(a, b), np.reshape(expected, (len(a), len(b))), atol=1e-6)

    @given(whole_boxes(), whole_boxes())
    def test_is_symmetric_and_within_0_and_1(self, a: np.ndarray, b: np.ndarray) -> None:
        overlap = iou(a, b)
        assert overlap.dtype == np.float32
        assert ((overlap >= 0) & (overlap <= 1)).all()
        np.testing.assert_array_equal(overlap, iou(b, a).T)

    def test_of_a_box_with_itself_is_one(self) -> None:
        assert iou([[3, 4, 5, 6]], [[3, 4, 5, 6]]) == 1

    def test_does_not_change_far_from_the_origin(self) -> None:
        near, far = np.float32([[0, 0, 10, 10]]), np.float32([[100000, 0, 10, 10]])
        shift = np.float32([5, 0, 0, 0])
        np.testing.assert_allclose(iou(far, far + shift), iou(near, near + shift), atol=1e-5)

    def test_refuses_what_is_not_n_by_4(self) -> None:
        with pytest.raises(ShapeError, match=r"boxes must be \(n, 4\).*got \(2, 3\)"):
            iou(np.ones((2, 3)), np.ones((1, 4)))

    def test_refuses_corners_given_as_sizes(self) -> None:
        with pytest.raises(ArgumentError, match="not two corners"):
            iou([[10, 10, -5, 5]], [[0, 0, 1, 1]])

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    @pytest.mark.parametrize("place", range(4))
    def test_refuses_and_shows_a_box_that_is_not_finite(self, bad: float, place: int) -> None:
        box = [1.0, 2.0, 3.0, 4.0]
        box[place] = bad
        with pytest.raises(ArgumentError, match=rf"a box must be finite .*got \[.*{bad}.*\]\."):
            iou([[0, 0, 1, 1], box], [[0, 0, 1, 1]])


class TestClipBoxes:
    @given(whole_boxes(min_count=1), st.integers(1, SIZE), st.integers(1, SIZE))
    def test_keeps_the_pixels_inside(self, boxes: np.ndarray, height: int, width: int) -> None:
        for box, clipped in zip(boxes, clip_boxes(boxes, height, width), strict=True):
            expected = painted(box)
            expected[height:], expected[:, width:] = False, False
            np.testing.assert_array_equal(painted(clipped), expected)

    def test_cuts_at_the_left_and_upper_edge(self) -> None:
        np.testing.assert_array_equal(clip_boxes([[-2, -3, 10, 10]], 20, 20), [[0, 0, 8, 7]])


def scored_boxes() -> st.SearchStrategy[tuple[np.ndarray, np.ndarray]]:
    scores = hnp.arrays(np.float32, 6, elements=st.floats(0, 1, width=32))
    return st.tuples(whole_boxes(), scores).map(lambda drawn: (drawn[0], drawn[1][: len(drawn[0])]))


class TestNonMaximumSuppression:
    @given(scored_boxes(), st.floats(0, 1))
    def test_keeps_what_no_better_kept_box_overlaps(
        self, drawn: tuple[np.ndarray, np.ndarray], threshold: float
    ) -> None:
        boxes, scores = drawn
        kept: list[int] = []
        for candidate in sorted(range(len(boxes)), key=lambda i: -scores[i]):
            if all(iou(boxes[[candidate]], boxes[[k]])[0, 0] <= threshold for k in kept):
                kept.append(candidate)
        assert non_maximum_suppression(boxes, scores, threshold).tolist() == kept

    def test_keeps_the_best_first(self) -> None:
        boxes = [[0, 0, 10, 10], [50, 50, 10, 10], [1, 1, 10, 10]]
        assert non_maximum_suppression(boxes, [0.7, 0.8, 0.9], 0.3).tolist() == [2, 1]

    def test_of_no_boxes_is_nothing(self) -> None:
        assert non_maximum_suppression([], [], 0.5).shape == (0,)

    def test_needs_one_score_per_box(self) -> None:
        with pytest.raises(ShapeError, match=r"2 boxes need scores of shape \(2,\), got \(3,\)"):
            non_maximum_suppression(np.ones((2, 4)), np.ones(3), 0.5)


class TestMergeOverlapping:
    def test_averages_a_group_by_score(self) -> None:
        boxes, scores = merge_overlapping(
            [[0, 0, 10, 10], [2, 0, 10, 10], [50, 50, 10, 10]], [0.9, 0.3, 0.5], 0.3
        )
        np.testing.assert_allclose(boxes, [[0.5, 0, 10, 10], [50, 50, 10, 10]])
        np.testing.assert_allclose(scores, [0.9, 0.5])
        assert boxes.dtype == scores.dtype == np.float32

    @given(scored_boxes(), st.floats(0, 1))
    def test_gives_as_many_boxes_as_suppression_keeps_with_their_scores(
        self, drawn: tuple[np.ndarray, np.ndarray], threshold: float
    ) -> None:
        boxes, scores = drawn
        merged, best = merge_overlapping(boxes, scores, threshold)
        kept = non_maximum_suppression(boxes, scores, threshold)
        np.testing.assert_array_equal(best, scores[kept])
        assert merged.shape == (len(kept), 4)

    def test_leaves_out_groups_of_fewer_than_least(self) -> None:
        pair, single = [[0, 0, 10, 10], [2, 0, 10, 10]], [[50, 50, 10, 10]]
        boxes, scores = merge_overlapping(pair + single, [0.5, 0.5, 0.9], 0.3, least=2)
        np.testing.assert_allclose(boxes, [[1, 0, 10, 10]])
        np.testing.assert_allclose(scores, [0.5])
        assert merge_overlapping(pair, [0.5, 0.5], 0.3, least=3)[0].shape == (0, 4)

    def test_a_group_whose_scores_are_zero_keeps_its_first_box(self) -> None:
        boxes, _ = merge_overlapping([[0, 0, 10, 10], [2, 0, 10, 10]], [0, 0], 0.3)
        np.testing.assert_array_equal(boxes, [[0, 0, 10, 10]])


class TestDropNested:
    def test_keeps_the_better_of_a_box_and_one_within_it(self) -> None:
        outer, inner = [0, 0, 20, 20], [5, 5, 6, 6]
        assert drop_nested([outer, inner], [0.9, 0.8], 0.6).tolist() == [0]
        assert drop_nested([outer, inner], [0.8, 0.9], 0.6).tolist() == [1]

    def test_keeps_neighbors_that_share_less(self) -> None:
        assert drop_nested([[0, 0, 10, 10], [6, 0, 10, 10]], [0.8, 0.9], 0.6).tolist() == [1, 0]

    @given(scored_boxes(), st.floats(0, 1))
    def test_leaves_no_two_that_share_more_than_the_fraction(
        self, drawn: tuple[np.ndarray, np.ndarray], fraction: float
    ) -> None:
        kept = drawn[0][drop_nested(*drawn, fraction)]
        for i, first in enumerate(kept):
            for second in kept[:i]:
                shared = (painted(first) & painted(second)).sum()
                assert shared <= fraction * min(painted(first).sum(), painted(second).sum()) + 1e-6


@pytest.mark.parametrize("function", [non_maximum_suppression, merge_overlapping, drop_nested, iou])
def test_memory_grows_with_the_boxes_and_the_result(function: Callable[..., object]) -> None:
    count = 1200
    rng = np.random.default_rng(0)
    boxes = np.column_stack([rng.random((count, 2)) * 4000, np.full((count, 2), 20)])
    arguments = (boxes,) if function is iou else (rng.random(count), 0.6)
    tracemalloc.start()
    try:
        result = function(boxes, *arguments)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    table = result.nbytes if function is iou else 0  # type: ignore[attr-defined]
    assert most < table + 1000 * count + 16 * 2**20
