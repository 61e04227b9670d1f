"""Photos on disk and in memory: uint8 arrays of rows, columns and channels."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tinynn.data.decoding import decode
from tinynn.errors import ArgumentError, DtypeError, ShapeError
from tinynn.files import write_atomically

Photo = npt.NDArray[np.uint8]

LUMA = np.array([299, 587, 114], dtype=np.uint32)
"""Thousandths of red, green and blue (ITU-R BT.601)."""


def read_photo(path: str | os.PathLike[str]) -> Photo:
    """The photo at ``path`` as it is meant to be looked at: uint8 (H, W, 3), upright.

    The camera's EXIF rotation is applied, transparency is laid on white and 16-bit gray is
    brought to 8. Raises ``FileNotFoundError``, or :class:`DataError` if the file is damaged, too
    large or no image.
    """
    file = Path(path)
    if not file.exists():
        raise FileNotFoundError(f"there is no photo {file}")
    return np.array(decode(file), dtype=np.uint8)


def write_photo(path: str | os.PathLike[str], photo: Photo) -> None:
    """Write ``photo``, uint8 (H, W), (H, W, 1) or (H, W, 3); the suffix names the format.

    The file appears under its name only when it is complete. Raises :class:`ArgumentError` if the
    format is unknown or cannot hold a photo.
    """
    from PIL import Image

    three = as_photo(photo)
    picture = Image.fromarray(three[:, :, 0] if three.shape[2] == 1 else three)
    encoded = io.BytesIO()
    suffix = Path(path).suffix
    try:
        picture.save(encoded, format=_format(suffix))
    except (OSError, ValueError, KeyError) as error:  # into memory: it is the format, not the disk
        raise _no_format(suffix) from error
    write_atomically(path, encoded.getvalue())


def as_photo(photo: npt.NDArray[np.generic]) -> Photo:
    """``photo`` with its channel axis: uint8 (H, W), (H, W, 1) or (H, W, 3) to (H, W, C)."""
    if photo.dtype != np.uint8:
        raise DtypeError(
            f"a photo is uint8 with values from 0 to 255, got {photo.dtype}. "
            "For values from 0 to 1: (photo * 255).astype(np.uint8)"
        )
    array = photo[:, :, np.newaxis] if photo.ndim == 2 else photo
    if array.ndim != 3 or array.shape[2] not in (1, 3) or 0 in array.shape:
        raise ShapeError(
            "a photo is (height, width), (height, width, 1) or (height, width, 3), channels last, "
            f"with at least one pixel, got {photo.shape}"
        )
    return array.astype(np.uint8, copy=False)


def to_gray(photo: npt.NDArray[np.generic]) -> Photo:
    """Luma 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601), uint8 (H, W, 1); gray stays as it is."""
    array = as_photo(photo)
    if array.shape[2] == 1:
        return array
    luma = (array @ LUMA + 500) // 1000
    return np.asarray(luma, dtype=np.uint8)[:, :, np.newaxis]


def _format(suffix: str) -> str:
    from PIL import Image

    name = Image.registered_extensions().get(suffix.lower(), "")
    if name not in Image.SAVE:
        raise _no_format(suffix)
    return name


def _no_format(suffix: str) -> ArgumentError:
    return ArgumentError(f"no photo can be written with the suffix {suffix!r}: use .png or .jpg")
