"""Splits of a data set into parts that have no example in common, and the proof of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tinynn.errors import ArgumentError, DataError, DtypeError, ShapeError
from tinynn.random import numpy_generator

Indices = npt.NDArray[np.int64]


def split_stratified(
    labels: npt.ArrayLike, parts: Sequence[float] | Sequence[int], seed: int = 0
) -> list[Indices]:
    """Splits examples at random so that every part has its share of every class.

    ``labels``, shape (N,), are numbers or names. ``parts`` are either fractions that add up to 1,
    as (0.8, 0.2), or numbers of examples of each class, as (5, 5). Of n examples of a class, a
    part of fraction f gets n·f, rounded up or down; with numbers, what a class has beyond their
    sum is left out. Returns the sorted indices of each part. Raises :class:`ArgumentError` if the
    parts make no sense or a class has too few examples.
    """
    values = _one_dimensional(labels, "labels")
    counting = all(isinstance(part, (int, np.integer)) for part in parts)
    ends = _ends_of_counts(parts) if counting else _ends_of_fractions(parts)
    chosen: list[list[Indices]] = [[] for _ in parts]
    for number, label in enumerate(np.unique(values)):
        generator = numpy_generator(seed, number)
        members = generator.permutation(np.flatnonzero(values == label))
        if counting and len(members) < ends[-1]:
            raise ArgumentError(
                f"parts {tuple(parts)} need {int(ends[-1])} examples of each class, class "
                f"{label.item()!r} has {len(members)}"
            )
        # One random offset for all ends: each share is rounded, and none is favored.
        cuts = ends if counting else np.floor(ends * len(members) + generator.random())
        for part, piece in zip(chosen, np.split(members, cuts.astype(np.int64)), strict=False):
            part.append(piece)
    return [np.sort(np.concatenate(pieces)) for pieces in chosen]


def split_by_group(
    groups: npt.ArrayLike, fractions: Sequence[float], seed: int = 0
) -> list[Indices]:
    """Splits examples at random so that no group (person, scene, day) is in two parts.

    ``groups``, shape (N,), are numbers or names; ``fractions`` add up to 1. The groups, in random
    order, go each to the part that has the least of its share so far; every part gets at least
    one. Returns the sorted indices of each part. Raises :class:`ArgumentError` if the fractions
    make no sense or there are fewer groups than parts.
    """
    values = _one_dimensional(groups, "groups")
    shares = np.diff(_ends_of_fractions(fractions), prepend=0.0)
    _, group_of, sizes = np.unique(values, return_inverse=True, return_counts=True)
    if len(sizes) < len(shares):
        raise ArgumentError(
            f"{len(shares)} parts need at least as many groups, got {len(sizes)}: groups are "
            "never divided"
        )
    part_of_group = np.empty(len(sizes), dtype=np.int64)
    filled = np.zeros(len(shares))
    for group in numpy_generator(seed).permutation(len(sizes)):
        part = np.argmin(filled / shares)
        part_of_group[group] = part
        filled[part] += sizes[group]
    return [np.flatnonzero(part_of_group[group_of] == part) for part in range(len(shares))]


def check_disjoint(
    images_a: npt.NDArray[Any],
    images_b: npt.NDArray[Any],
    names_a: Sequence[object] | None = None,
    names_b: Sequence[object] | None = None,
) -> None:
    """Raises :class:`DataError` if an image of one side occurs, byte for byte, on the other.

    A test on images that were trained on measures memory and no skill. Both sides have one dtype
    and one shape of image, (N, ...) and (M, ...): otherwise nothing can be compared, and
    :class:`DtypeError` or :class:`ShapeError` says so. The message names images by their
    ``names``, such as the paths of their files, or by their place on their side.
    """
    name_a = _naming(names_a, len(images_a), "first")
    name_b = _naming(names_b, len(images_b), "second")
    if images_a.dtype != images_b.dtype:
        raise DtypeError(
            f"both sides need one dtype to be compared, got {images_a.dtype} and {images_b.dtype}"
        )
    if images_a.shape[1:] != images_b.shape[1:]:
        raise ShapeError(
            "both sides need images of one shape to be compared, got "
            f"{images_a.shape[1:]} and {images_b.shape[1:]}"
        )
    first = {_fingerprint(image): index for index, image in enumerate(images_a)}
    keys = map(_fingerprint, images_b)
    shared = [(first[key], index) for index, key in enumerate(keys) if key in first]
    if shared:
        raise DataError(
            f"{len(shared)} of {len(images_b)} images of the second side are on the first side "
            f"too: {name_a(shared[0][0])} and {name_b(shared[0][1])} are identical. Remove one of "
            "each such pair before training"
        )


def _naming(names: Sequence[object] | None, count: int, side: str) -> Callable[[int], str]:
    if names is None:
        return lambda index: f"image {index} of the {side}"
    if len(names) != count:
        raise ShapeError(f"expected a name for each of {count} {side} images, got {len(names)}")
    return lambda index: str(names[index])


def _fingerprint(image: npt.NDArray[Any]) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(image).tobytes(), digest_size=16).digest()


def _one_dimensional(values: npt.ArrayLike, name: str) -> npt.NDArray[Any]:
    array = np.asarray(values)
    if array.ndim != 1 or not len(array):
        raise ShapeError(f"{name} must have the shape (N,) with N at least 1, got {array.shape}")
    return array


def _ends_of_counts(counts: Sequence[float]) -> npt.NDArray[np.float64]:
    if len(counts) < 2 or min(counts) < 1:
        raise ArgumentError(f"expected at least two numbers of 1 or more, got {tuple(counts)}")
    return np.cumsum(counts, dtype=np.float64)


def _ends_of_fractions(fractions: Sequence[float]) -> npt.NDArray[np.float64]:
    """Where each part ends on the way from 0 to 1, rounded so that 0.1 + 0.2 ends at 0.3."""
    ends = np.cumsum(fractions, dtype=np.float64).round(12)
    if len(ends) < 2 or min(fractions) <= 0 or ends[-1] != 1:
        raise ArgumentError(
            f"expected at least two fractions above 0 that add up to 1, got {tuple(fractions)}"
        )
    return ends
