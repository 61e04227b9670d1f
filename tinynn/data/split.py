"""Split a dataset into disjoint parts, and check that they are disjoint."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tinynn.arguments import as_array, exact_number, is_sequence
from tinynn.errors import ArgumentError, DataError, DtypeError, ShapeError
from tinynn.random import numpy_generator

__all__ = ["check_disjoint", "split_by_group", "split_stratified"]

Indices = NDArray[np.int64]


def split_stratified(
    labels: ArrayLike, parts: Sequence[float] | Sequence[int], seed: int = 0
) -> list[Indices]:
    """Random split that preserves the class proportions in every part.

    Args:
        labels: Class of each example, numbers or strings, (N,).
        parts: Fractions that sum to 1, such as (0.8, 0.2), or examples per class, such as (5, 5).
            Of n examples of a class, a part with fraction f receives n · f, rounded up or down;
            with counts, surplus examples of a class are left out.
        seed: Seed of the random assignment.

    Returns:
        The sorted indices of the examples in each part.

    Raises:
        ArgumentError: If ``parts`` are invalid or a class has too few examples.
    """
    values = _one_dimensional(labels, "labels")
    parts = _checked("parts", parts)
    counting = all(isinstance(part, int) for part in parts)
    ends = _ends_of_counts(parts) if counting else _ends_of_fractions(parts)
    chosen: list[list[Indices]] = [[] for _ in parts]
    for number, label in enumerate(np.unique(values)):
        generator = numpy_generator(seed, number)
        members = generator.permutation(np.flatnonzero(values == label))
        if counting and len(members) < ends[-1]:
            raise ArgumentError(
                f"parts {tuple(parts)} need {int(ends[-1])} examples of each class, class "
                f"{np.asarray(label).item()!r} has {len(members)}"
            )
        # A common random offset rounds all boundaries without favoring any part.
        cuts = ends if counting else np.floor(ends * len(members) + generator.random())
        for part, piece in zip(chosen, np.split(members, cuts.astype(np.int64)), strict=False):
            part.append(piece)
    return [np.sort(np.concatenate(pieces)) for pieces in chosen]


def split_by_group(groups: ArrayLike, fractions: Sequence[float], seed: int = 0) -> list[Indices]:
    """Random split that keeps all examples of a group (person, scene, day) in the same part.

    The groups are visited in random order; each is assigned to the part that is furthest below its
    fraction. Every part receives at least one group.

    Args:
        groups: Group of each example, numbers or strings, (N,).
        fractions: Approximate share of the examples in each part; they sum to 1.
        seed: Seed of the random order.

    Returns:
        The sorted indices of the examples in each part.

    Raises:
        ArgumentError: If ``fractions`` are invalid or there are fewer groups than parts.
    """
    values = _one_dimensional(groups, "groups")
    fractions = _checked("fractions", fractions)
    shares = np.diff(_ends_of_fractions(fractions), prepend=0.0)
    _, group_of, sizes = np.unique(values, return_inverse=True, return_counts=True)
    if len(sizes) < len(shares):
        raise ArgumentError(
            f"{len(shares)} parts need at least {len(shares)} groups, got {len(sizes)}: a group "
            "is never divided"
        )
    part_of_group = np.empty(len(sizes), dtype=np.int64)
    filled = np.zeros(len(shares))
    for group in numpy_generator(seed).permutation(len(sizes)):
        part = np.argmin(filled / shares)
        part_of_group[group] = part
        filled[part] += sizes[group]
    return [np.flatnonzero(part_of_group[group_of] == part) for part in range(len(shares))]


def check_disjoint(
    images_a: NDArray[Any],
    images_b: NDArray[Any],
    names_a: Sequence[object] | None = None,
    names_b: Sequence[object] | None = None,
) -> None:
    """Check that no image occurs, byte for byte, in both sets: testing on training data is invalid.

    Args:
        images_a: First set, (N, ...).
        images_b: Second set, (M, ...), of the same dtype and image shape.
        names_a: Names for the error message, such as file paths; by default the indices are given.
        names_b: Names for the second set.

    Raises:
        DataError: If an image occurs in both sets.
        DtypeError: If the dtypes differ, so that nothing can be compared.
        ShapeError: If the image shapes differ, or the number of names is wrong.
    """
    images_a, images_b = _images(images_a), _images(images_b)
    names_a = _names(names_a, len(images_a), "first")
    names_b = _names(names_b, len(images_b), "second")
    if images_a.dtype != images_b.dtype:
        raise DtypeError(f"expected the same dtype, got {images_a.dtype} and {images_b.dtype}")
    if images_a.shape[1:] != images_b.shape[1:]:
        raise ShapeError(
            "both sets must have the same image shape, got "
            f"{images_a.shape[1:]} and {images_b.shape[1:]}"
        )
    first = {_digest(image): index for index, image in enumerate(images_a)}
    digests = map(_digest, images_b)
    shared = [(first[digest], i) for i, digest in enumerate(digests) if digest in first]
    if shared:
        a, b = shared[0]
        raise DataError(
            f"{len(shared)} of {len(images_b)} images of the second set also occur in the first: "
            f"{names_a[a]} and {names_b[b]} are identical. Remove one of each such pair before "
            "training"
        )


def _names(names: Sequence[object] | None, count: int, which: str) -> Sequence[object]:
    if names is None:
        return [f"image {index} of the {which}" for index in range(count)]
    if len(names) != count:
        raise ShapeError(f"expected {count} names of images in the {which} set, got {len(names)}")
    return names


def _digest(image: NDArray[Any]) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(image).tobytes(), digest_size=16).digest()


def _images(images: NDArray[Any]) -> NDArray[Any]:
    array = as_array("images", images)
    if not array.ndim or array.dtype.kind not in "fiub":
        raise ShapeError(f"expected an array of images (N, ...), got {images!r:.80}")
    return array


def _one_dimensional(values: ArrayLike, name: str) -> NDArray[Any]:
    array = as_array(name, values)
    if array.ndim != 1 or not len(array):
        raise ShapeError(f"{name} must have shape (N,) with N >= 1, got {array.shape}")
    try:
        np.sort(array)
    except TypeError as error:  # None among strings
        raise DtypeError(f"{name} must all be numbers, or all be strings: {error}") from error
    if (array != array).any():
        raise DataError(f"{name} must not be NaN, which equals no class")
    return array


def _checked(name: str, parts: Sequence[float]) -> list[float]:
    if not is_sequence(parts):
        raise ArgumentError(f"{name} must be several numbers, got {parts!r:.80}")
    return [exact_number(name, part) for part in parts]


def _ends_of_counts(counts: Sequence[float]) -> NDArray[np.float64]:
    if len(counts) < 2 or min(counts) < 1:
        raise ArgumentError(f"expected at least two counts >= 1, got {tuple(counts)}")
    return np.cumsum(counts, dtype=np.float64)


def _ends_of_fractions(fractions: Sequence[float]) -> NDArray[np.float64]:
    """Cumulative sums, rounded so that 0.1 + 0.2 ends at 0.3."""
    ends = np.cumsum(fractions, dtype=np.float64).round(12)
    if len(ends) < 2 or min(fractions) <= 0 or ends[-1] != 1:
        raise ArgumentError(
            f"expected at least two positive fractions that sum to 1, got {tuple(fractions)}"
        )
    return ends
