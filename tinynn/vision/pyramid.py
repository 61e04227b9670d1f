"""Image pyramids: one photo at several scales, so that a fixed window fits objects of any size."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from tinynn.errors import ArgumentError
from tinynn.vision.photo import Photo, as_photo, to_picture

__all__ = ["Level", "image_pyramid"]


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
    if step <= 1:
        raise ArgumentError(f"step is the ratio of two scales and must be above 1, got {step}")
    if min_size <= 0 or window <= 0:
        raise ArgumentError(f"window and min_size must be above 0, got {window} and {min_size}")
    array = as_photo(photo)
    height, width = array.shape[:2]
    size = float(min_size)
    while size <= min(max_size, height, width):
        scale = window / size
        rows, columns = max(1, round(height * scale)), max(1, round(width * scale))
        # The exact factors follow from the rounded number of pixels.
        yield Level(resize(array, rows, columns), columns / width, rows / height)
        size *= step


def resize(photo: Photo, height: int, width: int) -> Photo:
    """Resize ``photo``, uint8 (H, W, C), to (height, width, C): bilinear, antialiased."""
    from PIL import Image

    resized = to_picture(photo).resize((width, height), Image.Resampling.BILINEAR)
    return np.array(resized).reshape(height, width, photo.shape[2])
