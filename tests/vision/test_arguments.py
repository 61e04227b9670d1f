"""Numbers, arrays and types out of range are named by the library, not by what is beneath it."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tinynn import nn
from tinynn.data import augment, check_disjoint, split_by_group, split_stratified
from tinynn.errors import TinynnError
from tinynn.vision import (
    Detector,
    clip_boxes,
    draw_boxes,
    drop_nested,
    image_pyramid,
    iou,
    merge_overlapping,
    non_maximum_suppression,
    occlusion_map,
    overlay,
    read_photo,
    to_gray,
    write_photo,
)

PHOTO = np.zeros((30, 30, 3), np.uint8)
GRAY = PHOTO[:, :, :1]
BOXES = np.float32([[1, 2, 3, 4], [5, 6, 7, 8]])
SCORES = np.float32([0.5, 0.75])
RNG = np.random.default_rng(0)
Call = Callable[[object], object]


def detector(**options: object) -> Detector:
    network = nn.Sequential(nn.Conv2d(1, 4, 4, stride=4), nn.Conv2d(4, 1, 6))
    return Detector(network, **{"window": 24, "stride": 4, **options})  # type: ignore[arg-type]


def classifier() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(900, 2))


NUMBERS: dict[str, tuple[Call, object]] = {
    "NMS threshold": (lambda v: non_maximum_suppression(BOXES, SCORES, v), 0.5),
    "merging threshold": (lambda v: merge_overlapping(BOXES, SCORES, v), 0.5),
    "least": (lambda v: merge_overlapping(BOXES, SCORES, 0.5, v), 1),
    "nested fraction": (lambda v: drop_nested(BOXES, SCORES, v), 0.5),
    "height to clip to": (lambda v: clip_boxes(BOXES, v, 9), 9),
    "width to clip to": (lambda v: clip_boxes(BOXES, 9, v), 9),
    "window": (lambda v: detector(window=v), 24),
    "stride": (lambda v: detector(stride=v), 4),
    "step": (lambda v: detector(step=v), 2),
    "threshold": (lambda v: detector(threshold=v), 0.5),
    "min_size": (lambda v: detector(min_size=v), 24),
    "min_share": (lambda v: detector(min_share=v), 0.5),
    "min_windows": (lambda v: detector(min_windows=v), 1),
    "threshold of windows": (lambda v: detector().windows(PHOTO, v), 0.5),
    "step of a pyramid": (lambda v: image_pyramid(PHOTO, v, 8, 8), 2),
    "window of a pyramid": (lambda v: image_pyramid(PHOTO, 2, v, 8), 8),
    "min_size of a pyramid": (lambda v: image_pyramid(PHOTO, 2, 8, v), 8),
    "max_size of a pyramid": (lambda v: image_pyramid(PHOTO, 2, 8, 8, v), 8),
    "color": (lambda v: draw_boxes(PHOTO, BOXES, color=(v, 0, 0)), 9),
    "strength": (lambda v: overlay(PHOTO, np.zeros((30, 30)), v), 0.5),
    "patch": (lambda v: occlusion_map(classifier(), GRAY[None], patch=v), 9),
    "patch stride": (lambda v: occlusion_map(classifier(), GRAY[None], patch=9, stride=v), 9),
    "fill": (lambda v: occlusion_map(classifier(), GRAY[None], fill=v), 0.5),
    "flip": (augment.RandomFlip, 0.5),
    "shift": (lambda v: augment.RandomAffine(shift=v), 0.5),
    "scale": (lambda v: augment.RandomAffine(scale=(v, 2)), 1),
    "rotation": (lambda v: augment.RandomAffine(rotation=v), 9),
    "size": (lambda v: augment.RandomAffine(size=(v, 4)), 9),
    "crop": (lambda v: augment.RandomCrop(9, v), 9),
    "brightness": (augment.RandomBrightness, 0.5),
    "contrast": (lambda v: augment.RandomContrast(v, 2), 1),
    "gamma": (lambda v: augment.RandomGamma(v, 2), 1),
    "light": (augment.RandomLightGradient, 0.5),
    "blur": (augment.RandomBlur, 1),
    "noise": (augment.RandomNoise, 0.5),
    "part": (lambda v: split_stratified([0, 0, 1, 1], (v, 0.5)), 0.5),
    "group part": (lambda v: split_by_group([0, 0, 1, 1], (v, 0.5)), 0.5),
    "seed of a split": (lambda v: split_stratified([0, 0, 1, 1], (0.5, 0.5), v), 3),
}
WRONG = ["a", [], [1, 2], 1j, math.nan, -math.inf, -1, object(), np.array([1.0, 2.0])]
OPTIONAL = {"threshold of windows", "patch", "patch stride"}
UNBOUNDED = {"fill"}


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_that_is_none_is_refused(name: str) -> None:
    call, _ = NUMBERS[name]
    for value in [*WRONG, *([] if name in OPTIONAL else [None])]:
        if name in UNBOUNDED and value is WRONG[6]:
            continue
        with pytest.raises(TinynnError):
            call(value)


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_of_numpy_are_numbers(name: str) -> None:
    call, value = NUMBERS[name]
    for same in (np.array(value), np.asarray(value)[()], np.array(value).astype(">f8")[()]):
        if np.asarray(same).dtype.kind != "f" or not isinstance(value, int):
            call(same)


ARRAYS: dict[str, Call] = {
    "boxes": lambda v: iou(v, BOXES),
    "boxes to clip": lambda v: clip_boxes(v, 9, 9),
    "boxes to draw": lambda v: draw_boxes(PHOTO, v),
    "boxes to merge": lambda v: merge_overlapping(v, SCORES, 0.5),
    "scores": lambda v: non_maximum_suppression(BOXES, v, 0.5),
    "scores to merge": lambda v: merge_overlapping(BOXES, v, 0.5),
    "scores to draw": lambda v: draw_boxes(PHOTO, BOXES, v),
    "photo": lambda v: detector().detect(v),
    "photo for windows": lambda v: detector().windows(v),
    "photo for a pyramid": lambda v: image_pyramid(v, 2, 8, 8),
    "photo to draw on": lambda v: draw_boxes(v, BOXES),
    "photo to make gray": to_gray,
    "photo to write": lambda v: write_photo("photo.png", v),
    "image of an overlay": lambda v: overlay(v, np.zeros((30, 30))),
    "map of an overlay": lambda v: overlay(PHOTO, v),
    "images to explain": lambda v: occlusion_map(classifier(), v),
    "classes to explain": lambda v: occlusion_map(classifier(), GRAY[None], v),
    "images to augment": lambda v: augment.RandomNoise(0.1)(v, RNG),
    "images of a set": lambda v: check_disjoint(v, GRAY),
    "images of the other set": lambda v: check_disjoint(GRAY, v),
}
NO_ARRAYS = [
    "a.jpg", 3, object(), [[1, 2], [3]], ["a", "b"], [1j, 2j], [None, 1],
    np.zeros((2, 2, 2, 2, 2)), Image.new("CMYK", (4, 4)), Path("a.jpg"), {"x": 1},
]  # fmt: skip


@pytest.mark.parametrize("name", ARRAYS)
def test_what_is_no_array_of_the_kind_is_refused(name: str) -> None:
    for value in [
        *NO_ARRAYS,
        *([] if name in ("scores to draw", "classes to explain") else [None]),
    ]:
        with pytest.raises(TinynnError):
            ARRAYS[name](value)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["scores", "scores to merge", "scores to draw"])
def test_scores_are_finite(name: str, bad: float) -> None:
    with pytest.raises(TinynnError, match="scores must be finite, got"):
        ARRAYS[name]([0.5, bad])


@pytest.mark.parametrize("box", [[1e30, 0, 1, 1], [0, 0, 3e38, 3e38], [-1e9, -1e9, 2e9, 2e9]])
def test_a_box_far_outside_is_drawn_as_far_as_it_is_visible(box: list[float]) -> None:
    drawn = draw_boxes(PHOTO, [box], [0.5])
    assert drawn.any() == (box[0] <= 0 and box[2] >= 3e38)


@pytest.mark.parametrize("labels", [[0.0, 1.0, math.nan, 1.0], ["a", None, "b", "a"]])
def test_labels_that_equal_no_class_are_refused(labels: list[object]) -> None:
    for split in (split_stratified, split_by_group):
        with pytest.raises(TinynnError, match=r"(labels|groups) must"):
            split(labels, (0.5, 0.5))  # type: ignore[arg-type]


@pytest.mark.parametrize("path", [None, 3, "", "http://host/a.png", "a\0b.png"])
def test_a_path_that_is_none_is_refused(path: object) -> None:
    for use in (read_photo, lambda path: write_photo(path, PHOTO)):
        with pytest.raises(TinynnError, match="path of a file"):
            use(path)  # type: ignore[operator]


def test_a_pyramid_that_would_enlarge_a_photo_without_bound_is_refused() -> None:
    with pytest.raises(TinynnError, match=r"min_size 1e-06 enlarges 30 x 30 pixels by"):
        image_pyramid(PHOTO, 1.2, 24, 1e-6)


@pytest.mark.parametrize("bias", [0, 1e3, -1e3, 88, -88, 1e30])
def test_under_raising_numpy_errors_a_detector_works(bias: float) -> None:
    network = nn.Sequential(nn.Conv2d(1, 1, 24, stride=4))
    network.load_state_dict(
        {"0.weight": np.zeros((24, 24, 1, 1), np.float32), "0.bias": np.float32([bias])}
    )
    with np.errstate(all="raise"):
        found = Detector(network).windows(PHOTO, 1e-300).scores
    assert len(found) == (5 if bias > -690 else 0)


@pytest.mark.parametrize("value", [0, 1e-45, 1e-38, 1])
@pytest.mark.parametrize(
    "transform",
    [
        augment.RandomAffine(shift=0.1, scale=(0.8, 1.25), rotation=15),
        augment.RandomBrightness(0.3),
        augment.RandomContrast(1e-300, 1e6),
        augment.RandomLightGradient(0.3),
        augment.RandomGamma(1e-300, 1e6),
        augment.RandomBlur(1.5),
        augment.RandomNoise(0.1),
    ],
    ids=lambda transform: type(transform).__name__,
)
def test_under_raising_numpy_errors_images_are_augmented(
    transform: augment.Augmentation, value: float
) -> None:
    images = np.full((4, 5, 6, 2), value, np.float32)
    with np.errstate(all="raise"):
        assert np.isfinite(transform(images, np.random.default_rng(0))).all()


def test_under_raising_numpy_errors_tiny_and_huge_boxes_are_compared() -> None:
    boxes = np.float32([[0, 0, 1e-38, 1e-38], [1e38, 1e38, 1e38, 1e38], [0, 0, 3e38, 3e38]])
    scores = np.float32([1e-38, 0.5, 1e-45])
    with np.errstate(all="raise"):
        assert np.isfinite(iou(boxes, boxes)).all()
        assert non_maximum_suppression(boxes, scores, 0.5).tolist() == [1, 0, 2]
        assert np.isfinite(merge_overlapping(boxes, scores, 0)[0]).all()
        assert len(drop_nested(boxes, scores, 0.5)) == 2
