"""Decode image files to upright 8-bit RGB."""

from __future__ import annotations

import functools
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tinynn.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image


def decode(path: Path, *, at_least: int | None = None) -> Image:
    """The image stored in ``path`` as RGB, rotated according to its EXIF orientation.

    Transparent pixels are composited on white and 16-bit gray is reduced to 8 bits.

    Args:
        path: An image file of any format that Pillow reads.
        at_least: Allows the decoder to downscale a large JPEG by a power of two while both sides
            stay at least this many pixels.

    Raises:
        DataError: If the file is damaged, is not an image, or exceeds Pillow's pixel limit,
            2 · ``PIL.Image.MAX_IMAGE_PIXELS``.
    """
    from PIL import Image, ImageOps

    if path.is_dir():
        raise DataError(
            f"{path} is a directory, expected an image file: name a file inside it, or move the "
            "directory elsewhere if it is among images"
        )
    _ignore_size_warnings()
    try:
        with Image.open(path) as picture:
            if at_least is not None:
                picture.draft("RGB", (at_least, at_least))
            return _to_rgb(ImageOps.exif_transpose(picture))
    except Image.DecompressionBombError as error:
        raise DataError(
            f"{path} is too large (the limit is {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels): "
            "shrink it, remove it or, if you trust its source, raise PIL.Image.MAX_IMAGE_PIXELS"
        ) from error
    except Exception as error:  # damage surfaces as OSError, SyntaxError, struct.error, zlib.error
        raise DataError(
            f"{path} is not a readable image ({error or type(error).__name__}): "
            "repair it or remove it"
        ) from error


@functools.cache
def _ignore_size_warnings() -> None:
    """Accept photos above half of Pillow's pixel limit silently; Pillow would warn about each.

    The filter is appended, so filters set by the user take precedence, and it is installed once:
    ``warnings.catch_warnings`` is not safe in the threads that decode.
    """
    from PIL import Image

    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning, append=True)


def _to_rgb(picture: Image) -> Image:
    from PIL import Image

    if picture.mode.startswith("I"):  # Pillow opens a 16-bit PGM as 32-bit "I"
        gray = np.asarray(picture)
        low, high = int(gray.min()), int(gray.max())
        if low < 0 or high > 0xFFFF:
            raise ValueError(f"pixel values from {low} to {high}: expected 16 bits, 0 to 65535")
        return Image.fromarray((gray >> 8).astype(np.uint8)).convert("RGB")
    if picture.mode == "F":
        raise ValueError("floating-point pixels, mode F: expected integers of 8 or 16 bits")
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    opaque = picture.convert("RGBA")
    white = Image.new("RGBA", opaque.size, "white")
    return Image.alpha_composite(white, opaque).convert("RGB")
