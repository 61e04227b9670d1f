"""Face detection: a small CNN, trained with hard-negative mining, applied to whole photos.

Training proceeds in rounds. The first round uses augmented faces and random windows of photos
without faces. Before each later round the detector scans such photos, and its false positives are
added to the negatives (Rowley, Baluja and Kanade, "Neural network-based face detection", 1998).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

import tinynn
from tinynn import functional as F
from tinynn import nn, optim
from tinynn.data import ArrayDataset, DataLoader, augment
from tinynn.errors import FileFormatError
from tinynn.random import numpy_generator
from tinynn.training import Checkpoints, History, fit
from tinynn.training.progress import track
from tinynn.vision import Detections, Detector, clip_boxes, iou
from tinynn.vision.pyramid import image_pyramid, resize

from . import photos

Photo = npt.NDArray[np.uint8]
Patches = npt.NDArray[np.uint8]
Boxes = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float32]

WINDOW, STRIDE = 24, 4
THRESHOLD, MIN_WINDOWS = 0.85, 3
MIN_SHARE = 1 / 60  # of the longer side: 24 pixels in a photo of 1440
MINED_SCORE = 0.27  # windows without a face that score higher become negatives

ORL_FACE = (45.0, 62.0, 80.0)  # center x, y and side of the face in an ORL image of 92 x 112
LFW_FACE = (12.5, 12.5, 23.0)  # in an LFW image of 25 x 25
CANVAS, FACE = 68, 48  # faces are stored at twice the size of the window, with their surroundings


@dataclass(frozen=True)
class Plan:
    """Hyperparameters of the training; the defaults are the full training.

    Each mining round is followed by one epoch, the last by ``last_epochs``. The fields are part of
    every checkpoint, so their names are fixed.
    """

    faces: int = 10_000
    windows: int = 12_000
    pieces: int = 3_000
    mining_rounds: int = 10
    first_epochs: int = 2
    last_epochs: int = 3
    batch_size: int = 128
    learning_rate: float = 3e-3
    alarms_per_photo: int = 200


FULL = Plan()
QUICK = Plan(
    faces=3_000,
    windows=4_000,
    pieces=1_000,
    mining_rounds=2,
    first_epochs=2,
    last_epochs=2,
)


@dataclass
class Training:
    """The trained detector, its metrics per epoch, and the number of negatives mined per round."""

    detector: Detector
    history: History = field(default_factory=History)
    mined: list[int] = field(default_factory=list)


class Rounds:
    """The current round and its negatives: tracked by checkpoints in addition to ``fit``'s state.

    The negatives are stored because the detectors that produced them no longer exist.
    """

    def __init__(self, training: Training, negatives: Patches) -> None:
        self.training, self.negatives = training, negatives
        self.number = 0

    def begin(self, number: int, mined: Patches) -> None:
        """Start round ``number`` with additional negatives."""
        self.number, self.negatives = number, np.concatenate([self.negatives, mined])
        self.training.mined.append(len(mined))

    def state_dict(self) -> dict[str, Any]:
        """The round, its negatives, and the metrics of all rounds before it."""
        return {
            "number": self.number,
            "others": self.negatives,
            "alarms": self.training.mined,
            "history": self.training.history.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from ``state``."""
        self.number, self.negatives = state["number"], state["others"]
        self.training.mined = list(state["alarms"])
        self.training.history.load_state_dict(state["history"])


def face_network() -> nn.Sequential:
    """Gray windows (N, 24, 24, 1) to logits (N, 1, 1, 1); one logit per 4 pixels of larger images.

    Without padding, the logit of a window does not depend on its surroundings. 44,000 parameters,
    about 4,300 multiply-adds per pixel of a photo.
    """
    return nn.Sequential(
        *_convolution(1, 16, 4, stride=2),
        *_convolution(16, 32, 4),
        nn.MaxPool2d(2),
        *_convolution(32, 64, 3),
        nn.Dropout(0.3),
        *_convolution(64, 64, 2),
        nn.Conv2d(64, 1, 1),
    )


def _convolution(channels: int, out: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    return [
        nn.Conv2d(channels, out, kernel, stride=stride, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU(),
    ]


def face_detector(network: nn.Module, threshold: float = THRESHOLD) -> Detector:
    """A detector with a network of :func:`face_network`."""
    return Detector(
        network,
        window=WINDOW,
        stride=STRIDE,
        threshold=threshold,
        min_share=MIN_SHARE,
        min_windows=MIN_WINDOWS,
    )


def save(detector: Detector, path: str | os.PathLike[str]) -> None:
    """Write weights and threshold to a safetensors file."""
    tinynn.save(detector.network, path, extra={"threshold": detector.threshold})


def load(path: str | os.PathLike[str], device: str | None = None) -> Detector:
    """Read a detector that :func:`save` wrote."""
    extra = tinynn.load_extra(path)
    if "threshold" not in extra:
        raise FileFormatError(f"{path} is not a face detector: its header contains no threshold")
    threshold = extra["threshold"]
    if not isinstance(threshold, float) or not 0 < threshold < 1:
        raise FileFormatError(
            f"{path} has a damaged header: expected a threshold between 0 and 1, got {threshold!r}"
        )
    return face_detector(tinynn.load(path, device=device), threshold)


# -- training --------------------------------------------------------------------------------------


def train(
    plan: Plan = FULL,
    seed: int = 0,
    device: str = "cpu",
    checkpoints: Checkpoints | None = None,
) -> Training:
    """Train a detector on the packaged photos; equal seeds give equal detectors.

    With ``checkpoints`` an interrupted run is resumed.
    """
    tinynn.manual_seed(seed)
    training = Training(face_detector(face_network().to(device)))
    orl, lfw = _training_faces()
    scenes = photos.face_free_photos()
    windows = _random_windows(
        [*scenes, *_textures(TEXTURES, numpy_generator(seed, 5))],
        plan.windows,
        numpy_generator(seed, 0),
    )
    pieces = _pieces_of_faces(scenes, plan.pieces, numpy_generator(seed, 1))
    rounds = Rounds(training, np.concatenate([windows, pieces]))
    if checkpoints is not None:
        checkpoints.track(rounds=rounds)
    for number in range(rounds.number, plan.mining_rounds + 1):
        if number > rounds.number:
            rng = numpy_generator(seed, 2, number)
            rounds.begin(number, _false_positives(training.detector, scenes, plan, rng))
        faces = _augmented_faces(orl, lfw, plan.faces, numpy_generator(seed, 3, number))
        loader = _loader(_labeled(faces, rounds.negatives), plan, seed, number, device)
        # A checkpoint from the end of a round contains its epochs, in fit's history too.
        before = training.history.training[: sum(_lengths(plan)[:number])]
        history = _learn(training.detector.network, loader, plan, number, checkpoints)
        training.history.training = before + history.training
    return training


def _labeled(faces: Patches, negatives: Patches) -> ArrayDataset:
    """Faces are class 1, negatives class 0."""
    labels = np.repeat([1, 0], [len(faces), len(negatives)])
    return ArrayDataset(np.concatenate([faces, negatives]), labels)


def _loader(examples: ArrayDataset, plan: Plan, seed: int, number: int, device: str) -> DataLoader:
    """The batches of round ``number``, in an order unique to this round and seed."""
    loader = DataLoader(
        examples,
        plan.batch_size,
        shuffle=True,
        seed=(seed + number) % 2**64,
        drop_last=True,
        augment=EPOCH_AUGMENTATION,
        device=device,
    )
    # seed + number repeats across seeds; the epoch offset makes the orders differ.
    loader.epoch = seed << 32
    return loader


def _lengths(plan: Plan) -> list[int]:
    """Epochs of each round."""
    return [plan.first_epochs] + [1] * (plan.mining_rounds - 1) + [plan.last_epochs]


def _learn(
    network: nn.Module, loader: DataLoader, plan: Plan, number: int, checkpoints: Checkpoints | None
) -> History:
    """Train round ``number``, at its position in the one-cycle learning-rate schedule."""
    lengths = _lengths(plan)
    done, epochs = sum(lengths[:number]), lengths[number]
    cycle = optim.one_cycle(plan.learning_rate, sum(lengths) * CYCLE, warm_up_share=0.1)
    classifier = nn.Sequential(network, nn.Flatten())
    optimizer = optim.AdamW(
        classifier, learning_rate=lambda step: cycle(int((done + step / len(loader)) * CYCLE))
    )
    name = f"round {number} of {plan.mining_rounds}"
    return fit(
        classifier, loader, optimizer, _loss,
        epochs=epochs, checkpoints=checkpoints, description=name,
    )  # fmt: skip


CYCLE = 1000  # steps per epoch of the learning-rate cycle, which spans all rounds
EPOCH_AUGMENTATION = augment.Compose(
    augment.RandomFlip(), augment.RandomContrast(0.8, 1.25), augment.RandomBrightness(0.1)
)
"""Augmentation of the windows in each epoch."""


def _loss(logits: tinynn.Tensor, labels: tinynn.Tensor) -> tinynn.Tensor:
    return F.binary_cross_entropy_with_logits(logits[:, 0], labels.astype("float32"))


# -- faces -----------------------------------------------------------------------------------------


def _training_faces() -> tuple[Floats, Floats]:
    """Canvases of the ORL training people and of LFW, each float32 (n, 68, 68, 1) in [0, 1]."""
    orl = photos.orl_faces()[: photos.TRAINING_PEOPLE].reshape(-1, *photos.ORL_SHAPE)
    return _canvases(orl, *ORL_FACE), _canvases(photos.lfw_faces(), *LFW_FACE)


def _canvases(images: Photo, x: float, y: float, side: float) -> Floats:
    """Scale the face, a square of ``side`` centered at (x, y), to the central 48 of 68 pixels."""
    from PIL import Image

    half = side * CANVAS / FACE / 2
    margin = int(half) + 1  # pixels outside the image replicate its border
    box = (x - half + margin, y - half + margin, x + half + margin, y + half + margin)
    wide = np.pad(images, ((0, 0), (margin, margin), (margin, margin)), mode="edge")
    cut = [
        np.asarray(
            Image.fromarray(image).resize((CANVAS, CANVAS), Image.Resampling.BILINEAR, box=box)
        )
        for image in wide
    ]
    return np.stack(cut)[..., np.newaxis].astype(np.float32) / np.float32(255)


GEOMETRY = augment.RandomAffine(shift=0.04, scale=(0.88, 1.12), rotation=12, size=(FACE, FACE))
APPEARANCE = augment.Compose(
    augment.RandomFlip(),
    augment.RandomContrast(0.75, 1.5),
    augment.RandomGamma(0.7, 1.4),
    augment.RandomLightGradient(0.2),
    augment.RandomBrightness(0.15),
    augment.RandomBlur(0.8),
    augment.RandomNoise(0.02),
)


def _augmented_faces(orl: Floats, lfw: Floats, count: int, rng: np.random.Generator) -> Patches:
    """``count`` faces, 40 % of them from LFW, which has 100 people where ORL has 32."""
    of_lfw = round(0.4 * count)
    chosen = np.concatenate(
        [
            rng.integers(len(orl), size=count - of_lfw),
            rng.integers(len(lfw), size=of_lfw) + len(orl),
        ]
    )
    canvases = np.concatenate([orl, lfw])
    batches = [
        APPEARANCE(_halved(GEOMETRY(canvases[some], rng)), rng)
        for some in np.array_split(chosen, max(1, count // 100))
    ]
    return np.rint(np.concatenate(batches) * 255).astype(np.uint8)


def _halved(images: Floats) -> Floats:
    n, height, width, channels = images.shape
    return images.reshape(n, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))


# -- negatives -------------------------------------------------------------------------------------


def _random_windows(scenes: Sequence[Photo], count: int, rng: np.random.Generator) -> Patches:
    """``count`` windows at random positions and scales of ``scenes``."""
    levels = [
        [level.photo for level in image_pyramid(scene, 1.3, WINDOW, WINDOW)] for scene in scenes
    ]
    windows = []
    for _ in range(count):
        sizes = levels[rng.integers(len(levels))]
        level = sizes[rng.integers(len(sizes))]
        y, x = (rng.integers(side - WINDOW + 1) for side in level.shape[:2])
        windows.append(level[y : y + WINDOW, x : x + WINDOW])
    return np.stack(windows)


def _pieces_of_faces(scenes: Sequence[Photo], count: int, rng: np.random.Generator) -> Patches:
    """About ``count`` windows that contain part of a face: off center, too large or too small.

    With these as negatives, faces get a single, well-centered box.
    """
    pieces: list[Patches] = []
    for photo, boxes in _training_montages(scenes, -(-count // 60), rng):
        candidates = clip_boxes(_near(boxes, 20, rng), *photo.shape[:2])
        apart = (iou(candidates, boxes) < CLOSE).all(axis=1)
        pieces += [_crop(photo, box) for box in candidates[apart][:60]]
    return np.stack(pieces)[:count]


def _near(boxes: Boxes, times: int, rng: np.random.Generator) -> Boxes:
    """Squares around each of ``boxes``, scaled by 1/3 to 3/2."""
    side = np.repeat(boxes[:, 2:], times, axis=0)
    center = np.repeat(boxes[:, :2], times, axis=0) + side * rng.uniform(-0.1, 1.1, side.shape)
    squares = side * np.exp(rng.uniform(np.log(0.33), np.log(1.5), (len(side), 1)))
    nearby = np.hstack([center - squares / 2, squares])
    return rng.permutation(nearby).astype(np.float32)


def _crop(photo: Photo, box: Boxes) -> Patches:
    """The content of ``box`` in a gray ``photo``, resized to uint8 (24, 24, 1)."""
    from PIL import Image

    x, y, width, height = (float(value) for value in box)
    window = Image.fromarray(photo[:, :, 0]).resize(
        (WINDOW, WINDOW), Image.Resampling.BILINEAR, box=(x, y, x + width, y + height)
    )
    return np.asarray(window)[..., np.newaxis]


def _training_montages(
    scenes: Sequence[Photo], count: int, rng: np.random.Generator
) -> list[Montage]:
    people = photos.orl_faces()[: photos.TRAINING_PEOPLE]
    return montages(people, scenes, count, rng)


def _false_positives(
    detector: Detector, scenes: Sequence[Photo], plan: Plan, rng: np.random.Generator
) -> Patches:
    """Windows without a face that the detector scores highest, from each photo."""
    mined = [np.zeros((0, WINDOW, WINDOW, 1), dtype=np.uint8)]
    for photo, faces in track(list(_mining_photos(scenes, rng)), "mining"):
        found = detector.windows(photo, MINED_SCORE)
        wrong = np.flatnonzero(~(iou(found.boxes, faces) > CLOSE).any(axis=1))
        worst = wrong[np.argsort(-found.scores[wrong], kind="stable")][: plan.alarms_per_photo]
        mined.append(found.patches[worst])
    return np.concatenate(mined)


CLOSE = 0.35  # IoU with a face; windows above are not clear negatives
MINING_SIDE = 560  # pixels of the longer side
TRAINING_MONTAGES = 3
TEXTURES = 8


def _mining_photos(
    scenes: Sequence[Photo], rng: np.random.Generator
) -> Iterator[tuple[Photo, Boxes]]:
    """Photos with their face boxes: variants of the scenes, textures, a few montages.

    The variants differ between rounds, so that the detector cannot memorize them.
    """
    for scene in scenes:
        yield _variant(scene, rng), np.zeros((0, 4), dtype=np.float32)
    for texture in _textures(TEXTURES, rng):
        yield texture, np.zeros((0, 4), dtype=np.float32)
    yield from _training_montages(scenes, TRAINING_MONTAGES, rng)


def _textures(count: int, rng: np.random.Generator) -> list[Photo]:
    """Synthetic textures, uint8 (400, 400, 1): stripes, dots and grids in uneven light.

    The packaged photos contain few regular patterns, and two dots and a line resemble a face.
    """
    return [_texture(400, rng) for _ in range(count)]


def _texture(side: int, rng: np.random.Generator) -> Photo:
    """Two crossed waves of random direction, period, sharpness and slant, on value noise."""
    y, x = np.mgrid[:side, :side] / side - 0.5
    angle, slant = rng.uniform(0, np.pi), rng.uniform(0, 0.8)
    u = (np.cos(angle) * x + np.sin(angle) * y) / (1 + slant * y)
    v = (np.cos(angle) * y - np.sin(angle) * x) / (1 + slant * y)
    waves = np.exp(rng.uniform(np.log(8), np.log(100), 2))  # across the photo
    first, second = np.cos(2 * np.pi * waves[0] * u), np.cos(2 * np.pi * waves[1] * v)
    crossed = (first, first * second, np.maximum(first, second), first + second)[rng.integers(4)]
    pattern = np.tanh(crossed * np.exp(rng.uniform(-1, 2)))
    clouds, depth = _clouds(side, rng), _clouds(side, rng)
    light = 0.5 + rng.uniform(0.1, 0.6) * (clouds - 0.5) + rng.uniform(-0.5, 0.5) * depth * pattern
    noise = rng.normal(0, rng.uniform(0, 0.04), light.shape)
    return np.rint((light + noise).clip(0, 1) * 255).astype(np.uint8)[..., np.newaxis]


def _clouds(side: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Value noise in [0, 1], (side, side): the amplitude halves with each octave."""
    total = np.zeros((side, side))
    for octave in range(1, 6):
        grid = rng.integers(0, 256, (2**octave + 1, 2**octave + 1, 1), dtype=np.uint8)
        total += resize(grid, side, side)[:, :, 0] / 2**octave
    return (total - total.min()) / (total.max() - total.min())


def _variant(scene: Photo, rng: np.random.Generator) -> Photo:
    """``scene``, uint8 (H, W, 1), rescaled, rotated or flipped, and with another illumination."""
    height, width = scene.shape[:2]
    scale = min(1.0, MINING_SIDE * rng.uniform(0.6, 1.0) / max(height, width))
    smaller = resize(scene, max(WINDOW, round(height * scale)), max(WINDOW, round(width * scale)))
    rotated = np.rot90(smaller, rng.choice([0, 0, 0, 0, 1, 2, 3]))
    image = np.ascontiguousarray(rotated).astype(np.float32)[np.newaxis] / np.float32(255)
    lit = SCENE_AUGMENTATION(image, rng)[0]
    return np.rint(lit * 255).astype(np.uint8)


SCENE_AUGMENTATION = augment.Compose(
    augment.RandomFlip(),
    augment.RandomAffine(scale=(1.0, 2.5), rotation=30),
    augment.RandomBlur(1.5),
    augment.RandomGamma(0.6, 1.65),
    augment.RandomContrast(0.6, 1.5),
    augment.RandomBrightness(0.1),
)


# -- the test --------------------------------------------------------------------------------------


class Montage(NamedTuple):
    """A photo, uint8 (H, W, C), and its ground truth, face boxes float32 (n, 4)."""

    photo: Photo
    boxes: Boxes


def held_out_montages(seed: int = 0, count: int = 12) -> list[Montage]:
    """Test montages: held-out people pasted into held-out photos."""
    people = photos.orl_faces()[photos.TRAINING_PEOPLE :]
    return montages(people, photos.held_out_photos(), count, numpy_generator(seed, 4))


def montages(
    people: Photo, scenes: Sequence[Photo], count: int, rng: np.random.Generator, faces: int = 6
) -> list[Montage]:
    """``count`` montages of ``scenes`` in turn, each with ``faces`` of ``people``.

    ``people`` are ORL images, uint8 (people, images, 112, 92).
    """
    portraits = people.reshape(-1, *photos.ORL_SHAPE)
    order = rng.permutation(len(scenes))
    return [
        _montage(portraits, scenes[order[number % len(scenes)]], faces, rng)
        for number in range(count)
    ]


def _montage(portraits: Photo, scene: Photo, faces: int, rng: np.random.Generator) -> Montage:
    """``scene``, 640 pixels wide, with one face in each cell of a 3-column grid."""
    height = max(300, round(scene.shape[0] * 640 / scene.shape[1]))
    photo = resize(scene, height, 640)
    columns, rows = 3, -(-faces // 3)
    cell = np.array([640 // columns, height // rows])
    boxes = []
    for number in range(faces):
        corner = np.array([number % columns, number // columns]) * cell
        boxes.append(_paste(photo, portraits[rng.integers(len(portraits))], corner, cell, rng))
    return Montage(photo, np.array(boxes, dtype=np.float32))


def _paste(
    photo: Photo,
    portrait: Photo,
    corner: npt.NDArray[np.int64],
    cell: npt.NDArray[np.int64],
    rng: np.random.Generator,
) -> list[float]:
    """Paste ``portrait`` at a random scale and position in the cell; returns its face box."""
    rows, columns = photos.ORL_SHAPE
    scale = rng.uniform(0.4, min(1.6, cell[0] / columns, cell[1] / rows))
    height, width = int(rows * scale), int(columns * scale)
    x, y = (
        int(start + rng.integers(room + 1))
        for start, room in zip(corner, cell - (width, height), strict=True)
    )
    photo[y : y + height, x : x + width] = resize(portrait[..., np.newaxis], height, width)
    center_x, center_y, side = (value * scale for value in ORL_FACE)
    return [x + center_x - side / 2, y + center_y - side / 2, side, side]


@dataclass
class Evaluation:
    """Counts of correct and false detections in photos with ground truth."""

    photos: int = 0
    faces: int = 0
    found: int = 0
    false_positives: int = 0

    def add(self, detections: Detections, boxes: Boxes, least_iou: float) -> None:
        """Add one photo; a detection is correct if it matches a face that is not matched yet."""
        overlap = iou(detections.boxes, boxes)
        for row in overlap:  # highest score first
            face = row.argmax() if row.size else 0
            hit = row.size > 0 and row[face] >= least_iou
            self.found += bool(hit)
            self.false_positives += not hit
            if hit:
                overlap[:, face] = 0
        self.photos += 1
        self.faces += len(boxes)

    def summary(self) -> dict[str, Any]:
        """Recall, false positives per photo, and the numbers of photos and faces."""
        return {
            "recall": round(self.found / self.faces, 4),
            "false_positives_per_photo": round(self.false_positives / self.photos, 4),
            "photos": self.photos,
            "faces": self.faces,
        }


def evaluate(detector: Detector, test: Sequence[Montage], least_iou: float = 0.3) -> Evaluation:
    """Run ``detector`` on all montages of ``test``."""
    result = Evaluation()
    for photo, boxes in test:
        result.add(detector.detect(photo), boxes, least_iou)
    return result
