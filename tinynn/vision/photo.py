"""Photos on disk and in memory: uint8 arrays (height, width, channels)."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tinynn.data.decoding import STRIP, decode
from tinynn.errors import ArgumentError, DtypeError, ShapeError
from tinynn.files import local_path, write_atomically

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["read_photo", "to_gray", "write_photo"]

Photo = NDArray[np.uint8]

LUMA = np.array([299, 587, 114], dtype=np.uint32)
"""Weights of red, green and blue in thousandths (ITU-R BT.601)."""


def read_photo(path: str | os.PathLike[str]) -> Photo:
    """Read an image file as uint8 (H, W, 3), upright according to its EXIF orientation.

    JPEG, PNG, GIF, BMP, TIFF, WebP, PNM, JPEG 2000 and AVIF are read, HEIC (HEIF) if pillow-heif is
    installed (``'.[heic]'``). Of several images in one file the first is read. Transparent pixels
    are composited on white, 16-bit gray is divided by 256, and color profiles are ignored.

    Raises:
        FileNotFoundError: If there is no such file.
        DataError: If the file is damaged or is not an image, if its pixels are floating-point or
            32-bit integers, whose range is unknown, or if it would take too much memory or time:
            more than 1.5 · ``PIL.Image.MAX_IMAGE_PIXELS`` pixels, 512 MiB, or a JPEG with hundreds
            of scans.

    Warns:
        UserWarning: If the brightest pixel of 16-bit gray is at most 1/8 of the full scale.
    """
    file = local_path(path)
    if not file.exists():
        raise FileNotFoundError(f"there is no photo {file}")
    return decode(file)


def write_photo(path: str | os.PathLike[str], photo: Photo) -> None:
    """Write ``photo``, uint8 (H, W), (H, W, 1) or (H, W, 3), atomically.

    Args:
        path: The suffix selects the file format.
        photo: Values from 0 to 255.

    Raises:
        ArgumentError: If the format is unknown or cannot store the photo.
    """
    from PIL import Image

    picture, suffix, encoded = to_picture(as_photo(photo)), local_path(path).suffix, io.BytesIO()
    try:
        picture.save(encoded, format=Image.registered_extensions()[suffix.lower()])
    except (OSError, ValueError, KeyError) as error:  # saving to memory: not a disk error
        raise ArgumentError(
            f"cannot write a photo of {picture.width} x {picture.height} pixels with the suffix "
            f"{suffix!r}: use .png, or .jpg for at most 65500 pixels per side ({error!r:.80})"
        ) from error
    write_atomically(path, encoded.getvalue())


def as_photo(photo: NDArray[np.generic]) -> Photo:
    """Check ``photo``, uint8 (H, W), (H, W, 1) or (H, W, 3), and add a missing channel axis."""
    if not isinstance(photo, np.ndarray):
        raise DtypeError(
            f"a photo must be a uint8 array (height, width, channels), got {type(photo).__name__}: "
            "read_photo(path) reads a file, np.asarray(picture) converts an image of Pillow"
        )
    if photo.dtype != np.uint8:
        raise DtypeError(
            f"a photo must be uint8 with values from 0 to 255, got {photo.dtype}. "
            "Convert values in [0, 1] with (photo * 255).astype(np.uint8)"
        )
    array = np.asarray(photo, np.uint8)
    array = array[:, :, np.newaxis] if array.ndim == 2 else array
    if array.ndim != 3 or array.shape[2] not in (1, 3) or 0 in array.shape:
        raise ShapeError(
            "a photo must be (height, width), (height, width, 1) or (height, width, 3), channels "
            f"last, with at least one pixel, got {photo.shape}"
        )
    return array


def to_picture(photo: Photo) -> Image:
    """``photo``, (H, W, C), as an image of Pillow, in gray or RGB."""
    from PIL import Image

    return Image.fromarray(photo[:, :, 0] if photo.shape[2] == 1 else photo)


def to_gray(photo: NDArray[np.generic]) -> Photo:
    """Luma 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601), uint8 (H, W, 1); gray is unchanged."""
    array = as_photo(photo)
    if array.shape[2] == 1:
        return array
    gray = np.empty((*array.shape[:2], 1), np.uint8)
    rows = max(1, STRIP // array.shape[1])
    for top in range(0, len(array), rows):  # a strip at a time: sums take 16 bytes per pixel
        gray[top : top + rows, :, 0] = (array[top : top + rows] @ LUMA + 500) // 1000
    return gray
