"""Datasets of arrays and of directories of photos."""

import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from tinynn.data import ArrayDataset, ImageFolder, dataset, pool
from tinynn.data.decoding import decode
from tinynn.errors import ArgumentError, DataError, DtypeError, ShapeError

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


@pytest.fixture
def folder(tmp_path):
    """Two people with two photos each: ada's are red, ben's are blue."""
    for name, color in [("ben", BLUE), ("ada", RED)]:
        (tmp_path / name).mkdir()
        for number in (2, 1):
            Image.new("RGB", (30, 20), color).save(tmp_path / name / f"{number}.png")
    return tmp_path


class TestArrayDataset:
    images = np.arange(3 * 2 * 2 * 1, dtype=np.uint8).reshape(3, 2, 2, 1)

    def test_an_integer_gives_one_example_and_an_array_a_batch(self):
        dataset = ArrayDataset(self.images, [5, 6, 7])
        image, label = dataset[1]
        images, labels = dataset[np.array([2, 0])]
        assert len(dataset) == 3
        assert np.array_equal(image, self.images[1])
        assert label == 6
        assert np.array_equal(images, self.images[[2, 0]])
        assert labels.tolist() == [7, 5]

    def test_labels_become_int64(self):
        assert ArrayDataset(self.images, np.array([0, 1, 0], np.uint8)).labels.dtype == np.int64

    def test_rows_of_features_are_examples_too(self):
        assert ArrayDataset(np.zeros((3, 64), np.float32), [0, 1, 2])[0][0].shape == (64,)

    def test_images_of_another_dtype_are_refused(self):
        with pytest.raises(DtypeError, match=r"uint8 .* or float32 .*, got float64: convert"):
            ArrayDataset(np.zeros((3, 2, 2, 1)), [0, 1, 2])

    def test_gray_images_need_their_channel_axis(self):
        with pytest.raises(ShapeError, match=r"got \(3, 2, 2\): .* images\[\.\.\., np.newaxis\]"):
            ArrayDataset(self.images[..., 0], [0, 1, 2])

    def test_a_single_row_is_no_batch(self):
        with pytest.raises(ShapeError, match=r"\(N, H, W, C\), .* or features .*, got \(12,\)"):
            ArrayDataset(self.images.ravel(), [0])

    def test_names_are_no_labels(self):
        with pytest.raises(DtypeError, match=r"integer labels.*got <U3: np.unique"):
            ArrayDataset(self.images, ["ada", "ben", "ada"])

    def test_a_single_label_is_no_batch(self):
        with pytest.raises(ShapeError, match=r"one label per image.*got a single number"):
            ArrayDataset(self.images, 1)

    def test_each_image_has_a_label(self):
        with pytest.raises(ShapeError, match="got 3 images and 2 labels"):
            ArrayDataset(self.images, [0, 1])


class TestImageFolder:
    def test_folders_are_classes_in_the_order_of_their_names(self, folder):
        dataset = ImageFolder(folder, size=8)
        assert dataset.classes == ["ada", "ben"]
        assert dataset.labels.tolist() == [0, 0, 1, 1]
        assert dataset.labels.dtype == np.int64
        assert [path.name for path in dataset.paths] == ["1.png", "2.png", "1.png", "2.png"]

    def test_photos_are_uint8_with_channels_last(self, folder):
        images, labels = ImageFolder(folder, size=(8, 10))[np.array([3, 0])]
        assert images.shape == (2, 8, 10, 3)
        assert images.dtype == np.uint8
        assert images[:, 4, 5].tolist() == [list(BLUE), list(RED)]
        assert labels.tolist() == [1, 0]

    def test_an_integer_gives_one_photo(self, folder):
        image, label = ImageFolder(folder, size=8)[2]
        assert (image.shape, label) == ((8, 8, 3), 1)

    def test_gray_photos_have_one_channel(self, folder):
        image, _ = ImageFolder(folder, size=8, gray=True)[0]
        assert image.shape == (8, 8, 1)
        assert image[0, 0, 0] == round(255 * 0.299)

    def test_the_middle_is_kept(self, folder):
        wide = Image.new("RGB", (90, 30), BLUE)
        wide.paste(RED, (30, 0, 60, 30))
        wide.save(folder / "ada" / "1.png")
        image, _ = ImageFolder(folder, size=30)[0]
        assert (image == RED).all()

    def test_photos_stand_upright(self, folder):
        lying = Image.new("RGB", (40, 40), BLUE)
        lying.paste(RED, (0, 0, 20, 40))
        exif = Image.Exif()
        exif[0x0112] = 6  # orientation: to be turned by 90 degrees clockwise
        lying.save(folder / "ada" / "1.png", exif=exif)
        image, _ = ImageFolder(folder, size=40)[0]
        assert (image[:19] == RED).all()
        assert (image[21:] == BLUE).all()

    def test_large_jpegs_are_shrunk_without_a_visible_difference(self, folder):
        gradient = np.broadcast_to(np.linspace(0, 255, 1600)[:, None, None], (1600, 1600, 3))
        photo = Image.fromarray(gradient.astype(np.uint8))
        photo.save(folder / "ada" / "1.png")
        photo.save(folder / "ada" / "2.jpg", quality=95)
        (folder / "ada" / "2.png").unlink()
        images, _ = ImageFolder(folder, size=20)[np.array([0, 1])]
        assert np.abs(images[0].astype(int) - images[1]).max() <= 4

    def test_large_jpegs_are_not_shrunk_below_the_size_asked_for(self, folder):
        """Stripes one pixel wide at the size of the dataset; uniform gray at half that size."""
        stripes = np.zeros((800, 800, 3), np.uint8)
        stripes[:, np.arange(800) % 8 < 4] = 255
        path = folder / "ada" / "1.jpg"
        Image.fromarray(stripes).save(path)
        assert decode(path, at_least=150).shape == (200, 200, 3)
        image, _ = ImageFolder(folder, size=200)[0]
        assert image[:, ::2].min() > 200
        assert image[:, 1::2].max() < 50

    def test_decodes_on_the_cores_that_it_may_use(self, folder, monkeypatch):
        asked = []

        class Counting(pool.Pool):
            def __init__(self, max_workers, **others):
                asked.append(max_workers)
                super().__init__(max_workers, **others)

        monkeypatch.setattr(pool, "Pool", Counting)
        monkeypatch.setattr(dataset, "usable_cores", lambda: 3)
        monkeypatch.setattr(os, "cpu_count", lambda: 64)
        ImageFolder(folder, size=8)
        assert asked == [3]

    @pytest.mark.parametrize(
        ("mode", "color"),
        [("L", 51), ("P", 0), ("1", 1), ("LA", (51, 255)), ("RGBA", (*RED, 255)), ("CMYK", 0)],
    )
    def test_every_ordinary_mode_is_read(self, folder, mode, color):
        suffix = "tif" if mode == "CMYK" else "png"
        Image.new(mode, (9, 9), color).save(folder / "ada" / f"0.{suffix}")
        assert ImageFolder(folder, size=8)[0][0].shape == (8, 8, 3)

    def test_transparent_pixels_become_white(self, folder):
        Image.new("RGBA", (9, 9), (0, 0, 0, 0)).save(folder / "ada" / "1.png")
        assert (ImageFolder(folder, size=8)[0][0] == 255).all()

    def test_16_bits_are_scaled_to_8(self, folder):
        Image.fromarray(np.full((9, 9), 0x80FF, np.uint16)).save(folder / "ada" / "1.png")
        assert (ImageFolder(folder, size=8)[0][0] == 0x80).all()

    def test_hidden_files_and_folders_are_ignored(self, folder):
        (folder / ".git").mkdir()
        (folder / "ada" / ".DS_Store").write_bytes(b"no image")
        assert len(ImageFolder(folder, size=8)) == 4

    def test_files_beside_the_class_folders_are_ignored(self, folder):
        (folder / "readme.txt").write_text("the photos of two people")
        assert len(ImageFolder(folder, size=8)) == 4

    def test_a_cached_photo_is_decoded_once(self, folder):
        dataset = ImageFolder(folder, size=8)
        for path in dataset.paths:
            path.unlink()
        assert dataset[np.array([0, 3])][0].shape == (2, 8, 8, 3)

    def test_uncached_images_are_decoded_again_and_equal(self, folder):
        cached, read_again = (ImageFolder(folder, size=8, cache_bytes=n) for n in (1 << 20, 0))
        for index in (1, np.array([3, 0, -1]), np.array([], np.int64)):
            assert np.array_equal(cached[index][0], read_again[index][0])
            assert np.array_equal(cached[index][1], read_again[index][1])
        read_again.paths[1].unlink()
        with pytest.raises(DataError, match=r"[12]\.png is not a readable image"):
            read_again[1]

    def test_the_working_directory_changes(self, folder, monkeypatch):
        monkeypatch.chdir(folder.parent)
        dataset = ImageFolder(folder.name, size=8, cache_bytes=0)
        monkeypatch.chdir(folder)
        assert dataset[np.arange(4)][0].shape == (4, 8, 8, 3)
        assert dataset.paths[0].parts[0] == folder.name


def truncate(path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:2000])


def bomb(path):
    """A PNG of a few bytes whose header claims 3.6 gigapixels."""
    Image.new("1", (1, 1)).save(path)
    header = b"IHDR" + struct.pack(">II", 60_000, 60_000) + path.read_bytes()[24:29]
    crc = struct.pack(">I", zlib.crc32(header))
    path.write_bytes(path.read_bytes()[:12] + header + crc + path.read_bytes()[33:])


DAMAGE = {
    "text.jpg": lambda path: path.write_text("this is no photo"),
    "empty.jpg": lambda path: path.write_bytes(b""),
    "truncated.png": truncate,
    "truncated.jpg": truncate,
    "float.tif": lambda path: Image.new("F", (9, 9)).save(path),
    "Thumbs.db": lambda path: path.write_bytes(bytes(512)),
}


class TestDamagedFiles:
    @pytest.mark.parametrize("name", DAMAGE)
    def test_the_error_names_the_file(self, folder, name):
        DAMAGE[name](folder / "ada" / name)
        with pytest.raises(DataError, match=rf"ada.{name} is not a readable image \(.+\): "):
            ImageFolder(folder, size=8)

    def test_a_folder_in_a_class_is_named(self, folder):
        (folder / "ada" / "old").mkdir()
        with pytest.raises(
            DataError, match=r"ada.old is a directory, expected .* move the directory elsewhere"
        ):
            ImageFolder(folder, size=8)

    def test_too_large_files_are_named_with_the_limit(self, folder):
        bomb(folder / "ada" / "bomb.png")
        with pytest.raises(
            DataError, match=r"bomb.png is too large \(the limit is 134,217,727 pixels\)"
        ):
            ImageFolder(folder, size=8)

    @pytest.mark.parametrize("name", DAMAGE)
    def test_or_a_warning_names_it_and_it_is_skipped(self, folder, name):
        DAMAGE[name](folder / "ada" / name)
        with pytest.warns(
            UserWarning, match=rf"skipped: .*ada.{name} is not a readable image"
        ) as record:
            dataset = ImageFolder(folder, size=8, on_error="skip")
        assert record[0].filename == __file__
        assert len(dataset) == 4
        assert dataset[np.arange(4)][0][:, 0, 0].tolist() == [list(RED)] * 2 + [list(BLUE)] * 2

    def test_an_empty_class_is_an_error(self, folder):
        (folder / "cleo").mkdir()
        with pytest.raises(DataError, match=r"cleo contains no images: add some or remove"):
            ImageFolder(folder, size=8)

    def test_or_it_is_skipped_with_a_warning(self, folder):
        (folder / "cleo").mkdir()
        with pytest.warns(UserWarning, match=r"skipped: .*cleo contains no images"):
            assert ImageFolder(folder, size=8, on_error="skip").classes == ["ada", "ben"]

    def test_a_class_whose_photos_are_all_damaged_is_no_class(self, folder):
        (folder / "aaron").mkdir()
        DAMAGE["text.jpg"](folder / "aaron" / "text.jpg")
        with pytest.warns(UserWarning, match="aaron"):
            dataset = ImageFolder(folder, size=8, on_error="skip")
        assert dataset.classes == ["ada", "ben"]
        assert dataset.labels.tolist() == [0, 0, 1, 1]

    def test_one_class_is_too_few(self, tmp_path):
        (tmp_path / "ada").mkdir()
        Image.new("L", (9, 9)).save(tmp_path / "ada" / "1.png")
        with pytest.raises(DataError, match=r"at least two classes.*found only one, 'ada'"):
            ImageFolder(tmp_path, size=8)

    def test_a_folder_without_folders_holds_no_class(self, tmp_path):
        with pytest.raises(DataError, match=r"at least two classes.*found none"):
            ImageFolder(tmp_path, size=8)

    def test_a_missing_folder_is_named(self, tmp_path):
        with pytest.raises(
            DataError, match=r"nowhere is not a directory: expected one that contains"
        ):
            ImageFolder(tmp_path / "nowhere", size=8)

    def test_on_error_has_two_values(self, folder):
        with pytest.raises(ArgumentError, match='"raise" or "skip", got \'ignore\''):
            ImageFolder(folder, size=8, on_error="ignore")

    def test_a_size_is_at_least_a_pixel(self, folder):
        with pytest.raises(
            ArgumentError, match=r"size as 1 or 2 integers >= 1 and < 2\*\*31, got \(8, 0\)"
        ):
            ImageFolder(folder, size=(8, 0))
