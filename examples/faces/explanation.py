"""What did the network learn? Where it looks on test pictures, and its first filters."""

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

SHOWN = 8  # pictures with both maps
MOST = 100  # pictures in the mean
ENLARGED = 3  # times, for pictures; filters are enlarged to about as many pixels
GAP = 4  # white pixels between pictures
INNER = 0.3  # half the width and the height of the ellipse in the middle, in parts of the picture


@dataclass(frozen=True)
class Explanation:
    """Pictures for the page, uint8 (H, W, 1 or 3), and what the maps say in numbers.

    examples  rows of test picture, HiResCAM and occlusion, two test pictures a row
    mean      the mean test picture, and the mean HiResCAM on it
    filters   the filters of the first convolution
    inside    the share of the HiResCAM, summed over pixels and pictures, in the middle ellipse
    area      the share of the pixels that lie in it
    """

    examples: Images
    mean: Images
    filters: Images
    inside: float
    area: float


def explain(outcome: Outcome) -> Explanation:
    """Maps for the predicted person, on test pictures of as many people as possible."""
    order = _one_of_each_first(outcome)
    some = outcome.inputs[order[:SHOWN]]
    rows = [
        [picture, overlay(picture, cam), overlay(picture, _scaled(lost))]
        for picture, cam, lost in zip(
            some, hires_cam(outcome.model, some), occlusion_map(outcome.model, some), strict=True
        )
    ]
    many = outcome.inputs[order[:MOST]]
    cams = hires_cam(outcome.model, many)
    middle = _ellipse(*many.shape[1:3])
    return Explanation(
        _grid([list(chain(*rows[start : start + 2])) for start in range(0, len(rows), 2)]),
        _mean(many, cams),
        _filters(first_filters(outcome.model)),
        float(cams[:, middle].sum() / max(cams.sum(), 1e-12)),
        float(middle.mean()),
    )


def facts(explanation: Explanation) -> dict[str, Any]:
    """The part ``identify.attention`` of ``report.json``."""
    return {
        "inside_middle_ellipse": round(explanation.inside, 4),
        "area_of_middle_ellipse": round(explanation.area, 4),
    }


def mistake(outcome: Outcome, number: int) -> Images:
    """Four pictures side by side: test picture, HiResCAM, who it was taken for, who it is."""
    picture, given = outcome.test.images[number], outcome.inputs[number]
    cam = overlay(given, hires_cam(outcome.model, given[np.newaxis])[0])
    faces = [picture, resize(cam, *picture.shape[:2]), *beside(outcome, number)]
    return np.concatenate([np.broadcast_to(f, (*f.shape[:2], 3)) for f in faces], axis=1)


def _one_of_each_first(outcome: Outcome) -> npt.NDArray[np.int64]:
    """Numbers of the test pictures: one of each person, then the others."""
    _, first = np.unique(outcome.test.labels, return_index=True)
    rest = np.setdiff1d(np.arange(len(outcome.test.labels)), first)
    return np.concatenate([first, rest])


def _scaled(lost: Maps) -> Maps:
    """What was lost, 0 to 1; what covering made likelier is cold."""
    positive = lost.clip(0)
    return positive / max(float(positive.max()), 1e-12)


def _ellipse(height: int, width: int) -> npt.NDArray[np.bool_]:
    y = (np.arange(height) + 0.5) / height - 0.5
    x = (np.arange(width) + 0.5) / width - 0.5
    return (y[:, None] / INNER) ** 2 + (x[None, :] / INNER) ** 2 <= 1


def _mean(pictures: Images, cams: Maps) -> Images:
    mean = np.rint(pictures.mean(axis=0)).astype(np.uint8)
    heat = cams.mean(axis=0)
    return _grid([[mean, overlay(mean, heat / max(float(heat.max()), 1e-12))]])


def _filters(filters: Maps) -> Images:
    """A grid about twice as wide as high; colors where there are three channels."""
    shown = np.rint(filters * 255).astype(np.uint8)
    if shown.shape[3] not in (1, 3):
        shown = shown[..., :1]
    columns = min(len(shown), int(np.ceil(np.sqrt(2 * len(shown)))))
    rows = [list(shown[start : start + columns]) for start in range(0, len(shown), columns)]
    return _grid(rows, max(1, round(36 / shown.shape[1])))


def _grid(rows: list[list[Images]], times: int = ENLARGED) -> Images:
    """Pictures in rows on white, each pixel ``times`` as large: uint8 (H, W, 3)."""
    height, width = rows[0][0].shape[:2]
    columns = max(map(len, rows))
    step = np.array([height * times + GAP, width * times + GAP])
    canvas = np.full((*(step * [len(rows), columns] - GAP), 3), 255, np.uint8)
    for i, row in enumerate(rows):
        for k, picture in enumerate(row):
            top, left = step * [i, k]
            large = picture.repeat(times, axis=0).repeat(times, axis=1)
            canvas[top : top + height * times, left : left + width * times] = large
    return canvas
