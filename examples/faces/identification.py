"""Whose face is it? A CNN learns to tell people apart from a few pictures of each.

Two networks can be trained: ``small``, ours, and ``original``, a well-meant CNN of 2017 with
34.9 million parameters that told two people apart on a laptop.
"""

from __future__ import annotations

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
from tinynn.errors import DataError
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

# -- the pictures ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Portraits:
    """Pictures of people.

    images  uint8 (n, height, width, 1)
    labels  the person on each, int64 (n,): a number of ``people``
    people  names
    source  where the pictures come from, in words
    parts   pictures of each person for training and for test; None: a tenth, at least one, is
            for the test
    files   where each picture is stored, in words; may be left out
    """

    images: Images
    labels: Labels
    people: tuple[str, ...]
    source: str
    parts: tuple[int, int] | None = None
    files: tuple[str, ...] = ()

    def part(self, chosen: npt.NDArray[np.int64]) -> Portraits:
        """The pictures with the numbers ``chosen``."""
        files = tuple(self.files[number] for number in chosen) if self.files else ()
        return replace(self, images=self.images[chosen], labels=self.labels[chosen], files=files)

    def file(self, number: int) -> str:
        """Where picture ``number`` is to be found, for a message."""
        if self.files:
            return self.files[number]
        return f"picture {number} ({self.people[self.labels[number]]})"


def orl() -> Portraits:
    """The ORL faces: 40 people, 10 pictures of each, 112 x 92 (AT&T Laboratories Cambridge)."""
    faces = photos.orl_faces()
    people, pictures = faces.shape[:2]
    return Portraits(
        images=faces.reshape(people * pictures, *faces.shape[2:], 1),
        labels=np.repeat(np.arange(people), pictures),
        people=tuple(f"s{person + 1}" for person in range(people)),
        source="ORL faces (AT&T Laboratories Cambridge)",
        parts=(5, 5),
    )


def from_arrays(files: Sequence[tuple[str, Path]]) -> Portraits:
    """One ``.npy`` file per person, uint8 (n, height, width), all pictures of one size."""
    _check_names([name for name, _ in files])
    arrays = [_portrait_array(path) for _, path in files]
    for (_, path), array in zip(files, arrays, strict=True):
        if array.shape[1:] != arrays[0].shape[1:]:
            raise DataError(
                f"all pictures must have one size: {files[0][1]} has {_size(arrays[0])} pixels, "
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
    """One folder of photos per person, cut at the center to ``height`` x ``width``, gray.

    With ``skip_bad`` what is no photo is left out with a warning, instead of a ``DataError``.
    """
    react: Literal["raise", "skip"] = "skip" if skip_bad else "raise"
    folder = ImageFolder(directory, size=(height, width), gray=True, on_error=react)
    images, labels = folder[np.arange(len(folder))]
    files = tuple(map(str, folder.paths))
    return Portraits(images, labels, tuple(folder.classes), str(directory), files=files)


def _check_names(names: Sequence[str]) -> None:
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise DataError(f"{twice[0]!r} is the name of {len(twice)} arrays: give each person one")
    if len(names) < 2:
        raise DataError(f"at least two people are needed, got {names[0]!r} only")


def _portrait_array(path: Path) -> Images:
    try:  # mapped, so that a header may claim any size
        array = np.lib.format.open_memmap(path, mode="r")
    except (ValueError, EOFError, OverflowError) as error:
        raise DataError(f"{path} is no NumPy array file (.npy), or a damaged one") from error
    if array.dtype != np.uint8 or array.ndim != 3:
        raise DataError(
            f"{path} must hold uint8 of shape (pictures, height, width), got {array.dtype} "
            f"{array.shape}"
        )
    if 0 in array.shape:
        raise DataError(f"{path} holds no picture: its shape is {array.shape}")
    return np.array(array)


def _size(array: Images) -> str:
    return f"{array.shape[1]} x {array.shape[2]}"


# -- training and test -----------------------------------------------------------------------------


def split(portraits: Portraits, seed: int) -> tuple[Portraits, Portraits]:
    """Training and test pictures, drawn from ``seed`` for each person alike.

    The split comes before anything else is done to the pictures, and a picture that is there twice
    raises :class:`DataError`: it could be on both sides. Every person has a picture on either side.
    """
    _check_no_twins(portraits)
    if portraits.parts:
        train, test = split_stratified(portraits.labels, portraits.parts, seed)
    else:
        train, test = _split_tenth(portraits, seed)
    return portraits.part(train), portraits.part(test)


def _check_no_twins(portraits: Portraits) -> None:
    first: dict[bytes, int] = {}
    seen = [first.setdefault(image.tobytes(), n) for n, image in enumerate(portraits.images)]
    twins = [number for number, same in enumerate(seen) if same != number]
    if twins:
        one, other = portraits.file(seen[twins[0]]), portraits.file(twins[0])
        more = f", and so are {len(twins) - 1} more" if len(twins) > 1 else ""
        raise DataError(
            f"{one} and {other} are identical pictures{more}: a test on what training saw "
            "measures nothing, keep one of each"
        )


def _split_tenth(portraits: Portraits, seed: int) -> tuple[Labels, Labels]:
    """The numbers of the pictures to learn from, and of a tenth of each person's for the test."""
    train, test = [], []
    for person, name in enumerate(portraits.people):
        pictures = np.flatnonzero(portraits.labels == person)
        if len(pictures) < 2:
            raise DataError(
                f"{name!r} has one picture: two are needed, one to learn and one to test"
            )
        mixed = numpy_generator(seed, person).permutation(pictures)
        kept = max(1, round(0.1 * len(pictures)))
        train.append(mixed[:-kept])
        test.append(mixed[-kept:])
    return np.sort(np.concatenate(train)), np.sort(np.concatenate(test))


# -- the networks ----------------------------------------------------------------------------------


def small(people: int, pictures: Images) -> nn.Sequential:
    """Ours, for gray pictures of 48 x 40: 251,000 parameters for 40 people.

    Group normalization with one group makes each picture's mean 0 and variance 1, so that the
    light does not matter. The end sees what is where, at 6 x 5 places: with the mean over places
    instead, twice as many test pictures were named wrongly.
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


def original(people: int, pictures: Images) -> nn.Sequential:
    """The CNN of 2017 for gray pictures of 91 x 91: 34,879,714 parameters for two people.

    Layers, batch size, optimizer and learning rate are those of 2017. What goes in is
    standardized by what the training ``pictures`` show, see :class:`Standardize`.
    """
    standardize = Standardize(91, 91)
    standardize.measure(pictures)
    return nn.Sequential(standardize, *original_cnn(classes=people))


class Standardize(nn.Module):
    """Each picture with mean 0 and variance 1, less the mean picture, times a factor.

    Plain gradient descent at learning rate 0.01 is stable only while 0.01 x the largest curvature
    of the loss is below 2. The curvature grows with the square of what goes in, and most of it
    belongs to what all pictures have in common; that is why the common part is taken away and the
    rest is brought to a standard deviation of ``SPREAD``. There are no parameters.
    """

    SPREAD = 0.1

    def __init__(self, height: int, width: int) -> None:
        self.mean = tinynn.zeros((height, width, 1))
        self.factor = tinynn.ones(1)

    def measure(self, pictures: Images) -> None:
        """Take mean and spread from training pictures, uint8 (n, height, width, 1)."""
        standard = self._each(tinynn.tensor(pictures.astype(np.float32) / 255)).numpy()
        mean = standard.mean(axis=0)
        self.mean = tinynn.tensor(mean)
        self.factor = tinynn.full(1, self.SPREAD / max(float((standard - mean).std()), 1e-3))

    def forward(self, x: Tensor) -> Tensor:
        """The shape of x, (n, height, width, 1)."""
        return (self._each(x) - self.mean) * self.factor

    def _each(self, x: Tensor) -> Tensor:
        return F.group_norm(x, 1, eps=1e-3)


# -- training --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recipe:
    """A network and how it is trained: size of its pictures in pixels, optimizer, augmentation."""

    network: Callable[[int, Images], nn.Module]
    height: int
    width: int
    epochs: int
    batch_size: int
    optimizer: Callable[[nn.Module, int], Any]
    label_smoothing: float
    variants: Compose | None


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
        variants=Compose(
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
        variants=None,
    ),
}


@dataclass(frozen=True)
class Outcome:
    """A trained network, how it came about, and what it says of the test pictures.

    inputs       the test pictures as the network gets them, uint8 (m, height, width, 1)
    predictions  int64 (m,): a number of ``train.people`` for each test picture
    confidence   float64 (m,): the probability that the network gives to that person
    confusion    int64 (people, people): row = who it is, column = who it is taken for
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
        """The share of the test pictures that are named rightly."""
        return accuracy(self.predictions, self.test.labels)

    @property
    def mistakes(self) -> list[int]:
        """The numbers of the test pictures taken for somebody else, the most confident first."""
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
    """Split, train and test. The test pictures choose nothing: the last epoch is what counts.

    With ``checkpoints`` a later call goes on where this one was lost.
    """
    training, test = split(portraits, seed)
    images = resized(training.images, recipe.height, recipe.width)
    batch_size = min(batch_size, len(images))
    loader = DataLoader(
        ArrayDataset(images, training.labels),
        batch_size,
        shuffle=True,
        seed=seed,
        drop_last=recipe.variants is not None,
        augment=recipe.variants,
        device=device,
    )
    unseen = resized(test.images, recipe.height, recipe.width)
    tinynn.manual_seed(seed)
    model = recipe.network(len(portraits.people), images).to(device)
    history = fit(
        model,
        loader,
        recipe.optimizer(model, epochs * len(loader)),
        partial(F.cross_entropy, label_smoothing=recipe.label_smoothing),
        epochs=epochs,
        validation=DataLoader(ArrayDataset(unseen, test.labels), 64, device=device),
        micro_batch=micro_batch,
        checkpoints=checkpoints,
        callbacks=callbacks,
        description="identification",
    )
    logits = predict(model, unseen)
    predictions = predicted_classes(logits)
    confidence = F.softmax(tinynn.tensor(logits, device="cpu"), axis=1).numpy().max(axis=1)
    matrix = confusion_matrix(predictions, test.labels, len(portraits.people))
    return Outcome(model, history, training, test, unseen, predictions, confidence, matrix)


def resized(images: Images, height: int, width: int) -> Images:
    """``images``, uint8 (n, h, w, 1), as uint8 (n, height, width, 1)."""
    if images.shape[1:3] == (height, width):
        return images
    return np.stack([resize(image, height, width) for image in images])


# -- what came out ---------------------------------------------------------------------------------


def beside(outcome: Outcome, number: int) -> tuple[Images, Images]:
    """Training pictures of who test picture ``number`` was taken for, and of who it is."""
    taken, true = int(outcome.predictions[number]), int(outcome.test.labels[number])
    return _known(outcome.train, taken), _known(outcome.train, true)


def in_words(outcome: Outcome, number: int) -> str:
    """Who test picture ``number`` was taken for, how surely, and who it is."""
    people = outcome.train.people
    taken, true = people[outcome.predictions[number]], people[outcome.test.labels[number]]
    return f"taken for {taken} ({outcome.confidence[number]:.0%} sure), is {true}"


def _known(training: Portraits, person: int) -> Images:
    """The first training picture of a person."""
    return training.images[int((training.labels == person).argmax())]


def summary(outcome: Outcome, model: str) -> dict[str, Any]:
    """The part ``identify`` of ``report.json``."""
    validation = [figures.accuracy for figures in outcome.history.validation]
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
