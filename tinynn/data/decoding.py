"""Image files to upright RGB or gray pictures of 8 bits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tinynn.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image


def decode(path: Path, *, at_least: int | None = None) -> Image:
    """The picture in the file ``path`` as RGB, turned as the camera's EXIF entry says.

    Transparency is laid on white and 16-bit gray brought to 8 bits. With ``at_least`` the decoder
    may shrink a large JPEG by a power of two as long as no side gets shorter than that many
    pixels. Raises :class:`DataError` that names the file if it holds no whole image.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as picture:
            if at_least is not None:
                picture.draft("RGB", (at_least, at_least))
            return _flatten(ImageOps.exif_transpose(picture))
    except Exception as error:  # damage shows as OSError, SyntaxError, struct.error, zlib.error ...
        raise DataError(
            f"{path} is no image that can be read ({error or type(error).__name__}): "
            "repair it, or move it out of the folder"
        ) from error


def _flatten(picture: Image) -> Image:
    from PIL import Image

    if picture.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8)).convert("RGB")
    if picture.mode in ("I", "F"):
        raise ValueError(f"its pixels have 32 bits, mode {picture.mode}: expected 8 or 16")
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    opaque = picture.convert("RGBA")
    white = Image.new("RGBA", opaque.size, "white")
    return Image.alpha_composite(white, opaque).convert("RGB")
