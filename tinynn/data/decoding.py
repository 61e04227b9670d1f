"""Image files to upright RGB or gray pictures of 8 bits."""

from __future__ import annotations

import functools
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tinynn.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image


def decode(path: Path, *, at_least: int | None = None) -> Image:
    """The picture in the file ``path`` as RGB, turned as the camera's EXIF entry says.

    Transparency is laid on white and 16-bit gray brought to 8 bits. With ``at_least`` the decoder
    may shrink a large JPEG by a power of two as long as no side gets shorter than that many
    pixels. Raises :class:`DataError` that names the file if it holds no whole image or one of more
    pixels than Pillow allows, 2 ``PIL.Image.MAX_IMAGE_PIXELS``.
    """
    from PIL import Image, ImageOps

    if path.is_dir():
        raise DataError(
            f"{path} is a folder, expected the file of one image: name a file in it, or move it "
            "elsewhere if it lies among images"
        )
    _silence_half_the_limit()
    try:
        with Image.open(path) as picture:
            if at_least is not None:
                picture.draft("RGB", (at_least, at_least))
            return _flatten(ImageOps.exif_transpose(picture))
    except Image.DecompressionBombError as error:
        raise DataError(
            f"{path} is too large ({2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels are the limit): "
            "shrink it, leave it out or, if you trust its source, raise PIL.Image.MAX_IMAGE_PIXELS"
        ) from error
    except Exception as error:  # damage shows as OSError, SyntaxError, struct.error, zlib.error ...
        raise DataError(
            f"{path} is no image that can be read ({error or type(error).__name__}): "
            "repair it, or leave it out"
        ) from error


@functools.cache
def _silence_half_the_limit() -> None:
    """Photos from half the limit on are fine; Pillow would warn of each, with a path of its own.

    The filter goes last, so that those who ask for the warning still get it, and is set once:
    ``warnings.catch_warnings`` is not safe on the threads that decode.
    """
    from PIL import Image

    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning, append=True)


def _flatten(picture: Image) -> Image:
    from PIL import Image

    if picture.mode.startswith("I"):  # "I" has 32 bits; a PGM of 16 is read as such
        return Image.fromarray(_upper_eight(np.asarray(picture))).convert("RGB")
    if picture.mode == "F":
        raise ValueError("its pixels are floats, mode F: expected integers of 8 or 16 bits")
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    opaque = picture.convert("RGBA")
    white = Image.new("RGBA", opaque.size, "white")
    return Image.alpha_composite(white, opaque).convert("RGB")


def _upper_eight(gray: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.uint8]:
    low, high = int(gray.min()), int(gray.max())
    if low < 0 or high > 0xFFFF:
        raise ValueError(f"its pixels are from {low} to {high}: expected 16 bits, 0 to 65535")
    return (gray >> 8).astype(np.uint8)
