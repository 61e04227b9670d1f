"""Draw bounding boxes and scores on a photo."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tinynn.arguments import sizes
from tinynn.data.decoding import copy_rgb
from tinynn.errors import ArgumentError
from tinynn.vision.boxes import as_boxes, check_scores
from tinynn.vision.photo import Photo, as_photo, to_picture

__all__ = ["draw_boxes"]

Color = tuple[int, ...]  # red, green, blue
GREEN: Color = (40, 220, 90)
MARGIN = 1000  # pixels outside the photo


def draw_boxes(
    photo: Photo, boxes: ArrayLike, scores: ArrayLike | None = None, color: Color = GREEN
) -> Photo:
    """Draw ``boxes`` (n, 4) on a copy of ``photo``, labeled with their ``scores`` (n,) if given.

    Line width and font size are proportional to the size of the photo.

    Returns:
        uint8 (H, W, 3).
    """
    from PIL import ImageDraw

    array = as_boxes(boxes)
    color = sizes("color", color)
    if len(color) != 3 or max(color) > 255:
        raise ArgumentError(f"color must be (red, green, blue) from 0 to 255, got {color}")
    labels = [""] * len(array)
    if scores is not None:
        labels = [f"{value:.2f}" for value in check_scores(scores, len(array))]
    picture = to_picture(as_photo(photo))
    picture = picture if picture.mode == "RGB" else picture.convert("RGB")
    pen = ImageDraw.Draw(picture)
    line = max(1, round(max(picture.size) / 400))
    corners = np.hstack([array[:, :2], array[:, :2] + array[:, 2:]])
    corners = corners.clip(-MARGIN, np.array(picture.size * 2) + MARGIN)  # within Pillow's range
    for (left, top, right, bottom), label in zip(corners.tolist(), labels, strict=True):
        pen.rectangle((left, top, right, bottom), outline=color, width=line)
        if label:
            _write(pen, left, top, label, color, size=max(10, 6 * line))
    drawn = np.empty((picture.height, picture.width, 3), np.uint8)
    copy_rgb(picture, drawn)
    return drawn


def _write(pen: Any, x: float, y: float, label: str, color: Color, size: int) -> None:
    """Write ``label`` on a filled rectangle above (x, y), or below it at the top of the photo."""
    from PIL import ImageFont

    font = ImageFont.load_default(size)
    left, _, right, bottom = pen.textbbox((0, 0), label, font=font)
    y = max(0.0, y - (bottom + 2))
    pen.rectangle((x, y, x + right - left + 4, y + bottom + 2), fill=color)
    pen.text((x + 2, y), label, fill=(0, 0, 0), font=font)
