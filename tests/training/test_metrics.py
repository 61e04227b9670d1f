"""Classification metrics."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinynn.errors import ArgumentError, DtypeError, LabelError, ShapeError
from tinynn.training.metrics import (
    accuracy,
    confusion_matrix,
    precision,
    predicted_classes,
    recall,
    roc_auc,
)

CLASSES = 5
pairs = st.lists(
    st.tuples(st.integers(0, CLASSES - 1), st.integers(0, CLASSES - 1)), min_size=1, max_size=50
).map(lambda rows: np.array(rows, dtype=np.int64).T)


def test_the_predicted_class_is_the_one_with_the_largest_logit() -> None:
    logits = np.array([[0.1, 2.0, -1.0], [3.0, 3.0, 0.0]], dtype=np.float32)
    np.testing.assert_array_equal(predicted_classes(logits), [1, 0])


@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_a_single_logit_predicts_class_1_above_zero(shape: tuple[int, ...]) -> None:
    logits = np.array([-0.5, 0.0, 0.5], dtype=np.float32).reshape(shape)
    np.testing.assert_array_equal(predicted_classes(logits), [0, 0, 1])


def test_logits_of_another_shape_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"\(n, classes\).*got shape \(2, 3, 4\)"):
        predicted_classes(np.zeros((2, 3, 4), dtype=np.float32))


def test_accuracy_is_the_share_of_hits() -> None:
    assert accuracy(np.array([0, 1, 2, 2]), np.array([0, 1, 1, 2])) == 0.75


def test_the_accuracy_of_nothing_is_an_error() -> None:
    with pytest.raises(ArgumentError, match="0 predictions"):
        accuracy(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))


def test_rows_are_the_truth_and_columns_the_prediction() -> None:
    matrix = confusion_matrix(
        predictions=np.array([1, 1, 0]), labels=np.array([0, 1, 0]), classes=2
    )
    np.testing.assert_array_equal(matrix, [[1, 1], [0, 1]])


@settings(deadline=None)
@given(pairs)
def test_the_diagonal_of_the_confusion_matrix_is_the_accuracy(pair: np.ndarray) -> None:
    predictions, labels = pair
    matrix = confusion_matrix(predictions, labels, CLASSES)
    assert matrix.sum() == len(labels)
    assert np.trace(matrix) / len(labels) == pytest.approx(accuracy(predictions, labels))
    np.testing.assert_array_equal(matrix.sum(axis=1), np.bincount(labels, minlength=CLASSES))


def test_a_class_out_of_range_is_named_with_its_position() -> None:
    with pytest.raises(LabelError, match=r"labels.*from 0 to 1.*got 7 at position 1"):
        confusion_matrix(np.array([0, 1]), np.array([0, 7]), classes=2)


def test_lengths_must_agree() -> None:
    with pytest.raises(ShapeError, match=r"\(2,\) and \(3,\)"):
        accuracy(np.array([0, 1]), np.array([0, 1, 1]))


def test_logits_are_not_predictions() -> None:
    with pytest.raises(DtypeError, match="predicted_classes"):
        accuracy(np.array([0.2, 0.8]), np.array([0, 1]))


class TestPrecisionAndRecall:
    PREDICTED, TRUE = np.array([0, 0, 1, 1, 1, 0]), np.array([0, 1, 1, 1, 0, 0])

    def test_values(self) -> None:
        np.testing.assert_allclose(precision(self.PREDICTED, self.TRUE, 3)[:2], [2 / 3, 2 / 3])
        np.testing.assert_allclose(recall(self.PREDICTED[:5], self.TRUE[:5], 2), [1 / 2, 2 / 3])

    def test_a_class_that_does_not_occur(self) -> None:
        assert np.isnan(precision(self.PREDICTED, self.TRUE, 3)[2])
        assert np.isnan(recall(self.PREDICTED, self.TRUE, 3)[2])


class TestRocAuc:
    @pytest.mark.parametrize("seed", range(5))
    def test_is_the_probability_that_a_positive_scores_higher_than_a_negative(
        self, seed: int
    ) -> None:
        rng = np.random.default_rng(seed)
        scores, labels = rng.integers(0, 6, 40).astype(np.float32), rng.integers(0, 2, 40)
        of_one, of_none = scores[labels == 1, None], scores[None, labels == 0]
        expected = ((of_one > of_none) + 0.5 * (of_one == of_none)).mean()
        assert roc_auc(scores, labels) == pytest.approx(expected, abs=1e-12)

    def test_perfect_and_perfectly_wrong(self) -> None:
        labels = np.array([0, 0, 1, 1])
        assert roc_auc(np.array([0.1, 0.2, 0.3, 0.4]), labels) == 1.0
        assert roc_auc(-np.array([0.1, 0.2, 0.3, 0.4]), labels) == 0.0

    @pytest.mark.parametrize(
        ("scores", "labels", "error", "message"),
        [
            ([0.1, 0.2], [1, 1], ArgumentError, "both classes"),
            ([0.1, 0.2], [1, 2], LabelError, "0 and 1"),
            ([0.1, np.nan], [0, 1], ArgumentError, "NaN"),
            ([[0.1, 0.2]], [0, 1], ShapeError, "scores and labels"),
        ],
    )
    def test_invalid_arguments(
        self, scores: list[float], labels: list[int], error: type[Exception], message: str
    ) -> None:
        with pytest.raises(error, match=message):
            roc_auc(np.array(scores), np.array(labels))
