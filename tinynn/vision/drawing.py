"""Boxes and their scores drawn on a photo."""

from typing import Any

import numpy as np
import numpy.typing as npt

from tinynn.errors import ShapeError
from tinynn.vision.boxes import as_boxes
from tinynn.vision.photo import Photo, as_photo

Color = tuple[int, int, int]
GREEN: Color = (40, 220, 90)


def draw_boxes(
    photo: Photo, boxes: npt.ArrayLike, scores: npt.ArrayLike | None = None, color: Color = GREEN
) -> Photo:
    """A copy of ``photo``, uint8 (H, W, 3), with each of ``boxes`` (n, 4) and its score as a label.

    Lines and letters grow with the photo, so that a large one is as readable as a small one.
    """
    from PIL import Image, ImageDraw

    array, labels = as_boxes(boxes), _labels(boxes, scores)
    base = as_photo(photo)
    picture = Image.fromarray(np.repeat(base, 3, axis=2) if base.shape[2] == 1 else base.copy())
    pen = ImageDraw.Draw(picture)
    line = max(1, round(max(picture.size) / 400))
    for box, label in zip(array, labels, strict=True):
        x, y, width, height = (float(value) for value in box)
        pen.rectangle((x, y, x + width, y + height), outline=color, width=line)
        if label:
            _write(pen, (x, y), label, color, size=max(10, 6 * line))
    return np.array(picture, dtype=np.uint8)


def _labels(boxes: npt.ArrayLike, scores: npt.ArrayLike | None) -> list[str]:
    count = len(as_boxes(boxes))
    if scores is None:
        return [""] * count
    values = np.asarray(scores, dtype=np.float64)
    if values.shape != (count,):
        raise ShapeError(f"{count} boxes need scores of shape ({count},), got {values.shape}")
    return [f"{value:.2f}" for value in values]


def _write(pen: Any, corner: tuple[float, float], label: str, color: Color, size: int) -> None:
    """``label`` on a patch of ``color`` above the box, or within it at the photo's upper edge."""
    from PIL import ImageFont

    font = ImageFont.load_default(size)
    left, _, right, bottom = pen.textbbox((0, 0), label, font=font)
    x, y = corner[0], max(0.0, corner[1] - (bottom + 2))
    pen.rectangle((x, y, x + right - left + 4, y + bottom + 2), fill=color)
    pen.text((x + 2, y), label, fill=(0, 0, 0), font=font)
