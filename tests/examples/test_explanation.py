"""Saliency maps of the identification network, and what the report says about them."""

import numpy as np
import pytest

pytest.importorskip("skimage")  # the extra `examples`

from examples.faces import explanation, identification, page
from examples.faces.identification import Outcome, Portraits


@pytest.fixture(scope="module", params=["small", "original"])
def outcome(request: pytest.FixtureRequest) -> Outcome:
    """Two people whose images differ only in the center."""
    rng = np.random.default_rng(0)
    images = rng.integers(100, 140, (24, 56, 50, 1)).astype(np.uint8)
    images[:12, 22:34, 19:31] = rng.integers(180, 250, (12, 12, 12, 1))
    images[12:, 22:34, 19:31] = rng.integers(0, 60, (12, 12, 12, 1))
    recipe = identification.RECIPES[request.param]
    people = Portraits(images, np.repeat([0, 1], 12), ("ann", "bob"), "test")
    epochs = 6 if request.param == "small" else 1
    return identification.train(people, recipe, epochs=epochs, batch_size=6, seed=0, device="cpu")


def test_pictures_that_can_be_shown(outcome: Outcome) -> None:
    found = explanation.explain(outcome)
    for picture in (found.examples, found.mean, found.filters):
        assert (picture.dtype, picture.ndim, picture.shape[2]) == (np.uint8, 3, 3)
    assert found.area == pytest.approx(np.pi * explanation.INNER**2, abs=0.01)
    assert 0 <= found.inside <= 1


def test_the_attention_is_where_the_difference_is(outcome: Outcome) -> None:
    if outcome.inputs.shape[1] == 91:
        pytest.skip("one epoch teaches the large network nothing")
    assert outcome.accuracy == 1
    found = explanation.explain(outcome)
    assert found.inside > found.area
    assert explanation.facts(found)["inside_middle_ellipse"] == round(found.inside, 4)


def test_a_mistake_is_four_pictures(outcome: Outcome) -> None:
    height, width = outcome.test.images.shape[1:3]
    assert explanation.mistake(outcome, 0).shape == (height, 4 * width, 3)


def test_mistakes_are_sorted_by_confidence() -> None:
    rng = np.random.default_rng(1)
    test = Portraits(rng.integers(0, 9, (5, 4, 4, 1)).astype(np.uint8), np.arange(5), (), "")
    outcome = Outcome(
        None, None, test, test, test.images,  # type: ignore[arg-type]
        predictions=np.array([0, 0, 0, 3, 0]), confidence=np.array([1, 0.4, 0.9, 0.8, 0.6]),
        confusion=np.zeros((5, 5), dtype=np.int64),
    )  # fmt: skip
    assert outcome.mistakes == [2, 4, 1]


@pytest.mark.parametrize(
    ("inside", "words"),
    [
        (0.5, "more than the periphery"),
        (0.1, "more than the inner face"),
        (0.28, "as much as"),
    ],
)
def test_the_page_explains_the_attention(inside: float, words: str) -> None:
    identify = {"attention": {"inside_middle_ellipse": inside, "area_of_middle_ellipse": 0.28}}
    text = page._explanation(identify, [])
    assert words in text
    assert f"{inside:.0%}" in text
