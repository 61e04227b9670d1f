"""One photo at many sizes, so that a window of one size meets faces of every size."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from tinynn.errors import ArgumentError
from tinynn.vision.photo import Photo, as_photo


class Level(NamedTuple):
    """A photo resized by ``scale_x`` and ``scale_y``: level = scale x photo, in pixels."""

    photo: Photo
    scale_x: float
    scale_y: float


def image_pyramid(
    photo: Photo, step: float, window: int, min_size: float, max_size: float = math.inf
) -> Iterator[Level]:
    """The sizes at which a window of ``window`` pixels sees objects of ``min_size`` and more.

    Level k is ``photo``, uint8 (H, W) or (H, W, C), times window / (min_size * step ** k): largest
    first, until the shorter side would be less than the window or the window more than
    ``max_size`` pixels of the photo. A photo that holds no object of ``min_size`` has no level.
    Resized by the mean over the covered pixels (Pillow's reducing bilinear filter).
    """
    if step <= 1:
        raise ArgumentError(f"each level is smaller than the one before: step > 1, got {step}")
    if min_size <= 0 or window <= 0:
        raise ArgumentError(f"window and min_size are pixels > 0, got {window} and {min_size}")
    array = as_photo(photo)
    largest = min(max_size, *array.shape[:2])
    size = float(min_size)
    while size <= largest:
        yield _level(array, window / size)
        size *= step


def resize(photo: Photo, height: int, width: int) -> Photo:
    """``photo``, uint8 (H, W, C), as uint8 (height, width, C): bilinear, without aliasing."""
    from PIL import Image

    gray = photo.shape[2] == 1
    picture = Image.fromarray(photo[:, :, 0] if gray else photo)
    resized = np.array(picture.resize((width, height), Image.Resampling.BILINEAR))
    return resized[:, :, np.newaxis] if gray else resized


def _level(photo: Photo, scale: float) -> Level:
    """The level's true scales follow from its whole number of pixels."""
    height, width = photo.shape[:2]
    rows, columns = max(1, round(height * scale)), max(1, round(width * scale))
    return Level(resize(photo, rows, columns), columns / width, rows / height)
