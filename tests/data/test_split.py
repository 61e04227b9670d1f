"""Splits: stratified, by group, and the check that two sets are disjoint."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinynn.data import check_disjoint, split_by_group, split_stratified
from tinynn.errors import ArgumentError, DataError, DtypeError, ShapeError

FRACTIONS = st.lists(st.integers(1, 20), min_size=2, max_size=4).map(
    lambda parts: [part / sum(parts) for part in parts]
)
LABELS = st.lists(st.integers(-3, 3), min_size=1, max_size=60).map(np.array)
SEEDS = st.integers(0, 2**32)


def assert_partition(parts, count):
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(count))


class TestStratified:
    @given(LABELS, FRACTIONS, SEEDS)
    def test_every_example_is_in_one_part(self, labels, fractions, seed):
        assert_partition(split_stratified(labels, fractions, seed), len(labels))

    @given(LABELS, FRACTIONS, SEEDS)
    def test_every_part_has_its_share_of_every_class(self, labels, fractions, seed):
        for part, fraction in zip(
            split_stratified(labels, fractions, seed), fractions, strict=True
        ):
            for label in np.unique(labels):
                share = fraction * (labels == label).sum()
                assert abs((labels[part] == label).sum() - share) <= 1 + 1e-9

    @given(LABELS, FRACTIONS, SEEDS)
    def test_the_seed_decides(self, labels, fractions, seed):
        first, second = (split_stratified(labels, fractions, seed) for _ in range(2))
        assert all(map(np.array_equal, first, second))

    def test_another_seed_splits_otherwise(self):
        labels = np.zeros(100, np.int64)
        assert not np.array_equal(
            split_stratified(labels, (0.5, 0.5), 0)[0], split_stratified(labels, (0.5, 0.5), 1)[0]
        )

    def test_classes_are_split_independently(self):
        labels = np.repeat([0, 1], 100)
        half, _ = split_stratified(labels, (0.5, 0.5))
        assert not np.array_equal(half[:50], half[50:] - 100)

    def test_small_classes_favor_no_part(self):
        labels = np.arange(1000)  # one example each: half of them go either way
        first, _ = split_stratified(labels, (0.5, 0.5))
        assert 400 < len(first) < 600

    def test_indices_are_sorted_int64(self):
        for part in split_stratified(["a", "b"] * 10, (0.5, 0.5)):
            assert part.dtype == np.int64
            assert (np.diff(part) > 0).all()

    @given(st.integers(1, 5), st.integers(1, 5), SEEDS)
    def test_whole_numbers_count_examples_of_each_class(self, training, test, seed):
        labels = np.repeat(["ada", "ben", "cleo"], 10)
        parts = split_stratified(labels, (training, test), seed)
        for part, count in zip(parts, (training, test), strict=True):
            assert np.unique(labels[part], return_counts=True)[1].tolist() == [count] * 3
        assert not np.intersect1d(*parts).size

    def test_a_class_with_too_few_examples_is_named(self):
        with pytest.raises(ArgumentError, match=r"\(5, 5\) need 10 .* class 'ben' has 9"):
            split_stratified(["ada"] * 10 + ["ben"] * 9, (5, 5))

    @pytest.mark.parametrize("parts", [(1.0,), (0.5, 0.4), (1.2, -0.2), (0.0, 1.0)])
    def test_fractions_add_up_to_one(self, parts):
        with pytest.raises(ArgumentError, match=r"two positive fractions that sum to 1, got"):
            split_stratified([0, 1], parts)

    @pytest.mark.parametrize("parts", [(5,), (5, 0), (5, -1), ()])
    def test_numbers_are_positive(self, parts):
        with pytest.raises(ArgumentError, match=r"at least two counts >= 1, got"):
            split_stratified([0, 1], parts)

    @pytest.mark.parametrize("labels", [[], [[0], [1]]])
    def test_labels_have_one_axis(self, labels):
        with pytest.raises(ShapeError, match=r"labels must have shape \(N,\)"):
            split_stratified(labels, (0.5, 0.5))


class TestByGroup:
    @given(LABELS, FRACTIONS, SEEDS)
    def test_no_group_is_in_two_parts(self, groups, fractions, seed):
        if len(np.unique(groups)) < len(fractions):
            return
        parts = split_by_group(groups, fractions, seed)
        assert_partition(parts, len(groups))
        members = [np.unique(groups[part]) for part in parts]
        assert sum(map(len, members)) == len(np.unique(groups))
        assert all(len(part) for part in parts)

    @given(FRACTIONS, SEEDS)
    def test_parts_come_as_close_as_a_group(self, fractions, seed):
        groups = np.repeat(np.arange(50), 4)
        for part, fraction in zip(split_by_group(groups, fractions, seed), fractions, strict=True):
            assert abs(len(part) - 200 * fraction) <= 4 * len(fractions)

    def test_40_people_split_as_32_and_8(self):
        people = np.repeat(np.arange(40), 10)
        training, test = split_by_group(people, (0.8, 0.2), seed=3)
        assert len(np.unique(people[training])) == 32
        assert len(np.unique(people[test])) == 8

    def test_the_seed_decides(self):
        people = np.repeat(np.arange(40), 10)
        first, again, other = (split_by_group(people, (0.8, 0.2), seed)[0] for seed in (0, 0, 1))
        assert np.array_equal(first, again)
        assert not np.array_equal(first, other)

    def test_groups_are_numbers_or_names(self):
        parts = split_by_group(["ada", "ben", "ada"], (0.5, 0.5))
        assert sorted(part.tolist() for part in parts) == [[0, 2], [1]]

    def test_each_part_needs_a_group(self):
        with pytest.raises(ArgumentError, match=r"2 parts need at least 2 groups, got 1"):
            split_by_group(["ada", "ada"], (0.5, 0.5))

    def test_groups_have_one_axis(self):
        with pytest.raises(ShapeError, match=r"groups must have shape \(N,\)"):
            split_by_group(np.zeros((2, 2)), (0.5, 0.5))

    def test_fractions_add_up_to_one(self):
        with pytest.raises(ArgumentError, match=r"sum to 1, got \(1, 1\)"):
            split_by_group([0, 1], (1, 1))


class TestDisjoint:
    images = np.arange(5 * 4, dtype=np.uint8).reshape(5, 2, 2, 1)

    def test_different_images_pass(self):
        check_disjoint(self.images[:3], self.images[3:])

    def test_an_image_twice_in_one_part_passes(self):
        check_disjoint(self.images[[0, 0]], self.images[[1, 1]])

    def test_a_common_image_is_refused_and_named(self):
        with pytest.raises(
            DataError, match=r"1 of 2 images .* image 2 of the first and image 1 of the second"
        ):
            check_disjoint(self.images[:3], self.images[[4, 2]])

    def test_memory_layout_does_not_matter(self):
        turned = np.asfortranarray(self.images)
        with pytest.raises(DataError, match="5 of 5 images"):
            check_disjoint(self.images, turned)

    def test_float_images_are_compared_too(self):
        floats = self.images.astype(np.float32) / 255
        with pytest.raises(DataError, match="identical"):
            check_disjoint(floats, floats)

    def test_two_dtypes_cannot_be_compared(self):
        with pytest.raises(DtypeError, match="same dtype, got uint8 and float32"):
            check_disjoint(self.images, self.images.astype(np.float32))

    def test_two_shapes_cannot_be_compared(self):
        with pytest.raises(ShapeError, match=r"same image shape, .*\(2, 2, 1\) and \(1, 2, 1\)"):
            check_disjoint(self.images, self.images[:, :1])

    def test_a_common_image_is_named_by_its_file(self):
        with pytest.raises(DataError, match=r"in the first: c\.png and b/c\.png are identical"):
            check_disjoint(
                self.images[:3],
                self.images[[4, 2]],
                names_a=["a.png", "b.png", "c.png"],
                names_b=["e.png", "b/c.png"],
            )

    def test_each_image_needs_its_name(self):
        with pytest.raises(ShapeError, match="2 names of images in the second set, got 1"):
            check_disjoint(self.images[:3], self.images[3:], names_b=["e.png"])
