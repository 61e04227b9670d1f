"""The networks, and the training and test split."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import tinynn
from examples.faces import identification
from examples.faces.identification import Portraits
from tinynn import nn
from tinynn.errors import DataError


def portraits(counts: tuple[int, ...], parts: tuple[int, int] | None = None) -> Portraits:
    """Distinct images, ``counts`` of each person."""
    total = sum(counts)
    return Portraits(
        images=np.random.default_rng(0).integers(0, 256, (total, 8, 8, 1)).astype(np.uint8),
        labels=np.repeat(np.arange(len(counts)), counts),
        people=tuple(f"person {number}" for number in range(len(counts))),
        source="noise",
        parts=parts,
    )


PICTURES = np.random.default_rng(0).integers(0, 256, (4, 91, 91, 1)).astype(np.uint8)


def test_the_original_has_the_parameters_of_2017() -> None:
    model = identification.original(2, PICTURES)
    assert model.num_parameters() == 34_879_714


def test_the_original_halves_91_pixels_rounding_up() -> None:
    model = identification.original(3, PICTURES)
    model.eval()
    with tinynn.no_grad():
        assert model(tinynn.zeros((1, 91, 91, 1))).shape == (1, 3)


def test_inputs_of_the_original_are_centered_and_scaled() -> None:
    standardize = identification.Standardize(91, 91)
    standardize.measure(PICTURES)
    entering = standardize(tinynn.tensor(PICTURES.astype(np.float32) / 255)).numpy()
    np.testing.assert_allclose(entering.mean(axis=0), 0, atol=1e-6)
    assert entering.std() == pytest.approx(identification.Standardize.SPREAD, rel=1e-3)


def test_inputs_do_not_depend_on_light_and_contrast() -> None:
    standardize = identification.Standardize(91, 91)
    picture = tinynn.tensor(PICTURES[:1].astype(np.float32) / 255)
    np.testing.assert_allclose(
        standardize(picture * 0.5 + 0.25).numpy(), standardize(picture).numpy(), atol=0.05
    )


def test_a_saved_original_keeps_what_it_measured(tmp_path: Path) -> None:
    standardize = identification.Standardize(91, 91)
    standardize.measure(PICTURES)
    tinynn.save(standardize, tmp_path / "s.safetensors")
    loaded = tinynn.load(tmp_path / "s.safetensors", classes=[identification.Standardize])
    x = tinynn.tensor(PICTURES.astype(np.float32) / 255)
    np.testing.assert_array_equal(loaded(x).numpy(), standardize(x).numpy())


def test_files_with_the_former_name_of_the_class_load(tmp_path: Path) -> None:
    old = identification.Standardise(91, 91)
    old.measure(PICTURES)
    tinynn.save(nn.Sequential(old), tmp_path / "s.safetensors")
    assert b"Standardise" in (tmp_path / "s.safetensors").read_bytes()
    (loaded,) = tinynn.load(tmp_path / "s.safetensors", classes=[identification.Standardise])
    assert isinstance(loaded, identification.Standardize)
    np.testing.assert_array_equal(loaded.mean.numpy(), old.mean.numpy())


def test_each_network_takes_pictures_of_its_recipes_size() -> None:
    for recipe in identification.RECIPES.values():
        size = (recipe.height, recipe.width)
        model = recipe.network(5, PICTURES)
        model.eval()
        with tinynn.no_grad():
            assert model(tinynn.zeros((2, *size, 1))).shape == (2, 5)


def test_orl_is_40_people_of_10_pictures() -> None:
    orl = identification.orl()
    assert orl.images.shape == (400, 112, 92, 1)
    np.testing.assert_array_equal(np.bincount(orl.labels), [10] * 40)


def test_orl_is_split_into_5_and_5_of_each_person() -> None:
    train, test = identification.split(portraits((10, 10, 10), parts=(5, 5)), seed=0)
    for side in (train, test):
        np.testing.assert_array_equal(np.bincount(side.labels), [5, 5, 5])


def test_other_data_are_split_into_90_and_10_percent() -> None:
    train, test = identification.split(portraits((200, 100)), seed=0)
    np.testing.assert_array_equal(np.bincount(train.labels), [180, 90])
    np.testing.assert_array_equal(np.bincount(test.labels), [20, 10])


def test_of_unequal_albums_a_tenth_of_each_persons_is_for_the_test() -> None:
    _, test = identification.split(portraits((2, 50, 14, 16)), seed=0)
    np.testing.assert_array_equal(np.bincount(test.labels), [1, 5, 1, 2])


def test_the_split_takes_every_picture_once() -> None:
    data = portraits((2, 50, 14))
    sides = identification.split(data, seed=3)
    images = np.concatenate([side.images for side in sides])
    assert {image.tobytes() for image in images} == {image.tobytes() for image in data.images}
    assert len(images) == len(data.images)


@pytest.mark.parametrize("copy", [1, 7], ids=["of one person", "of two people"])
@pytest.mark.parametrize("seed", range(4))
def test_identical_pictures_are_named_whatever_the_split(copy: int, seed: int) -> None:
    data = portraits((5, 5))
    data.images[copy] = data.images[0]
    named = replace(data, files=tuple(f"{number}.jpg" for number in range(10)))
    with pytest.raises(DataError, match=rf"^0\.jpg and {copy}\.jpg are identical"):
        identification.split(named, seed)
    with pytest.raises(DataError, match=rf"^image 0 \(person 0\) and image {copy} "):
        identification.split(data, seed)


def test_orl_has_no_duplicate_images() -> None:
    identification.split(identification.orl(), seed=0)


@pytest.mark.parametrize("counts", [(2, 2), (3, 12), (9, 40)])
def test_every_person_is_in_both_parts(counts: tuple[int, ...]) -> None:
    for seed in range(20):
        for side in identification.split(portraits(counts), seed):
            assert (np.bincount(side.labels, minlength=len(counts)) > 0).all()


def test_the_split_follows_the_seed() -> None:
    data = portraits((10, 10))
    first, again, other = (identification.split(data, seed)[1].images for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
