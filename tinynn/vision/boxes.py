"""Bounding boxes: float32 arrays (n, 4) of x, y, width and height in pixels."""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tinynn.arguments import as_array, integer, number
from tinynn.errors import ArgumentError, DtypeError, ShapeError

__all__ = ["clip_boxes", "drop_nested", "iou", "merge_overlapping", "non_maximum_suppression"]

Boxes = NDArray[np.float32]
Scores = NDArray[np.float32]
Indices = NDArray[np.int64]
Exact = NDArray[np.float64]  # boxes and areas

TABLE = 1 << 18
"""Pairs of boxes that are compared at a time."""


def as_boxes(boxes: ArrayLike) -> Boxes:
    """Check ``boxes`` and convert them to float32 (n, 4); an empty sequence gives (0, 4)."""
    array = _numbers("boxes", boxes)
    if array.size == 0:
        return np.zeros((0, 4), dtype=np.float32)
    if array.ndim != 2 or array.shape[1] != 4:
        raise ShapeError(f"boxes must be (n, 4): x, y, width and height, got {array.shape}")
    good = np.isfinite(array).all(axis=1) & (array[:, 2:] >= 0).all(axis=1)
    if not good.all():
        raise ArgumentError(
            "a box must be finite with width and height >= 0, got "
            f"{array[~good][0].tolist()}. Boxes are x, y, width, height, not two corners"
        )
    return array


def check_scores(scores: ArrayLike, count: int) -> Scores:
    """One finite score per box, float32 (count,)."""
    values = _numbers("scores", scores)
    if values.shape != (count,):
        raise ShapeError(f"{count} boxes need scores of shape ({count},), got {values.shape}")
    if not np.isfinite(values).all():
        raise ArgumentError(f"scores must be finite, got {values[~np.isfinite(values)][0]}")
    return values


def _numbers(what: str, values: ArrayLike) -> NDArray[np.float32]:
    """Real numbers as float32; larger ones become infinite."""
    array = as_array(what, values)
    if array.dtype.kind not in "fiub" and array.size:
        raise DtypeError(f"{what} must be an array of real numbers, got {values!r:.80}")
    with np.errstate(over="ignore"):
        return array.astype(np.float32)


@np.errstate(under="ignore")
def iou(a: ArrayLike, b: ArrayLike) -> NDArray[np.float32]:
    """Intersection over union, |A ∩ B| / |A ∪ B|, of all pairs of boxes.

    Args:
        a: Boxes (n, 4).
        b: Boxes (m, 4).

    Returns:
        float32 (n, m), from 0 (disjoint) to 1 (identical); 0 for two boxes without area.
    """
    first, second = as_boxes(a).astype(np.float64), as_boxes(b).astype(np.float64)
    overlap = np.zeros((len(first), len(second)), np.float32)
    rows = max(1, TABLE // max(1, len(second)))
    for start in range(0, len(first), rows):  # a part of the table at a time, to save memory
        overlap[start : start + rows] = _iou(first[start : start + rows], second)
    return overlap


def clip_boxes(boxes: ArrayLike, height: int, width: int) -> Boxes:
    """Clip ``boxes`` (n, 4) to an image of ``height`` x ``width`` pixels."""
    array = as_boxes(boxes)
    sides = number("width", width, 0, ends="[)"), number("height", height, 0, ends="[)")
    limit = np.array(sides, dtype=np.float32)
    corner = np.clip(array[:, :2], 0, limit)
    opposite = np.clip(array[:, :2] + array[:, 2:], 0, limit)
    return np.concatenate([corner, opposite - corner], axis=1)


@np.errstate(under="ignore")
def non_maximum_suppression(boxes: ArrayLike, scores: ArrayLike, threshold: float) -> Indices:
    """Indices of the boxes kept by greedy non-maximum suppression (NMS), highest score first.

    A box is dropped if its IoU with a kept box of higher score exceeds ``threshold``. Ties are
    resolved in input order.
    """
    array, values = _scored(boxes, scores)
    kept = [best for best, _ in _clusters(array, values, _overlapping(threshold))]
    return np.array(kept, dtype=np.int64)


@np.errstate(under="ignore")
def merge_overlapping(
    boxes: ArrayLike, scores: ArrayLike, threshold: float, least: int = 1
) -> tuple[Boxes, Scores]:
    """Replace each cluster of overlapping boxes by its mean box, weighted by score.

    A cluster is a box that :func:`non_maximum_suppression` keeps, with the boxes it suppresses.

    Args:
        boxes: Boxes (n, 4).
        scores: Scores (n,).
        threshold: IoU above which a box belongs to the cluster of a better one.
        least: Minimum number of boxes in a cluster; smaller clusters are dropped.

    Returns:
        One box and the maximum score per cluster, highest score first.
    """
    array, values = _scored(boxes, scores)
    least = integer("least", least, 1)
    clusters = [c for c in _clusters(array, values, _overlapping(threshold)) if len(c[1]) >= least]
    if not clusters:
        return array[:0], values[:0]
    merged = [_weighted_mean(array[members], values[members]) for _, members in clusters]
    return np.stack(merged), values[[best for best, _ in clusters]]


@np.errstate(under="ignore")
def drop_nested(boxes: ArrayLike, scores: ArrayLike, fraction: float) -> Indices:
    """Indices of the boxes that are not nested with a box of higher score, highest score first.

    Two boxes are nested if their intersection exceeds ``fraction`` of the smaller area. This
    removes detections inside a face, such as a mouth, whose IoU with the face is too small for
    NMS.
    """
    fraction = number("fraction", fraction, 0, 1, "[]")

    def nested(best: Exact, others: Exact) -> NDArray[np.bool_]:
        smaller = np.minimum(_area(best)[:, None], _area(others)[None, :])
        return _intersection(best, others) > fraction * smaller

    kept = [best for best, _ in _clusters(*_scored(boxes, scores), nested)]
    return np.array(kept, dtype=np.int64)


def _clusters(
    boxes: Boxes, scores: Scores, belongs: Callable[[Exact, Exact], NDArray[np.bool_]]
) -> Iterator[tuple[int, Indices]]:
    """The index of each box that is kept, best first, and of itself and the boxes it replaces.

    The best box is compared with all that are left: memory grows with n, not with its square.
    """
    left = np.argsort(-scores, kind="stable")
    exact = boxes[left].astype(np.float64)
    while left.size:
        over = belongs(exact[:1], exact)[0]
        over[0] = True  # the IoU of a box without area is 0, even with itself
        yield int(left[0]), left[over]
        left, exact = left[~over], exact[~over]


def _overlapping(threshold: float) -> Callable[[Exact, Exact], NDArray[np.bool_]]:
    limit = number("threshold", threshold, 0, 1, "[]")
    return lambda best, others: _iou(best, others).astype(np.float32) > limit


def _scored(boxes: ArrayLike, scores: ArrayLike) -> tuple[Boxes, Scores]:
    array = as_boxes(boxes)
    return array, check_scores(scores, len(array))


def _weighted_mean(boxes: Boxes, weights: Scores) -> Boxes:
    total = weights.sum(dtype=np.float64)
    if total <= 0:
        return np.asarray(boxes[0])
    return np.asarray(weights.astype(np.float64) @ boxes / total, dtype=np.float32)


def _iou(a: Exact, b: Exact) -> Exact:
    shared = _intersection(a, b)
    union = _area(a)[:, None] + _area(b)[None, :] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def _intersection(a: Exact, b: Exact) -> Exact:
    ends_a, ends_b = a[:, :2] + a[:, 2:], b[:, :2] + b[:, 2:]
    width, height = (
        np.minimum(ends_a[:, axis, None], ends_b[:, axis])
        - np.maximum(a[:, axis, None], b[:, axis])
        for axis in (0, 1)
    )
    return np.asarray(width.clip(0) * height.clip(0))


def _area(boxes: Exact) -> Exact:
    return np.asarray(boxes[:, 2] * boxes[:, 3])
