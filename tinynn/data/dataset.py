"""Datasets: indexed collections of (image, label) examples."""

import math
import os
from collections import deque
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tinynn.arguments import choice, flag, number, refuse_masked
from tinynn.backend import usable_cores
from tinynn.data.decoding import decode
from tinynn.errors import DataError, DtypeError, ShapeError
from tinynn.files import local_path
from tinynn.functional.geometry import pair
from tinynn.messages import warn

__all__ = ["ArrayDataset", "Dataset", "ImageFolder"]

Targets = NDArray[Any]
Index = int | NDArray[np.integer[Any]]


class Dataset(Protocol):
    """The interface that :class:`DataLoader` reads: ``len(dataset)`` examples, indexed from 0."""

    def __len__(self) -> int:
        """The number of examples."""

    def __getitem__(self, index: Index, /) -> tuple[Any, Any]:
        """One (image, target) for an integer, a batch (images, targets) for an integer array.

        Batched images are uint8 in [0, 255] or float32 in [0, 1], shape (N, H, W, C). Targets are
        what the loss function takes, shape (N, ...): class indices, values, images and so on.
        """


class ArrayDataset:
    """A dataset of arrays that are already in memory.

    Args:
        images: uint8 or float32, (N, H, W, C), or (N, features) for data other than images.
        labels: The targets, as the loss function takes them, one per image: numbers (N, ...).
            Class indices are integers, (N,), or (N, H, W) for one per pixel. Values to predict are
            floats: coordinates, the probabilities of several labels, images in [0, 1].

    Attributes:
        images: The images.
        labels: The targets; integers (N,) become int64.

    Raises:
        ShapeError: If the shapes differ from the above or from each other in N.
        DtypeError: If the images are neither uint8 nor float32, or the labels are not numbers.
    """

    def __init__(self, images: ArrayLike, labels: ArrayLike) -> None:
        self.images, self.labels = to_array("images", images), to_array("labels", labels)
        _check_dtype(self.images)
        if self.images.ndim not in (2, 4):
            hint = ": gray images need a channel axis, images[..., np.newaxis]"
            raise ShapeError(
                "expected images of shape (N, H, W, C), channels last, or features (N, F), got "
                f"{self.images.shape}{hint if self.images.ndim == 3 else ''}"
            )
        if self.labels.ndim == 0:
            raise ShapeError("expected one label per image, shape (N, ...), got a single number")
        if len(self.images) != len(self.labels):
            raise ShapeError(
                f"expected one label per image, got {len(self.images)} images and "
                f"{len(self.labels)} labels"
            )
        to_target(self.labels[:0])  # an error if they are not numbers
        if self.labels.ndim == 1 and self.labels.dtype.kind in "iu":
            self.labels = to_target(self.labels)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: Index) -> tuple[Any, Any]:
        return self.images[index], self.labels[index]


class ImageFolder:
    """A dataset of image files in one directory per class: ``directory/CLASS/any name.jpg``.

    Each photo is rotated upright (EXIF), scaled to cover ``size``, center-cropped to it and stored
    as uint8 (H, W, 3), or (H, W, 1) with ``gray``. Names that start with a dot are ignored.

    Every file is decoded in the constructor, so that a damaged file is reported before training
    starts. The decoded images are cached if the whole dataset needs at most ``cache_bytes``,
    otherwise files are decoded again on access.

    Args:
        directory: Contains one directory of images per class, at least two.
        size: Side, or (height, width), of the output in pixels.
        gray: Convert to one gray channel.
        on_error: "raise", or "skip" to leave out unreadable files and empty classes with a warning.
        cache_bytes: Memory limit of the cache.

    Attributes:
        classes: Sorted names of the class directories.
        labels: Index into ``classes`` of each example, int64 (N,).
        paths: File of each example.
        shape: (H, W, C) of one image.

    Raises:
        DataError: Names the file or directory that is unreadable, empty or missing.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        size: int | tuple[int, int],
        gray: bool = False,
        on_error: Literal["raise", "skip"] = "raise",
        cache_bytes: int = 1 << 30,
    ) -> None:
        choice("on_error", on_error, "raise", "skip")
        gray = flag("gray", gray)
        height, width = pair("ImageFolder", "size", size, 1)
        number("cache_bytes", cache_bytes, 0, ends="[]")
        self.shape = (height, width, 1 if gray else 3)
        self._read = partial(_read_image, shape=self.shape)
        self._skips = on_error == "skip"
        files = self._find(local_path(directory))
        fits = len(files) * math.prod(self.shape) <= cache_bytes
        self._pixels = np.empty((len(files), *self.shape), np.uint8) if fits else None
        self.paths = self._decode_all(files)
        self._files = [path.absolute() for path in self.paths]  # survive os.chdir
        self.classes = sorted({path.parent.name for path in self.paths})
        class_of = [self.classes.index(path.parent.name) for path in self.paths]
        self.labels = np.array(class_of, dtype=np.int64)
        if len(self.classes) < 2:
            found = f"only one, {self.classes[0]!r}" if self.classes else "none"
            raise DataError(
                f"{directory} must contain at least two classes, one directory of images each; "
                f"found {found}"
            )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: Index) -> tuple[Any, Any]:
        labels = self.labels[index]
        if self._pixels is not None:
            return self._pixels[: len(self)][index], labels
        if isinstance(index, (int, np.integer)):
            return self._read(self._files[index]), labels
        images = [self._read(self._files[i]) for i in np.arange(len(self))[index]]
        return np.array(images, np.uint8).reshape(-1, *self.shape), labels

    def _find(self, directory: Path) -> list[Path]:
        """Visible files (and nested directories) of each class, sorted by class and name."""
        if not directory.is_dir():
            raise DataError(
                f"{directory} is not a directory: expected one that contains a directory per class"
            )
        files: list[Path] = []
        for folder in filter(Path.is_dir, _visible(directory)):
            members = _visible(folder)
            if not members:
                problem = f"{folder} contains no images: add some or remove the directory"
                self._report(DataError(problem))
            files += members
        return files

    def _decode_all(self, paths: list[Path]) -> list[Path]:
        """Fill the cache; returns the files that contain an image, in order."""
        from tinynn.data.pool import Pool

        good: list[Path] = []
        # Threads run in parallel here: Pillow releases the GIL while it decodes.
        pool = Pool(max_workers=usable_cores(), thread_name_prefix="tinynn-decode")
        pending = deque(pool.submit(self._read, path) for path in paths)
        try:
            for path in paths:
                try:
                    image = pending.popleft().result()
                except DataError as error:
                    self._report(error)
                    continue
                if self._pixels is not None:
                    self._pixels[len(good)] = image
                good.append(path)
        finally:
            pool.shutdown(cancel_futures=True)
        return good

    def _report(self, error: DataError) -> None:
        """Raise ``error``, or warn at the line that constructs the dataset."""
        if not self._skips:
            raise error
        warn(f"skipped: {error}", stacklevel=4)


def to_float32(images: NDArray[Any]) -> NDArray[np.float32]:
    """Images in [0, 1]: uint8 is divided by 255, float32 is returned unchanged."""
    _check_dtype(images)
    if images.dtype == np.uint8:
        return np.asarray(np.divide(images, np.float32(255), dtype=np.float32))
    return images.astype(np.float32, copy=False)


def _check_dtype(images: NDArray[Any]) -> None:
    if images.dtype.newbyteorder("=") not in (np.uint8, np.float32):
        raise DtypeError(
            f"expected images of dtype uint8 (0 to 255) or float32 (0 to 1), got {images.dtype}: "
            "convert with .astype(np.uint8) or .astype(np.float32) according to the value range"
        )


def to_target(targets: NDArray[Any]) -> Targets:
    """Targets as the loss functions take them: integers as int64, floats as float32, or bools."""
    dtype = {"b": np.bool_, "i": np.int64, "u": np.int64, "f": np.float32}.get(targets.dtype.kind)
    if dtype is None:
        raise DtypeError(
            "expected numbers as targets, integer labels (class indices) for example, got "
            f"{targets.dtype}: np.unique(names, return_inverse=True) converts names to indices"
        )
    if targets.dtype == dtype:
        return targets
    with np.errstate(over="ignore", under="ignore"):
        converted: Targets = targets.astype(dtype, copy=False)
    if targets.dtype.itemsize > 4 and targets.dtype.kind in "uf":
        beyond = np.isinf(converted) if converted.dtype == np.float32 else converted < 0
        if (beyond & np.isfinite(targets)).any():
            raise DataError(
                f"targets from {targets.min()} to {targets.max()} exceed {dtype.__name__}"
            )
    return converted


def to_array(name: str, values: ArrayLike) -> NDArray[Any]:
    """The values as an array; DataError if they do not form one."""
    refuse_masked(name, values)
    try:
        return np.asarray(values)
    except ValueError as error:  # lists of several lengths
        raise DataError(f"the {name} do not form an array: {error}") from error


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _read_image(path: Path, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    from PIL import Image, ImageOps

    height, width, channels = shape
    picture = Image.fromarray(decode(path, at_least=2 * max(height, width)))
    fitted = ImageOps.fit(picture, (width, height))
    return np.array(fitted.convert("L" if channels == 1 else "RGB")).reshape(shape)
