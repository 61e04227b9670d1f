"""Decode image files to upright 8-bit RGB."""

from __future__ import annotations

import functools
import io
import math
import stat
import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tinynn.errors import DataError
from tinynn.messages import reason, warn

if TYPE_CHECKING:
    from PIL.Image import Image

Pixels = NDArray[np.uint8]

FORMATS = ("JPEG", "MPO", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF", "HEIF")
"""Formats that are read. Others of Pillow are not photos, and for EPS it runs Ghostscript."""

PIXEL_SHARE = 1.5
"""Pixels of the largest image, relative to ``PIL.Image.MAX_IMAGE_PIXELS``: 134 million by default.

Decoding takes about 7 bytes per pixel: 4 in Pillow and 3 in the result.
"""

MEMORY = {"JPEG2000": 2, "WEBP": 2, "HEIF": 2}
"""Formats that take more memory than others, and by how much; their limit is lower by as much."""

LARGEST_FILE = 1 << 29
"""Bytes of the largest file; the largest image has 403 MB uncompressed."""

MOST_VISITS = 1 << 32
"""Limit of pixels times scans of a file: decoding takes 1 to 4 ns per pixel and scan."""

SLOW_DECODERS = {"ppm_plain": 256, "bmp_rle": 256}
"""Decoders that are written in Python, and the number of scans that take as long."""

LARGE = 1 << 25
"""Images with more pixels are decoded one at a time, to limit the memory of several threads."""

STRIP = 1 << 20
"""Pixels that are converted at a time."""

# Tags of EXIF and TIFF
ORIENTATION, BITS_PER_SAMPLE, PHOTOMETRIC, WHITE_IS_ZERO = 274, 258, 262, 0
SUBFILE, PREVIEW = 254, 1
ORIENTATIONS = range(1, 9)
SHORT = 3  # type of an entry

_PIXEL_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"eXIf", b"IDAT", b"IEND")  # of a PNG
_JFIF = b"\xff\xe0\0\x10JFIF\0\1\1\1\0\x48\0\x48\0\0"  # a resolution of 72 dpi
_large_image = threading.Lock()


def decode(path: Path, *, at_least: int | None = None) -> Pixels:
    """The image stored in ``path``, uint8 (H, W, 3), rotated according to its EXIF orientation.

    Transparent pixels are composited on white, 16-bit gray is divided by 256, and color profiles
    are ignored. Of several images in one file the first is read.

    Args:
        path: A regular file in one of ``FORMATS``; HEIF needs the extra ``heic``.
        at_least: Allows the decoder to downscale a large JPEG by a power of two while both sides
            stay at least this many pixels.

    Raises:
        DataError: If the file is damaged, is not an image, or exceeds ``PIXEL_SHARE``,
            ``LARGEST_FILE`` or ``MOST_VISITS``.

    Warns:
        UserWarning: If the brightest pixel of a 16-bit image has at most 1/8 of the full scale.
    """
    errors: list[Exception] = []
    for content in _attempts(_content(path)):
        try:
            return _decoded(content, path, at_least)
        except DataError:
            raise
        except MemoryError as error:
            raise DataError(f"{path} does not fit in memory: shrink it") from error
        except Exception as error:  # damage surfaces as OSError, SyntaxError, zlib.error and more
            errors.append(error)
    raise DataError(
        f"{path} is not a readable image ({_reason(errors[0], content)}): repair it or remove it"
    ) from errors[0]


def _content(path: Path) -> bytes:
    """The bytes of a regular file: a pipe may never end, and reading a device may change it."""
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise DataError(
                f"{path} is a directory, expected an image file: name a file inside it, or move "
                "the directory elsewhere if it is among images"
            )
        if not stat.S_ISREG(status.st_mode):
            raise DataError(f"{path} is a pipe, socket or device: expected an image file")
        if status.st_size > LARGEST_FILE:
            raise DataError(f"{path} has {status.st_size:,} bytes, the limit is {LARGEST_FILE:,}")
        with path.open("rb") as file:
            return file.read(status.st_size)
    except OSError as error:
        raise DataError(f"{path} is not a readable image ({reason(error)})") from error


def _attempts(content: bytes) -> Iterator[bytes]:
    """The content, then, if Pillow fails, the content without metadata that may be the reason."""
    yield content
    if content.startswith(b"\xff\xd8"):  # Pillow looks in EXIF for a resolution if there is none
        yield content[:2] + _JFIF + content[2:]
    if content.startswith(b"\x89PNG"):  # Pillow limits the size of texts and color profiles
        yield content[:8] + b"".join(_pixel_chunks(content))


def _pixel_chunks(png: bytes) -> Iterator[bytes]:
    start = 8
    while start < len(png):
        end = start + 12 + int.from_bytes(png[start : start + 4], "big")
        if png[start + 4 : start + 8] in _PIXEL_CHUNKS:
            yield png[start:end]
        start = end


def _decoded(content: bytes, path: Path, at_least: int | None) -> Pixels:
    from PIL import Image

    limit = PIXEL_SHARE * (Image.MAX_IMAGE_PIXELS or math.inf)
    try:
        picture = Image.open(io.BytesIO(content), formats=_formats())
    except Image.DecompressionBombError as error:
        raise _too_large(path, limit) from error
    with picture:
        memory = MEMORY.get(picture.format or "", 1)
        pixels = math.prod(picture.size) * memory
        if pixels > limit:
            raise _too_large(path, limit / memory)
        _check_scans(picture, content)
        if getattr(picture, "tag_v2", {}).get(SUBFILE) == PREVIEW:
            raise ValueError("its first image is a preview, as in raw files of cameras")
        drafted = at_least is not None and picture.draft("RGB", (at_least, at_least))
        if drafted and "progressive" not in picture.info:  # whose coefficients are all in memory
            pixels = math.prod(picture.size)
        with _large_image if pixels > LARGE else nullcontext():
            picture.load()
            return _upright(picture, path)


def _too_large(path: Path, limit: float) -> DataError:
    return DataError(
        f"{path} is too large (the limit is {int(limit):,} pixels): shrink it, remove it or, if "
        "you trust its source, raise PIL.Image.MAX_IMAGE_PIXELS"
    )


def _check_scans(picture: Image, content: bytes) -> None:
    """Refuse what would take minutes: a JPEG may refine its pixels in any number of scans."""
    decoders = [tile[0] for tile in getattr(picture, "tile", ())]
    scans = max((SLOW_DECODERS.get(name, 1) for name in decoders), default=1)
    if "jpeg" in decoders:
        scans = content.count(b"\xff\xda")
    if math.prod(picture.size) * scans > MOST_VISITS:
        raise ValueError(f"decoding {picture.size} pixels with {scans} scans takes too long")


@functools.cache
def _formats() -> list[str]:
    """The available ones of ``FORMATS``. Prepares Pillow, once.

    Pillow's warning about images above half its limit of pixels is ignored. The filter is appended,
    so filters set by the user take precedence; ``warnings.catch_warnings`` is not safe in threads.
    """
    from PIL import Image

    with suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning, append=True)
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _reason(error: Exception, content: bytes) -> str:
    from PIL import UnidentifiedImageError

    if not isinstance(error, UnidentifiedImageError):
        return reason(error)
    if content[4:8] == b"ftyp" and "HEIF" not in _formats():
        return "HEIC needs pillow-heif, pip install -e '.[heic]'"
    return f"not an intact file of the formats {', '.join(FORMATS)}"


def _upright(picture: Image, path: Path) -> Pixels:
    """The pixels of a loaded picture, converted strip by strip into the upright image."""
    orientation = _orientation(picture)
    width, height = picture.size
    upright = np.empty((height, width, 3) if orientation < 5 else (width, height, 3), np.uint8)
    stored = upright if orientation < 5 else upright.swapaxes(0, 1)
    down = -1 if orientation in (3, 4, 6, 7) else 1
    right = -1 if orientation in (2, 3, 7, 8) else 1
    stored = stored[::down, ::right]  # a view: what is written to it appears upright
    if picture.mode.startswith("I"):
        stored[...] = _eight_bits(picture, path)[:, :, np.newaxis]
    else:
        copy_rgb(picture, stored)
    return upright


def copy_rgb(picture: Image, out: Pixels) -> None:
    """Convert a loaded picture to RGB, strip by strip, into an array (H, W, 3)."""
    width, height = picture.size
    rows = max(1, STRIP // width)
    for top in range(0, height, rows):
        strip = picture.crop((0, top, width, min(top + rows, height)))
        out[top : top + rows] = np.asarray(_to_rgb(strip))


def _orientation(picture: Image) -> int:
    """The EXIF orientation, 1 to 8; 1 if there is none or the metadata is damaged."""
    found: object = 0
    with suppress(KeyError, AttributeError, struct.error):
        found = _stored_orientation(picture.info["exif"].removeprefix(b"Exif\0\0"))
    if found not in ORIENTATIONS:
        with suppress(Exception):  # no better known than that of a damaged image
            found = picture.getexif().get(ORIENTATION)  # also of TIFF and XMP
    return found if isinstance(found, int) and found in ORIENTATIONS else 1


def _stored_orientation(exif: bytes) -> int:
    """The entry of the first directory; Pillow reads none behind one that is damaged."""
    order = ">" if exif.startswith(b"MM") else "<"
    (start,) = struct.unpack_from(f"{order}4xI", exif)
    (count,) = struct.unpack_from(f"{order}H", exif, start)
    for position in range(start + 2, start + 2 + 12 * count, 12):
        tag, kind, values, value = struct.unpack_from(f"{order}HHIH", exif, position)
        if (tag, kind, values) == (ORIENTATION, SHORT, 1):
            return int(value)
    return 0


def _eight_bits(picture: Image, path: Path) -> Pixels:
    """The upper 8 bits of 16-bit gray. Pillow opens a 16-bit PGM as 32-bit "I"."""
    gray = np.asarray(picture)
    if picture.mode == "I" and picture.format not in ("PNG", "PPM"):
        raise ValueError(
            f"32-bit integers from {gray.min()} to {gray.max()}: expected 16 bits, 0 to 65535"
        )
    tags = getattr(picture, "tag_v2", {})  # of a TIFF
    full = (1 << tags.get(BITS_PER_SAMPLE, (16,))[0]) - 1
    if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        gray = full - gray
    high, unit = int(gray.max()), (full + 1) // 256
    if 0 < high < unit:
        raise ValueError(f"16-bit pixels of at most {high}, which is black: scale them to {full}")
    if 0 < high <= full // 8:
        warn(f"{path} is dark: its pixels are at most {high} of {full}")
    return np.asarray(gray // unit, np.uint8)


def _to_rgb(picture: Image) -> Image:
    from PIL import Image

    if picture.mode == "F":
        raise ValueError("floating-point pixels, mode F: expected integers of 8 or 16 bits")
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    opaque = picture.convert("RGBA")
    white = Image.new("RGBA", opaque.size, "white")
    return Image.alpha_composite(white, opaque).convert("RGB")
