"""Face identification: a CNN classifies people from a few training images of each.

There are two networks: ``small``, and ``original``, a CNN of 2017 with 34.9 million parameters.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

import tinynn
from tinynn import Tensor, nn, optim
from tinynn import functional as F
from tinynn.data import (
    ArrayDataset,
    Compose,
    DataLoader,
    ImageFolder,
    RandomAffine,
    RandomBrightness,
    RandomContrast,
    RandomFlip,
    RandomNoise,
    split_stratified,
)
from tinynn.errors import DataError, TinynnError
from tinynn.files import read_bytes
from tinynn.random import numpy_generator
from tinynn.training import (
    Checkpoints,
    History,
    TrainingState,
    accuracy,
    confusion_matrix,
    fit,
    predict,
    predicted_classes,
)
from tinynn.vision.models import original_cnn
from tinynn.vision.pyramid import resize

from . import photos

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]

# -- datasets --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Portraits:
    """A dataset of labeled images of people.

    Attributes:
        images: uint8 (n, height, width, 1).
        labels: Index into ``people`` of each image, int64 (n,).
        people: Names.
        source: Description of the dataset.
        parts: Training and test images per person; None holds out a tenth, at least one.
        files: Location of each image, for messages; may be empty.
    """

    images: Images
    labels: Labels
    people: tuple[str, ...]
    source: str
    parts: tuple[int, int] | None = None
    files: tuple[str, ...] = ()

    def part(self, chosen: npt.NDArray[np.int64]) -> Portraits:
        """The images with the indices ``chosen``."""
        files = tuple(self.files[number] for number in chosen) if self.files else ()
        return replace(self, images=self.images[chosen], labels=self.labels[chosen], files=files)

    def file(self, number: int) -> str:
        """The location of image ``number``, for a message."""
        if self.files:
            return self.files[number]
        return f"image {number} ({self.people[self.labels[number]]})"


def orl() -> Portraits:
    """The ORL faces: 10 images of each of 40 people, 112 x 92 (AT&T Laboratories Cambridge)."""
    faces = photos.orl_faces()
    people, count = faces.shape[:2]
    return Portraits(
        images=faces.reshape(people * count, *faces.shape[2:], 1),
        labels=np.repeat(np.arange(people), count),
        people=tuple(f"s{person + 1}" for person in range(people)),
        source="ORL faces (AT&T Laboratories Cambridge)",
        parts=(5, 5),
    )


def from_arrays(files: Sequence[tuple[str, Path]]) -> Portraits:
    """One ``.npy`` file per person, uint8 (n, height, width), all images of the same size."""
    _check_names([name for name, _ in files])
    arrays = [_portrait_array(path) for _, path in files]
    for (_, path), array in zip(files, arrays, strict=True):
        if array.shape[1:] != arrays[0].shape[1:]:
            raise DataError(
                f"all images must have the same size: {files[0][1]} has {_size(arrays[0])} pixels, "
                f"{path} has {_size(array)}"
            )
    return Portraits(
        images=np.concatenate(arrays)[..., np.newaxis],
        labels=np.repeat(np.arange(len(arrays)), [len(array) for array in arrays]),
        people=tuple(name for name, _ in files),
        source=", ".join(path.name for _, path in files),
        files=tuple(
            f"{path}[{number}]"
            for (_, path), array in zip(files, arrays, strict=True)
            for number in range(len(array))
        ),
    )


def from_folder(directory: Path, height: int, width: int, skip_bad: bool = False) -> Portraits:
    """One directory of photos per person, center-cropped to ``height`` x ``width``, gray.

    With ``skip_bad`` unreadable files are skipped with a warning instead of a ``DataError``.
    """
    react: Literal["raise", "skip"] = "skip" if skip_bad else "raise"
    folder = ImageFolder(directory, size=(height, width), gray=True, on_error=react)
    images, labels = folder[np.arange(len(folder))]
    files = tuple(map(str, folder.paths))
    return Portraits(images, labels, tuple(folder.classes), str(directory), files=files)


def _check_names(names: Sequence[str]) -> None:
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise DataError(f"{len(twice)} arrays have the name {twice[0]!r}: use one array per person")
    if len(names) < 2:
        raise DataError(f"at least two people are needed, got only {names[0]!r}")


def _portrait_array(path: Path) -> Images:
    limit = tinynn.backend.get_backend("cpu").available_memory() // 2
    try:
        content = io.BytesIO(read_bytes(path, limit))
        array = np.lib.format.read_array(content, allow_pickle=False)
    except (OSError, TinynnError):
        raise
    except Exception as error:  # ValueError, EOFError, SyntaxError, RecursionError, ...
        raise DataError(f"{path} is not a NumPy array file (.npy), or it is damaged") from error
    if array.dtype != np.uint8 or array.ndim != 3:
        raise DataError(
            f"{path} must contain uint8 of shape (images, height, width), got {array.dtype} "
            f"{array.shape}"
        )
    if 0 in array.shape:
        raise DataError(f"{path} contains no image: its shape is {array.shape}")
    return array


def _size(array: Images) -> str:
    return f"{array.shape[1]} x {array.shape[2]}"


# -- training and test split -----------------------------------------------------------------------


def split(portraits: Portraits, seed: int) -> tuple[Portraits, Portraits]:
    """Random, stratified split into training and test images.

    The split is the first step, before any processing. Every person is in both sets. Duplicate
    images raise :class:`DataError`, because they could end up in both.
    """
    _check_no_duplicates(portraits)
    if portraits.parts:
        train, test = split_stratified(portraits.labels, portraits.parts, seed)
    else:
        train, test = _split_tenth(portraits, seed)
    return portraits.part(train), portraits.part(test)


def _check_no_duplicates(portraits: Portraits) -> None:
    first: dict[bytes, int] = {}
    original = [first.setdefault(image.tobytes(), n) for n, image in enumerate(portraits.images)]
    copies = [number for number, same in enumerate(original) if same != number]
    if copies:
        one, other = portraits.file(original[copies[0]]), portraits.file(copies[0])
        more = f", and so are {len(copies) - 1} more" if len(copies) > 1 else ""
        raise DataError(
            f"{one} and {other} are identical images{more}: testing on training images is "
            "meaningless, keep one of each"
        )


def _split_tenth(portraits: Portraits, seed: int) -> tuple[Labels, Labels]:
    """Indices of the training images, and of a tenth of each person's images for the test."""
    train, test = [], []
    for person, name in enumerate(portraits.people):
        own = np.flatnonzero(portraits.labels == person)
        if len(own) < 2:
            raise DataError(f"{name!r} has one image: two are needed, for training and for test")
        shuffled = numpy_generator(seed, person).permutation(own)
        held_out = max(1, round(0.1 * len(own)))
        train.append(shuffled[:-held_out])
        test.append(shuffled[-held_out:])
    return np.sort(np.concatenate(train)), np.sort(np.concatenate(test))


# -- the networks ----------------------------------------------------------------------------------


def small(people: int, images: Images) -> nn.Sequential:
    """For gray images of 48 x 40: 251,000 parameters for 40 people.

    Group normalization with one group gives each image mean 0 and variance 1, independent of the
    illumination. The classifier receives 6 x 5 positions; global average pooling instead doubled
    the test error.
    """
    return nn.Sequential(
        nn.GroupNorm(1, 1, eps=1e-3),
        *_block(1, 16),
        nn.MaxPool2d(2, ceil_mode=True),
        *_block(16, 32),
        nn.MaxPool2d(2, ceil_mode=True),
        *_block(32, 64),
        nn.MaxPool2d(2, ceil_mode=True),
        *_block(64, 128),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(6 * 5 * 128, people),
    )


def _block(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(inputs, outputs, 3, padding="same", bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


def original(people: int, images: Images) -> nn.Sequential:
    """The CNN of 2017 for gray images of 91 x 91, with the layers and hyperparameters of 2017.

    Its input is standardized with statistics of the training ``images``, see :class:`Standardize`.
    """
    standardize = Standardize(91, 91)
    standardize.measure(images)
    return nn.Sequential(standardize, *original_cnn(classes=people))


class Standardize(nn.Module):
    """(normalize(x) - mean image) · factor, with normalize: mean 0, variance 1 per image.

    Plain gradient descent is stable only while learning rate x largest curvature of the loss is
    below 2. The curvature grows with the square of the input, and most of it is due to what all
    images have in common. Therefore the mean image is subtracted, and the rest is scaled to a
    standard deviation of ``SPREAD``. There are no parameters.
    """

    SPREAD = 0.1

    def __init__(self, height: int, width: int) -> None:
        self.mean = tinynn.zeros((height, width, 1))
        self.factor = tinynn.ones(1)

    def measure(self, images: Images) -> None:
        """Compute mean and factor from training images, uint8 (n, height, width, 1)."""
        standard = self._normalize(tinynn.tensor(images.astype(np.float32) / 255)).numpy()
        mean = standard.mean(axis=0)
        self.mean = tinynn.tensor(mean)
        self.factor = tinynn.full(1, self.SPREAD / max(float((standard - mean).std()), 1e-3))

    def forward(self, x: Tensor) -> Tensor:
        """Standardize x, (n, height, width, 1)."""
        return (self._normalize(x) - self.mean) * self.factor

    def _normalize(self, x: Tensor) -> Tensor:
        return F.group_norm(x, 1, eps=1e-3)


class Standardise(Standardize):
    """:class:`Standardize` under the name that older ``identify.safetensors`` files contain."""


# -- training --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recipe:
    """A network and its training: input size in pixels, hyperparameters, augmentation."""

    network: Callable[[int, Images], nn.Module]
    height: int
    width: int
    epochs: int
    batch_size: int
    optimizer: Callable[[nn.Module, int], Any]
    label_smoothing: float
    augmentation: Compose | None


def _adamw_one_cycle(model: nn.Module, steps: int) -> optim.AdamW:
    return optim.AdamW(model, optim.one_cycle(3e-3, steps), weight_decay=0.05)


def _plain_sgd(model: nn.Module, steps: int) -> optim.SGD:
    return optim.SGD(model, 0.01)


RECIPES = {
    "small": Recipe(
        network=small,
        height=48,
        width=40,
        epochs=50,
        batch_size=20,
        optimizer=_adamw_one_cycle,
        label_smoothing=0.1,
        augmentation=Compose(
            RandomFlip(),
            RandomAffine(shift=0.06, scale=(1 / 1.1, 1.1), rotation=8),
            RandomContrast(0.8, 1.25),
            RandomBrightness(0.1),
            RandomNoise(0.03),
        ),
    ),
    "original": Recipe(
        network=original,
        height=91,
        width=91,
        epochs=10,
        batch_size=64,
        optimizer=_plain_sgd,
        label_smoothing=0.0,
        augmentation=None,
    ),
}


@dataclass(frozen=True)
class Outcome:
    """A trained network, its metrics per epoch, and its predictions for the test images.

    Attributes:
        inputs: Test images at the input size of the network, uint8 (m, height, width, 1).
        predictions: Predicted person, an index into ``train.people``, int64 (m,).
        confidence: Predicted probability of that person, float64 (m,).
        confusion: Confusion matrix, int64 (true person, predicted person).
    """

    model: nn.Module
    history: History
    train: Portraits
    test: Portraits
    inputs: Images
    predictions: Labels
    confidence: npt.NDArray[np.float64]
    confusion: Labels

    @property
    def accuracy(self) -> float:
        """The fraction of test images that are classified correctly."""
        return accuracy(self.predictions, self.test.labels)

    @property
    def mistakes(self) -> list[int]:
        """Indices of the misclassified test images, most confident first."""
        wrong = np.flatnonzero(self.predictions != self.test.labels)
        return wrong[np.argsort(-self.confidence[wrong], kind="stable")].tolist()


def train(
    portraits: Portraits,
    recipe: Recipe,
    *,
    epochs: int,
    batch_size: int,
    seed: int,
    device: str,
    micro_batch: int | Literal["auto"] | None = None,
    checkpoints: Checkpoints | None = None,
    callbacks: Sequence[Callable[[str, TrainingState], None]] = (),
) -> Outcome:
    """Split, train and test. The result is from the last epoch: no choice uses test images.

    With ``checkpoints`` an interrupted run is resumed.
    """
    training, test = split(portraits, seed)
    images = resized(training.images, recipe.height, recipe.width)
    batch_size = min(batch_size, len(images))
    loader = DataLoader(
        ArrayDataset(images, training.labels),
        batch_size,
        shuffle=True,
        seed=seed,
        drop_last=recipe.augmentation is not None,
        augment=recipe.augmentation,
        device=device,
    )
    inputs = resized(test.images, recipe.height, recipe.width)
    tinynn.manual_seed(seed)
    model = recipe.network(len(portraits.people), images).to(device)
    history = fit(
        model,
        loader,
        recipe.optimizer(model, epochs * len(loader)),
        partial(F.cross_entropy, label_smoothing=recipe.label_smoothing),
        epochs=epochs,
        validation=DataLoader(ArrayDataset(inputs, test.labels), 64, device=device),
        micro_batch=micro_batch,
        checkpoints=checkpoints,
        callbacks=callbacks,
        description="identification",
    )
    logits = predict(model, inputs)
    predictions = predicted_classes(logits)
    confidence = F.softmax(tinynn.tensor(logits, device="cpu"), axis=1).numpy().max(axis=1)
    matrix = confusion_matrix(predictions, test.labels, len(portraits.people))
    return Outcome(model, history, training, test, inputs, predictions, confidence, matrix)


def resized(images: Images, height: int, width: int) -> Images:
    """Resize ``images``, uint8 (n, h, w, 1), to (n, height, width, 1)."""
    if images.shape[1:3] == (height, width):
        return images
    return np.stack([resize(image, height, width) for image in images])


# -- results ---------------------------------------------------------------------------------------


def beside(outcome: Outcome, number: int) -> tuple[Images, Images]:
    """A training image of the predicted and one of the true person of test image ``number``."""
    predicted, true = int(outcome.predictions[number]), int(outcome.test.labels[number])
    return _first_image(outcome.train, predicted), _first_image(outcome.train, true)


def describe(outcome: Outcome, number: int) -> str:
    """Predicted person, confidence and true person of test image ``number``."""
    people = outcome.train.people
    predicted, true = people[outcome.predictions[number]], people[outcome.test.labels[number]]
    return f"predicted {predicted} ({outcome.confidence[number]:.0%}), true {true}"


def _first_image(training: Portraits, person: int) -> Images:
    """The first training image of a person."""
    return training.images[int((training.labels == person).argmax())]


def summary(outcome: Outcome, model: str) -> dict[str, Any]:
    """The part ``identify`` of ``report.json``."""
    validation = [metrics.accuracy for metrics in outcome.history.validation]
    people = outcome.train.people
    return {
        "model": model,
        "parameters": outcome.model.num_parameters(),
        "source": outcome.train.source,
        "classes": len(people),
        "train_images": len(outcome.train.labels),
        "test_images": len(outcome.test.labels),
        "epochs": len(validation),
        "accuracy": outcome.accuracy,
        "error": round(1 - outcome.accuracy, 6),
        "best_validation_accuracy": max(validation),
        "first_epoch_without_error": next((e for e, v in enumerate(validation, 1) if v == 1), None),
        "mistakes": [
            {
                "test_picture": number,
                "person": people[outcome.test.labels[number]],
                "taken_for": people[outcome.predictions[number]],
                "confidence": round(float(outcome.confidence[number]), 4),
            }
            for number in outcome.mistakes
        ],
    }
