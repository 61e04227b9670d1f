"""Data sets: numbered examples, each an image and the number of its class."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from tinynn.backend import usable_cores
from tinynn.data.decoding import decode
from tinynn.errors import ArgumentError, DataError, DtypeError, ShapeError

Images = npt.NDArray[np.uint8] | npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
Index = int | npt.NDArray[np.integer[Any]]


class Dataset(Protocol):
    """What a :class:`DataLoader` reads: ``len(dataset)`` examples, numbered from 0."""

    def __len__(self) -> int:
        """The number of examples."""
        ...

    def __getitem__(self, index: Index, /) -> tuple[Any, Any]:
        """An integer gives one (image, label), an integer array a batch (images, labels).

        The images of a batch are uint8 in 0..255 or float32 in 0..1, shape (N, H, W, C); the
        labels are integers, shape (N,).
        """
        ...


class ArrayDataset:
    """Examples that are in memory.

    ``images`` is uint8 or float32, (N, H, W, C), or (N, features) for data that are no images;
    ``labels`` are integers, (N,). Raises :class:`ShapeError` or :class:`DtypeError` otherwise.
    """

    def __init__(self, images: npt.ArrayLike, labels: npt.ArrayLike) -> None:
        self.images = _checked_images(np.asarray(images))
        self.labels = _checked_labels(np.asarray(labels))
        if len(self.images) != len(self.labels):
            raise ShapeError(
                f"expected one label for each image, got {len(self.images)} images and "
                f"{len(self.labels)} labels"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Index) -> tuple[Any, Any]:
        return self.images[index], self.labels[index]


class ImageFolder:
    """Photos in one folder per class: ``directory/CLASS/any name.jpg``.

    Each photo is turned upright (EXIF), scaled until it covers ``size`` (one number, or height
    and width, in pixels), cut to it at the center, and kept as uint8 (H, W, 3), with ``gray``
    (H, W, 1). Names that begin with a dot are ignored. ``classes`` are the names of the folders,
    sorted; ``labels`` their numbers, int64; ``paths`` the files; ``shape`` that of one image.

    Every file is decoded when the data set is made, so that a damaged one shows before training
    and not hours into it, and kept in memory where the whole set needs at most ``cache_bytes``.
    A file that is no whole image, or a class without one, raises :class:`DataError` that names
    it; ``on_error="skip"`` leaves it out with a warning instead.
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
        self.shape = (*_height_and_width(size), 1 if gray else 3)
        self._read = partial(_read_image, shape=self.shape)
        found = _image_files(Path(directory), _reaction(on_error))
        keep = len(found) * math.prod(self.shape) <= cache_bytes
        self._pixels = np.empty((len(found), *self.shape), np.uint8) if keep else None
        self.paths = self._decode_all(found, _reaction(on_error))
        self.classes = sorted({path.parent.name for path in self.paths})
        self.labels = np.array(
            [self.classes.index(path.parent.name) for path in self.paths], dtype=np.int64
        )
        _check_classes(Path(directory), self.classes)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: Index) -> tuple[Any, Any]:
        labels = self.labels[index]
        if self._pixels is not None:
            return self._pixels[: len(self)][index], labels
        if isinstance(index, (int, np.integer)):
            return self._read(self.paths[index]), labels
        images = [self._read(self.paths[i]) for i in np.arange(len(self))[index]]
        return np.array(images, np.uint8).reshape(-1, *self.shape), labels

    def _decode_all(self, paths: list[Path], react: Callable[[DataError], None]) -> list[Path]:
        """Fills the cache and returns the files that hold an image, in order."""
        good: list[Path] = []
        for path, outcome in zip(paths, _in_parallel(self._attempt, paths), strict=True):
            if isinstance(outcome, DataError):
                react(outcome)
                continue
            if self._pixels is not None:
                self._pixels[len(good)] = outcome
            good.append(path)
        return good

    def _attempt(self, path: Path) -> npt.NDArray[np.uint8] | DataError:
        try:
            return self._read(path)
        except DataError as error:
            return error


def _checked_images(images: npt.NDArray[Any]) -> Images:
    if images.dtype not in (np.uint8, np.float32):
        raise DtypeError(
            f"expected images of uint8 (0 to 255) or float32 (0 to 1), got {images.dtype}: "
            "convert values of 0 to 255 with .astype(np.uint8), of 0 to 1 with .astype(np.float32)"
        )
    if images.ndim == 3:
        raise ShapeError(
            "expected images of shape (N, H, W, C), channels last, got "
            f"{images.shape}: gray images need a channel axis, images[..., np.newaxis]"
        )
    if images.ndim not in (2, 4):
        raise ShapeError(
            f"expected images of shape (N, H, W, C) or rows of features (N, F), got {images.shape}"
        )
    return images


def _checked_labels(labels: npt.NDArray[Any]) -> Labels:
    if labels.dtype.kind not in "iu":
        raise DtypeError(
            f"expected integer labels, the numbers of the classes, got {labels.dtype}: "
            "np.unique(names, return_inverse=True) turns names into numbers"
        )
    if labels.ndim != 1:
        raise ShapeError(f"expected one label per image, shape (N,), got {labels.shape}")
    return labels.astype(np.int64, copy=False)


def _height_and_width(size: int | tuple[int, int]) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    if height < 1 or width < 1:
        raise ArgumentError(f"expected a size of at least one pixel, got size={size}")
    return height, width


def _reaction(on_error: str) -> Callable[[DataError], None]:
    reactions = {"raise": _raise, "skip": _warn}
    if on_error not in reactions:
        raise ArgumentError(f"on_error is 'raise' or 'skip', got {on_error!r}")
    return reactions[on_error]


def _raise(error: DataError) -> None:
    raise error


def _warn(error: DataError) -> None:
    warnings.warn(f"skipped: {error}", stacklevel=4)


def _image_files(directory: Path, react: Callable[[DataError], None]) -> list[Path]:
    if not directory.is_dir():
        raise DataError(f"{directory} is no folder: expected one that holds a folder per class")
    files: list[Path] = []
    for folder in filter(Path.is_dir, _visible(directory)):
        inside = _visible(folder)
        if not inside:
            react(DataError(f"{folder} holds no image: put photos in it or remove the folder"))
        files += inside
    return files


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _check_classes(directory: Path, classes: list[str]) -> None:
    if len(classes) < 2:
        found = f"one only, {classes[0]!r}" if classes else "none"
        raise DataError(
            f"{directory} must hold at least two classes, a folder of images for each; "
            f"found {found}"
        )


def _read_image(path: Path, shape: tuple[int, int, int]) -> npt.NDArray[np.uint8]:
    from PIL import ImageOps

    height, width, channels = shape
    picture = decode(path, at_least=2 * max(height, width))
    fitted = ImageOps.fit(picture, (width, height))
    return np.array(fitted.convert("L" if channels == 1 else "RGB")).reshape(shape)


def _in_parallel(
    function: Callable[[Path], npt.NDArray[np.uint8] | DataError], paths: list[Path]
) -> Iterator[npt.NDArray[np.uint8] | DataError]:
    """The results in order; Pillow decodes without holding the interpreter's lock."""
    from concurrent.futures import ThreadPoolExecutor

    pool = ThreadPoolExecutor(max_workers=usable_cores(), thread_name_prefix="tinynn-decode")
    try:
        yield from pool.map(function, paths)
    finally:
        pool.shutdown(cancel_futures=True)
