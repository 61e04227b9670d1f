"""Files as cameras, editors, scanners and attackers write them: read correctly or refused."""

import io
import os
import socket
import struct
import subprocess
import sys
import time
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tinynn.data import ImageFolder, decoding
from tinynn.errors import DataError
from tinynn.vision import read_photo

ROOT = Path(__file__).parents[2]
STORED = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


def encoded(picture: Image.Image | np.ndarray, file_format: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
    picture.save(file, file_format, **options)
    return file.getvalue()


def written(tmp_path: Path, content: bytes) -> Path:
    (tmp_path / "odd.jpg").write_bytes(content)
    return tmp_path / "odd.jpg"


# -- metadata ------------------------------------------------------------------------------------


def entry(tag: int, kind: int, count: int, value: bytes) -> bytes:
    return struct.pack("<HHI", tag, kind, count) + value


ODD_ENTRIES = {
    "resolution as text": entry(0x11A, 2, 3, b"ab\0\0"),
    "resolution of no values": entry(0x11A, 5, 0, bytes(4)),
    "resolution beyond the end": entry(0x11A, 5, 1, b"\xff\xff\xff\x7f"),
    "resolution divided by 0": entry(0x11A, 5, 1, struct.pack("<I", 0)),
    "unit as text": entry(0x128, 2, 3, b"cm\0\0"),
    "positions beyond the end": entry(0x213, 5, 1, struct.pack("<I", 8)),
    "2**31 values": entry(0x213, 3, 2**31, bytes(4)),
    "unknown type": entry(0x213, 99, 1, bytes(4)),
    "EXIF directory that is the first again": entry(0x8769, 4, 1, struct.pack("<I", 8)),
    "EXIF directory as text": entry(0x8769, 2, 3, b"ab\0\0"),
    "GPS directory beyond the end": entry(0x8825, 4, 1, b"\xff\xff\xff\x7f"),
}


def exif(*entries: bytes, following: int = 0) -> bytes:
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + struct.pack("<I", following)
    return b"Exif\0\0II*\0\x08\0\0\0" + directory


@pytest.mark.filterwarnings("ignore::UserWarning")  # of Pillow, about the metadata
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("odd", ODD_ENTRIES)
def test_odd_exif_does_not_keep_a_photo_from_being_upright(
    tmp_path: Path, odd: str, file_format: str, first: bool
) -> None:
    entries = [entry(0x112, 3, 1, b"\6\0\0\0"), ODD_ENTRIES[odd]]
    data = exif(*(reversed(entries) if first else entries), following=8)
    path = written(tmp_path, encoded(Image.new("RGB", (8, 6)), file_format, exif=data))
    assert read_photo(path).shape == (8, 6, 3)


@pytest.mark.parametrize(
    "data",
    [
        b"Exif\0\0",
        b"Exif\0\0II*\0",
        b"Exif\0\0no TIFF header",
        b"garbage",
        exif(entry(0x112, 3, 1, b"\x09\0\0\0")),
        exif(entry(0x112, 2, 2, b"6\0\0\0")),
        exif(entry(0x112, 3, 2, b"\6\0\6\0")),
        exif(entry(0x112, 11, 1, struct.pack("<f", 6.5))),
        exif(entry(0x112, 3, 0, bytes(4))),
        exif(entry(0x112, 9, 1, struct.pack("<i", -6))),
    ],
    ids=lambda data: data[6:30].hex(),
)
def test_an_orientation_that_is_none_leaves_the_photo_as_stored(
    tmp_path: Path, data: bytes
) -> None:
    path = written(tmp_path, encoded(Image.new("RGB", (8, 6)), "JPEG", exif=data))
    assert read_photo(path).shape == (6, 8, 3)


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_that_of_pillow(
    tmp_path: Path, orientation: int, file_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import ImageOps

    monkeypatch.setattr(decoding, "STRIP", 18, raising=False)  # two rows
    data = Image.Exif()
    data[0x112] = orientation
    path = written(tmp_path, encoded(STORED, file_format, exif=data))
    with Image.open(path) as picture:
        np.testing.assert_array_equal(read_photo(path), ImageOps.exif_transpose(picture))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


LONG = zlib.compress(bytes(2 << 20))
ODD_CHUNKS = {
    "compressed text": chunk(b"zTXt", b"note\0\0" + LONG),
    "international text": chunk(b"iTXt", b"note\0\1\0\0\0" + LONG),
    "color profile": chunk(b"iCCP", b"name\0\0" + LONG),
    "color profile of unknown compression": chunk(b"iCCP", b"name\0\7" + LONG),
    "much text": 70 * chunk(b"zTXt", b"note\0\0" + zlib.compress(bytes(1 << 20))),
    "empty sRGB": chunk(b"sRGB", b""),
    "empty gamma": chunk(b"gAMA", b""),
    "short resolution": chunk(b"pHYs", b"1"),
    "short chromaticities": chunk(b"cHRM", b"1"),
    "wrong checksum": chunk(b"tEXt", b"note\0text")[:-4] + b"oops",
    "short animation": chunk(b"acTL", b"1"),
    "short frame": chunk(b"fcTL", b"1"),
    "EXIF that is none": chunk(b"eXIf", b"1"),
}


@pytest.mark.parametrize("where", [b"IDAT", b"IEND"])
@pytest.mark.parametrize("odd", ODD_CHUNKS)
def test_a_png_is_read_whatever_its_metadata(tmp_path: Path, odd: str, where: bytes) -> None:
    png = encoded(STORED, "PNG")
    position = png.index(where) - 4
    path = written(tmp_path, png[:position] + ODD_CHUNKS[odd] + png[position:])
    np.testing.assert_array_equal(read_photo(path), STORED)


# -- pixels --------------------------------------------------------------------------------------


def tiff(values: list[int], dtype: str, **tags: int) -> bytes:
    return encoded(np.array([values], dtype), "TIFF", **tags)


def twelve_bits() -> bytes:
    """A TIFF of the 12-bit values 0, 2048 and 4095."""
    tags = [(256, 3), (257, 1), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 1)]
    tags.append((279, 5))
    directory = b"".join(entry(tag, 4, 1, struct.pack("<I", value)) for tag, value in tags)
    pixels = bytes([0x00, 0x08, 0x00, 0xFF, 0xF0])
    return b"II*\0\x10\0\0\0" + pixels + bytes(3) + struct.pack("<H", 9) + directory + bytes(4)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (tiff([0, 0x8000, 0xFFFF], "<u2"), [0, 128, 255]),
        (tiff([0, 0x8000, 0xFFFF], "<u2", tiffinfo={262: 0}), [255, 127, 0]),
        (twelve_bits(), [0, 128, 255]),
        (encoded(np.uint16([[0, 0x8000, 0xFFFF]]), "JPEG2000"), [0, 128, 255]),
        (b"P5 3 1 4095\n" + np.array([0, 2048, 4095], ">u2").tobytes(), [0, 128, 255]),
        (b"P2 3 1 255\n0 128 255", [0, 128, 255]),
        (encoded(Image.fromarray(np.uint8([[0, 255, 0]])).convert("1"), "PNG"), [0, 255, 0]),
    ],
    ids=["16 bits", "white is 0", "12 bits", "JPEG 2000", "12-bit PGM", "plain PGM", "1 bit"],
)
def test_gray_of_any_depth_has_its_full_range(
    tmp_path: Path, content: bytes, expected: list[int]
) -> None:
    assert read_photo(written(tmp_path, content))[0, :, 0].tolist() == expected


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (tiff([0, 100, 255], "<i4"), "32-bit integers from 0 to 255: expected 16 bits"),
        (tiff([0, 100, 65535], "<i4"), "32-bit integers from 0 to 65535: expected 16 bits"),
        (tiff([0, 1, 255], "<u2"), "16-bit pixels of at most 255"),
        (encoded(np.float32([[0, 0.5, 1]]), "TIFF"), "floating-point pixels"),
    ],
    ids=["int32", "large int32", "black", "float"],
)
def test_pixels_of_unknown_brightness_are_refused(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    with pytest.raises(DataError, match=rf"odd\.jpg is not a readable image \(.*{reason}"):
        read_photo(written(tmp_path, content))


@pytest.mark.parametrize("file_format", ["TIFF", "PNG"])
def test_dark_sixteen_bit_gray_is_read_with_a_warning(tmp_path: Path, file_format: str) -> None:
    path = written(tmp_path, encoded(np.uint16([[0, 2048, 4095]]), file_format))
    with pytest.warns(UserWarning, match=r"odd\.jpg is dark: .* at most 4095 of 65535"):
        assert read_photo(path)[0, :, 0].tolist() == [0, 8, 15]


def test_black_is_black(tmp_path: Path) -> None:
    assert read_photo(written(tmp_path, tiff([0, 0], "<u2"))).max() == 0


def test_heic_is_read_if_pillow_heif_is_installed(tmp_path: Path) -> None:
    pytest.importorskip("pillow_heif", reason="the extra `heic`")
    decoding._formats()
    photo = np.full((64, 96, 3), 200, np.uint8)
    photo[:, :48] = 20
    path = written(tmp_path, encoded(photo, "HEIF"))
    assert abs(read_photo(path).astype(int) - photo).mean() < 5


def test_without_pillow_heif_its_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.setattr(Image, "OPEN", {k: v for k, v in Image.OPEN.items() if k != "HEIF"})
    decoding._formats.cache_clear()
    with pytest.raises(DataError, match=r"HEIC needs pillow-heif, pip install -e '\.\[heic\]'"):
        read_photo(written(tmp_path, b"\0\0\0\x18ftypheic" + bytes(40)))
    decoding._formats.cache_clear()


# -- files that are no photos, or take too long ----------------------------------------------------


def progressive(side: int, scans: int) -> bytes:
    """A JPEG whose last scan is repeated."""
    jpeg = encoded(Image.new("L", (side, side), 128), "JPEG", progressive=True)
    last = jpeg[jpeg.rindex(b"\xff\xda") : -2]
    return jpeg[:-2] + last * scans + jpeg[-2:]


def run_length_bmp(width: int, height: int) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, 9, 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 1087, 0, 0, 1078) + header + bytes(1024 + 9)


REFUSED = {
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "JPEG"),
    "PDF": (b"%PDF-1.7\n", "not an intact file of the formats JPEG"),
    "SVG": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an intact file"),
    "icon": (encoded(Image.new("RGB", (16, 16)), "ICO"), "not an intact file"),
    "preview": (encoded(STORED, "TIFF", tiffinfo={254: 1}), "its first image is a preview"),
    "empty": (b"", "not an intact file"),
    "scans": (progressive(2000, 1200), "too long"),
    "plain PPM": (b"P3 5000 5000 255\n" + b"1 " * 99, "too long"),
    "run-length BMP": (run_length_bmp(5000, 5000), "too long"),
    "truncated JPEG": (encoded(STORED, "JPEG")[:-40], "not a readable image"),
    "truncated PNG": (encoded(STORED, "PNG")[:-40], "not a readable image"),
    "truncated TIFF": (encoded(STORED, "TIFF")[:-40], "not a readable image"),
    "truncated GIF": (encoded(STORED, "GIF")[:-40], "not a readable image"),
    "truncated WebP": (encoded(STORED, "WEBP")[:-9], "not a readable image"),
    "HEIC": (b"\0\0\0\x18ftypheic" + bytes(40), "not a"),
    "pixels": (b"P5 20000 20000 255\n", r"too large \(the limit is 134,217,727 pixels\)"),
    "JPEG of 4 gigapixels": (
        progressive(8, 0).replace(b"\0\x08\0\x08", b"\xff\xff\xff\xff"),
        "too large",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_photo_or_too_costly_is_refused(tmp_path: Path, kind: str) -> None:
    content, reason = REFUSED[kind]
    with pytest.raises(DataError, match=rf"odd\.jpg .*{reason}"):
        read_photo(written(tmp_path, content))


@pytest.mark.parametrize(
    ("file_format", "limit"), [("PNG", 150), ("JPEG", 150), ("JPEG2000", 75), ("WEBP", 75)]
)
def test_the_limit_of_pixels_is_that_of_the_formats_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file_format: str, limit: int
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    path = written(tmp_path, encoded(Image.new("RGB", (5, limit // 5)), file_format))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert read_photo(path).shape == (limit // 5, 5, 3)
        path = written(tmp_path, encoded(Image.new("RGB", (5, limit // 5 + 1)), file_format))
        with pytest.raises(DataError, match=rf"too large \(the limit is {limit} pixels\)"):
            read_photo(path)


def test_one_large_image_is_decoded_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, most = 0, 0
    convert = decoding._upright

    def noted(*arguments: object) -> np.ndarray:
        nonlocal running, most
        running += 1
        most = max(most, running)
        time.sleep(0.002)
        running -= 1
        return convert(*arguments)

    monkeypatch.setattr(decoding, "_upright", noted)
    monkeypatch.setattr(decoding, "LARGE", STORED[..., 0].size - 1)
    path = written(tmp_path, encoded(STORED, "PNG"))
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(read_photo, [path] * 12))
    assert most == 1


@pytest.fixture(params=["pipe", "socket", "device", "link to a pipe", "directory", "huge", "gone"])
def no_file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A path that is no regular file of moderate size."""
    path = tmp_path / "odd.jpg"
    if request.param == "pipe":
        os.mkfifo(path)
    elif request.param == "link to a pipe":
        os.mkfifo(tmp_path / "pipe")
        path.symlink_to(tmp_path / "pipe")
    elif request.param == "device":
        path.symlink_to("/dev/zero")
    elif request.param == "directory":
        path.mkdir()
    elif request.param == "gone":
        path.symlink_to(tmp_path / "nowhere")
    elif request.param == "huge":
        with path.open("wb") as file:
            file.truncate(1 << 40)
    else:
        request.getfixturevalue("monkeypatch").chdir(tmp_path)  # names of sockets are short
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("odd.jpg")
    return path


@pytest.mark.skipif(os.name != "posix", reason="the files are those of POSIX")
def test_what_is_no_regular_file_is_refused_at_once(no_file: Path) -> None:
    with pytest.raises(DataError, match=r"odd\.jpg"):
        decoding.decode(no_file)


@pytest.mark.skipif(os.name != "posix", reason="the files are those of POSIX")
def test_among_photos_of_a_dataset_it_is_skipped(no_file: Path, tmp_path: Path) -> None:
    for person in ("ann", "bob"):
        (tmp_path / "people" / person).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "people" / person / "1.png")
    no_file.rename(tmp_path / "people" / "ann" / "odd.jpg")
    with pytest.raises(DataError, match=r"odd\.jpg"):
        ImageFolder(tmp_path / "people", size=8)
    with pytest.warns(UserWarning, match=r"skipped: .*odd\.jpg"):
        folder = ImageFolder(tmp_path / "people", size=8, on_error="skip")
    assert [path.name for path in folder.paths] == ["1.png", "1.png"]


# -- memory --------------------------------------------------------------------------------------

MEASURE = """
import re, sys; from tinynn.vision import read_photo
def peak(): return int(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1]) << 10
small, *large = sys.argv[1:]; read_photo(small); before = peak()
for name in large: read_photo(name); print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_reading_takes_few_bytes_per_pixel(tmp_path: Path) -> None:
    side, names = 2500, []
    data = Image.Exif()
    data[0x112] = 6
    for name, mode in enumerate(["RGB", "L", "RGB", "RGBA", "LA", "P"]):
        names.append(f"{tmp_path}/{name}.png")
        width = side if name else 8
        options = {"transparency": 0} if mode == "P" else {}
        Image.new(mode, (width, width)).save(names[-1], exif=data, compress_level=1, **options)
    printed = subprocess.run(
        [sys.executable, "-c", MEASURE, *names], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": "."}, check=True,
    ).stdout  # fmt: skip
    overhead = 25 << 20  # of the strips
    assert max(map(int, printed.split())) < 8 * side**2 + overhead
