"""Explain the identification network: saliency maps of test images, and its first filters."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from tinynn.vision import first_filters, hires_cam, occlusion_map, overlay
from tinynn.vision.pyramid import resize

from .identification import Images, Outcome, beside

Maps = npt.NDArray[np.float32]

SHOWN = 8  # test images shown with both maps
AVERAGED = 100  # test images in the mean map
ENLARGED = 3  # scale of the images; filters are enlarged to a similar size
GAP = 4  # white pixels between images
INNER = 0.3  # semi-axes of the central ellipse, as a fraction of height and width


@dataclass(frozen=True)
class Explanation:
    """Pictures for the report, uint8 (H, W, 1 or 3), and a statistic of the maps.

    Attributes:
        examples: Test image, HiResCAM and occlusion map, two test images per row.
        mean: The mean test image, and the mean HiResCAM overlaid on it.
        filters: The filters of the first convolution.
        inside: Fraction of the total HiResCAM that lies in the central ellipse.
        area: Fraction of the pixels that lie in the central ellipse.
    """

    examples: Images
    mean: Images
    filters: Images
    inside: float
    area: float


def explain(outcome: Outcome) -> Explanation:
    """Maps of the predicted class, for test images of as many people as possible."""
    order = _one_of_each_first(outcome)
    some = outcome.inputs[order[:SHOWN]]
    rows = [
        [image, overlay(image, cam), overlay(image, _normalized(decrease))]
        for image, cam, decrease in zip(
            some, hires_cam(outcome.model, some), occlusion_map(outcome.model, some), strict=True
        )
    ]
    many = outcome.inputs[order[:AVERAGED]]
    cams = hires_cam(outcome.model, many)
    center = _ellipse(*many.shape[1:3])
    return Explanation(
        _grid([list(chain(*rows[start : start + 2])) for start in range(0, len(rows), 2)]),
        _mean(many, cams),
        _filters(first_filters(outcome.model)),
        float(cams[:, center].sum() / max(cams.sum(), 1e-12)),
        float(center.mean()),
    )


def facts(explanation: Explanation) -> dict[str, Any]:
    """The part ``identify.attention`` of ``report.json``."""
    return {
        "inside_middle_ellipse": round(explanation.inside, 4),
        "area_of_middle_ellipse": round(explanation.area, 4),
    }


def mistake(outcome: Outcome, number: int) -> Images:
    """Test image, HiResCAM, and a training image of the predicted and of the true person."""
    image, resized = outcome.test.images[number], outcome.inputs[number]
    cam = overlay(resized, hires_cam(outcome.model, resized[np.newaxis])[0])
    faces = [image, resize(cam, *image.shape[:2]), *beside(outcome, number)]
    return np.concatenate([np.broadcast_to(f, (*f.shape[:2], 3)) for f in faces], axis=1)


def _one_of_each_first(outcome: Outcome) -> npt.NDArray[np.int64]:
    """Indices of the test images: one of each person, then the others."""
    _, first = np.unique(outcome.test.labels, return_index=True)
    rest = np.setdiff1d(np.arange(len(outcome.test.labels)), first)
    return np.concatenate([first, rest])


def _normalized(decrease: Maps) -> Maps:
    """Scale the decrease of probability to [0, 1]; an increase becomes 0."""
    positive = decrease.clip(0)
    return positive / max(float(positive.max()), 1e-12)


def _ellipse(height: int, width: int) -> npt.NDArray[np.bool_]:
    y = (np.arange(height) + 0.5) / height - 0.5
    x = (np.arange(width) + 0.5) / width - 0.5
    return (y[:, None] / INNER) ** 2 + (x[None, :] / INNER) ** 2 <= 1


def _mean(images: Images, cams: Maps) -> Images:
    mean = np.rint(images.mean(axis=0)).astype(np.uint8)
    heat = cams.mean(axis=0)
    return _grid([[mean, overlay(mean, heat / max(float(heat.max()), 1e-12))]])


def _filters(filters: Maps) -> Images:
    """A grid of the filters, about twice as wide as high; in color if they have 3 channels."""
    shown = np.rint(filters * 255).astype(np.uint8)
    if shown.shape[3] not in (1, 3):
        shown = shown[..., :1]
    columns = min(len(shown), int(np.ceil(np.sqrt(2 * len(shown)))))
    rows = [list(shown[start : start + columns]) for start in range(0, len(shown), columns)]
    return _grid(rows, max(1, round(36 / shown.shape[1])))


def _grid(rows: list[list[Images]], times: int = ENLARGED) -> Images:
    """Arrange images in rows on white, enlarged by ``times``: uint8 (H, W, 3)."""
    height, width = rows[0][0].shape[:2]
    columns = max(map(len, rows))
    step = np.array([height * times + GAP, width * times + GAP])
    canvas = np.full((*(step * [len(rows), columns] - GAP), 3), 255, np.uint8)
    for i, row in enumerate(rows):
        for k, image in enumerate(row):
            top, left = step * [i, k]
            large = image.repeat(times, axis=0).repeat(times, axis=1)
            canvas[top : top + height * times, left : left + width * times] = large
    return canvas
