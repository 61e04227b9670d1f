"""Boxes: float32 arrays (n, 4) of x, y, width and height, in pixels of the upright photo."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from tinynn.errors import ArgumentError, ShapeError

Boxes = npt.NDArray[np.float32]
Scores = npt.NDArray[np.float32]


def as_boxes(boxes: npt.ArrayLike) -> Boxes:
    """``boxes`` as float32 (n, 4): x, y, width, height. An empty list is no boxes."""
    array = np.asarray(boxes, dtype=np.float32)
    if array.size == 0:
        return np.zeros((0, 4), dtype=np.float32)
    if array.ndim != 2 or array.shape[1] != 4:
        raise ShapeError(f"boxes are (n, 4): x, y, width and height, got {array.shape}")
    good = np.isfinite(array).all(axis=1) & (array[:, 2:] >= 0).all(axis=1)
    if not good.all():
        raise ArgumentError(
            "a box is finite and has a width and a height of at least 0, got "
            f"{array[~good][0].tolist()}. Boxes are x, y, width, height, not two corners"
        )
    return array


def iou(a: npt.ArrayLike, b: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Intersection over union, |A and B| / |A or B|, of each box of ``a`` with each of ``b``.

    (n, 4) and (m, 4) give float32 (n, m), from 0 (apart) to 1 (the same); two boxes without
    area have 0.
    """
    first, second = as_boxes(a).astype(np.float64), as_boxes(b).astype(np.float64)
    shared = _intersection(first, second)
    union = _area(first)[:, None] + _area(second)[None, :] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0).astype(np.float32)


def clip_boxes(boxes: npt.ArrayLike, height: int, width: int) -> Boxes:
    """The parts of ``boxes`` (n, 4) that lie in a photo of ``height`` x ``width`` pixels."""
    array = as_boxes(boxes)
    limit = np.array([width, height], dtype=np.float32)
    corner = np.clip(array[:, :2], 0, limit)
    opposite = np.clip(array[:, :2] + array[:, 2:], 0, limit)
    return np.concatenate([corner, opposite - corner], axis=1)


def non_maximum_suppression(
    boxes: npt.ArrayLike, scores: npt.ArrayLike, threshold: float
) -> npt.NDArray[np.int64]:
    """Indices of the boxes to keep, best first: none has IoU > ``threshold`` with a better one.

    Equal scores keep the order in which they came.
    """
    array, values = _scored(boxes, scores)
    kept = [leader for leader, _ in _groups(array, values, threshold)]
    return np.array(kept, dtype=np.int64)


def merge_overlapping(
    boxes: npt.ArrayLike, scores: npt.ArrayLike, threshold: float, least: int = 1
) -> tuple[Boxes, Scores]:
    """One box per group: the mean, weighted by score, of the best box and those over it.

    A group is what :func:`non_maximum_suppression` would keep once: a best box and the boxes
    with IoU > ``threshold`` to it; groups of fewer than ``least`` are left out. Its score is the
    best one. Best first.
    """
    array, values = _scored(boxes, scores)
    groups = [group for group in _groups(array, values, threshold) if len(group[1]) >= least]
    if not groups:
        return array[:0], values[:0]
    merged = [_weighted_mean(array[members], values[members]) for _, members in groups]
    leaders = [leader for leader, _ in groups]
    return np.stack(merged), values[leaders]


def drop_nested(
    boxes: npt.ArrayLike, scores: npt.ArrayLike, fraction: float
) -> npt.NDArray[np.int64]:
    """Indices of the boxes to keep, best first: none lies within a better one, nor around it.

    That is, it shares at most ``fraction`` of the smaller area of the two. What is found within a
    face (an eye, a mouth that looks like a small face) has little IoU with it and goes here.
    """
    array, values = _scored(boxes, scores)
    areas = _area(array.astype(np.float64))
    shared = _intersection(array.astype(np.float64), array.astype(np.float64))
    nested = shared > fraction * np.minimum(areas[:, None], areas[None, :])
    kept: list[int] = []
    for candidate in np.argsort(-values, kind="stable"):
        if not nested[candidate, kept].any():
            kept.append(int(candidate))
    return np.array(kept, dtype=np.int64)


def _groups(
    boxes: Boxes, scores: Scores, threshold: float
) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
    """Each kept box, best first, with itself and the boxes that it stands for."""
    left = np.argsort(-scores, kind="stable")
    while left.size:
        leader = int(left[0])
        over = iou(boxes[leader : leader + 1], boxes[left])[0] > threshold
        over[0] = True  # a box without area has no overlap, not even with itself
        yield leader, left[over]
        left = left[~over]


def _scored(boxes: npt.ArrayLike, scores: npt.ArrayLike) -> tuple[Boxes, Scores]:
    array, values = as_boxes(boxes), np.asarray(scores, dtype=np.float32)
    if values.shape != (len(array),):
        raise ShapeError(
            f"{len(array)} boxes need scores of shape ({len(array)},), got {values.shape}"
        )
    return array, values


def _weighted_mean(boxes: Boxes, weights: Scores) -> Boxes:
    total = weights.sum(dtype=np.float64)
    if total <= 0:
        first: Boxes = boxes[0]
        return first
    return np.asarray(weights.astype(np.float64) @ boxes / total, dtype=np.float32)


def _intersection(
    a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    start = np.maximum(a[:, None, :2], b[None, :, :2])
    end = np.minimum((a[:, :2] + a[:, 2:])[:, None], (b[:, :2] + b[:, 2:])[None, :])
    overlap: npt.NDArray[np.float64] = np.clip(end - start, 0, None).prod(axis=2)
    return overlap


def _area(boxes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.asarray(boxes[:, 2] * boxes[:, 3])
