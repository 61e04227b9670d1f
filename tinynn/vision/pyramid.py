"""Image pyramids: one photo at several scales, so that a fixed window fits objects of any size."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from tinynn.arguments import integer, number
from tinynn.errors import ArgumentError
from tinynn.vision.photo import Photo, as_photo, to_picture

__all__ = ["Level", "image_pyramid"]

MOST_PIXELS = 1 << 29
"""Values of the largest level."""


class Level(NamedTuple):
    """A photo resized by the factors ``scale_x`` and ``scale_y``."""

    photo: Photo
    scale_x: float
    scale_y: float


def image_pyramid(
    photo: Photo, step: float, window: int, min_size: float, max_size: float = math.inf
) -> Iterator[Level]:
    """The levels at which a window of ``window`` pixels fits objects of ``min_size`` and larger.

    Level k is scaled by window / (min_size · step ** k), largest first, and resized with Pillow's
    antialiased bilinear filter. The last level is the one whose shorter side still holds a window
    that covers at most ``max_size`` pixels of the photo. There is none if the photo is smaller
    than ``min_size``.

    Args:
        photo: uint8 (H, W) or (H, W, C).
        step: Ratio of the scales of consecutive levels, above 1.
        window: Side of the window in pixels of the level.
        min_size: Side of the smallest object in pixels of the photo.
        max_size: Side of the largest object in pixels of the photo.

    Raises:
        ArgumentError: If a number is out of range.
    """
    step = number("step", step, 1)
    window = integer("window", window, 1)
    min_size = number("min_size", min_size, 0)
    max_size = number("max_size", max_size, 0, ends="(]")
    array = as_photo(photo)
    scale = window / min_size
    if array.size * scale**2 > MOST_PIXELS and min_size <= min(array.shape[:2]):
        raise ArgumentError(
            f"min_size {min_size} enlarges {array.shape[1]} x {array.shape[0]} pixels by {scale:g}"
        )
    return _levels(array, step, window, min_size, max_size)


def _levels(
    photo: Photo, step: float, window: int, size: float, max_size: float
) -> Iterator[Level]:
    height, width = photo.shape[:2]
    while size <= min(max_size, height, width):
        scale = window / size
        rows, columns = max(1, round(height * scale)), max(1, round(width * scale))
        # The exact factors follow from the rounded number of pixels.
        yield Level(resize(photo, rows, columns), columns / width, rows / height)
        size *= step


def resize(photo: Photo, height: int, width: int) -> Photo:
    """Resize ``photo``, uint8 (H, W, C), to (height, width, C): bilinear, antialiased."""
    from PIL import Image

    resized = to_picture(photo).resize((width, height), Image.Resampling.BILINEAR)
    return np.array(resized).reshape(height, width, photo.shape[2])
