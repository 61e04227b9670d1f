"""Photos on disk: upright, three channels, written whole or not at all."""

import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tinynn.data import decoding
from tinynn.errors import ArgumentError, DataError, DtypeError, ShapeError
from tinynn.vision import read_photo, to_gray, write_photo


@pytest.fixture
def photo() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


class TestReadPhoto:
    def test_gives_rows_columns_and_three_channels(self, tmp_path: Path, photo: np.ndarray) -> None:
        Image.fromarray(photo).save(tmp_path / "a.png")
        read = read_photo(tmp_path / "a.png")
        assert read.dtype == np.uint8
        np.testing.assert_array_equal(read, photo)

    def test_may_be_written_to(self, tmp_path: Path, photo: np.ndarray) -> None:
        write_photo(tmp_path / "a.png", photo)
        assert read_photo(tmp_path / "a.png").flags.writeable

    @pytest.mark.parametrize(
        ("orientation", "turns"), [(1, 0), (3, 2), (6, -1), (8, 1)], ids=["0", "180", "90", "270"]
    )
    def test_honors_the_cameras_rotation(
        self, tmp_path: Path, photo: np.ndarray, orientation: int, turns: int
    ) -> None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(photo).save(tmp_path / "a.png", exif=exif)
        np.testing.assert_array_equal(read_photo(tmp_path / "a.png"), np.rot90(photo, turns))

    def test_gray_becomes_three_equal_channels(self, tmp_path: Path) -> None:
        Image.fromarray(np.uint8([[0, 9], [200, 255]])).save(tmp_path / "a.png")
        np.testing.assert_array_equal(read_photo(tmp_path / "a.png")[1, 0], [200, 200, 200])

    def test_transparent_pixels_are_composited_on_white(self, tmp_path: Path) -> None:
        Image.fromarray(np.uint8([[[255, 0, 0, 0], [255, 0, 0, 255]]])).save(tmp_path / "a.png")
        read = read_photo(tmp_path / "a.png")
        np.testing.assert_array_equal(read, [[[255, 255, 255], [255, 0, 0]]])

    def test_sixteen_bit_gray_keeps_its_upper_eight(self, tmp_path: Path) -> None:
        Image.fromarray(np.uint16([[0, 0x8000, 0xFFFF]])).save(tmp_path / "a.png")
        np.testing.assert_array_equal(read_photo(tmp_path / "a.png")[0, :, 0], [0, 128, 255])

    @pytest.mark.parametrize("byte_order", ["<", ">"])
    def test_sixteen_bit_tiff_is_read_too(self, tmp_path: Path, byte_order: str) -> None:
        gray = np.array([[0, 0x8000, 0xFFFF]], dtype=byte_order + "u2")
        Image.fromarray(gray).save(tmp_path / "a.tif")
        assert read_photo(tmp_path / "a.tif")[0, :, 0].tolist() == [0, 128, 255]

    def test_sixteen_bit_pgm_is_read_too(self, tmp_path: Path) -> None:
        """Pillow reads it with 32 bits per pixel."""
        pixels = np.array([0, 0x8000, 0xFFFF], dtype=">u2").tobytes()
        (tmp_path / "a.pgm").write_bytes(b"P5 3 1 65535\n" + pixels)
        assert read_photo(tmp_path / "a.pgm")[0, :, 0].tolist() == [0, 128, 255]

    @pytest.mark.parametrize("value", [-1, 65536])
    def test_more_than_sixteen_bits_are_refused(self, tmp_path: Path, value: int) -> None:
        Image.fromarray(np.int32([[0, value]])).save(tmp_path / "a.tif")
        with pytest.raises(DataError, match=rf"a\.tif .*from .*{value}.*: expected 16 bits"):
            read_photo(tmp_path / "a.tif")

    def test_a_large_jpeg_keeps_its_detail(self, tmp_path: Path) -> None:
        stripes = np.zeros((800, 800, 3), dtype=np.uint8)
        stripes[:, ::2] = 255
        Image.fromarray(stripes).save(tmp_path / "a.jpg", quality=95)
        read = read_photo(tmp_path / "a.jpg")
        assert read.shape == stripes.shape
        assert abs(read.astype(int) - stripes).mean() < 10

    def test_a_folder_is_called_one(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"is a directory, expected an image file: name"):
            read_photo(tmp_path)

    def test_up_to_the_limit_of_pixels_there_is_no_warning(
        self, tmp_path: Path, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_photo(tmp_path / "a.png", photo)
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30)
        decoding._formats.cache_clear()
        with warnings.catch_warnings(record=True) as shown:
            warnings.resetwarnings()
            assert read_photo(tmp_path / "a.png").shape == (5, 7, 3)
        decoding._formats.cache_clear()
        assert shown == []

    @pytest.mark.filterwarnings("ignore")
    @pytest.mark.parametrize(("maximum", "limit"), [(17, 25), (22, 33)])  # 35 pixels
    def test_beyond_the_limit_it_and_the_way_out_are_named(
        self,
        tmp_path: Path,
        photo: np.ndarray,
        monkeypatch: pytest.MonkeyPatch,
        maximum: int,
        limit: int,
    ) -> None:
        write_photo(tmp_path / "a.png", photo)
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", maximum)
        message = rf"a\.png is too large \(the limit is {limit} pixels\): shrink it.*raise"
        with pytest.raises(DataError, match=message):
            read_photo(tmp_path / "a.png")

    def test_a_damaged_file_names_itself(self, tmp_path: Path, photo: np.ndarray) -> None:
        path = tmp_path / "holiday.png"
        write_photo(path, photo)
        path.write_bytes(path.read_bytes()[:60])
        with pytest.raises(
            DataError, match=r"holiday\.png is not a readable image .*: repair it or remove it"
        ):
            read_photo(path)

    def test_a_foreign_file_names_itself(self, tmp_path: Path) -> None:
        path = tmp_path / "letter.jpg"
        path.write_text("Dear reader")
        with pytest.raises(DataError, match=r"letter\.jpg is not a readable image"):
            read_photo(path)

    def test_a_missing_file_is_a_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="nowhere"):
            read_photo(tmp_path / "nowhere.png")


class TestWritePhoto:
    @pytest.mark.parametrize("shape", [(4, 6), (4, 6, 1), (4, 6, 3)])
    def test_can_be_read_again(self, tmp_path: Path, shape: tuple[int, ...]) -> None:
        photo = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
        write_photo(tmp_path / "a.png", photo)
        expected = np.broadcast_to(photo.reshape(4, 6, -1), (4, 6, 3))
        np.testing.assert_array_equal(read_photo(tmp_path / "a.png"), expected)

    def test_leaves_the_old_file_when_it_fails(
        self, tmp_path: Path, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "a.png"
        write_photo(path, photo)
        before = path.read_bytes()

        def full(self: object, target: object) -> None:
            raise OSError("No space left on device")

        monkeypatch.setattr(Path, "replace", full)
        monkeypatch.setattr(os, "replace", full)
        with pytest.raises(OSError, match="No space"):
            write_photo(path, photo)
        assert path.read_bytes() == before
        assert list(tmp_path.iterdir()) == [path]

    @pytest.mark.parametrize("suffix", [".photo", ".mpg", ".xbm", ".hdf", ""])
    def test_refuses_a_suffix_that_no_photo_can_have(
        self, tmp_path: Path, photo: np.ndarray, suffix: str
    ) -> None:
        with pytest.raises(ArgumentError, match=rf"cannot write a photo .*'{suffix}': use \.png"):
            write_photo(tmp_path / f"a{suffix}", photo)
        assert list(tmp_path.iterdir()) == []

    def test_refuses_floats(self, tmp_path: Path) -> None:
        with pytest.raises(DtypeError, match=r"a photo must be uint8.*got float64.*astype"):
            write_photo(tmp_path / "a.png", np.ones((2, 2)))

    @pytest.mark.parametrize("shape", [(4,), (4, 6, 2), (3, 4, 6), (0, 4, 3)])
    def test_refuses_other_shapes(self, tmp_path: Path, shape: tuple[int, ...]) -> None:
        with pytest.raises(ShapeError, match=r"channels last"):
            write_photo(tmp_path / "a.png", np.zeros(shape, dtype=np.uint8))


class TestToGray:
    def test_is_the_luma_of_bt601(self, photo: np.ndarray) -> None:
        expected = np.rint(photo @ [0.299, 0.587, 0.114])
        gray = to_gray(photo)
        assert (gray.dtype, gray.shape) == (np.uint8, (5, 7, 1))
        assert abs(gray[:, :, 0].astype(int) - expected).max() <= 1

    def test_keeps_black_and_white(self) -> None:
        assert to_gray(np.uint8([[[0, 0, 0], [255, 255, 255]]])).ravel().tolist() == [0, 255]

    @pytest.mark.parametrize("shape", [(2, 3), (2, 3, 1)])
    def test_leaves_gray_as_it_is(self, shape: tuple[int, ...]) -> None:
        assert to_gray(np.full(shape, 7, dtype=np.uint8)).shape == (2, 3, 1)
