"""A detector: one small network that looks at every place and every size of a photo."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from tinynn.autograd import no_grad
from tinynn.creation import from_numpy
from tinynn.errors import ArgumentError, ShapeError
from tinynn.nn import Module
from tinynn.vision.boxes import Boxes, Scores, clip_boxes, drop_nested, merge_overlapping
from tinynn.vision.photo import Photo, to_gray
from tinynn.vision.pyramid import image_pyramid

STRIP_PIXELS = 1 << 20
"""The network sees a level of the pyramid in strips of about so many pixels: memory is bounded."""


MERGE_IOU = 0.3
NESTED = 0.6
"""Boxes with more IoU are one object; so are boxes that share more of the smaller one's area."""


class Detections(NamedTuple):
    """What was found: ``boxes`` float32 (n, 4) of x, y, width, height, ``scores`` float32 (n,)."""

    boxes: Boxes
    scores: Scores


class Windows(NamedTuple):
    """Single windows: where, how sure, and what the network saw, uint8 (n, window, window, 1)."""

    boxes: Boxes
    scores: Scores
    patches: Photo


class Detector:
    """Finds objects with a fully convolutional two-class network.

    ``network`` maps gray images float32 (N, H, W, 1) in 0..1 to logits (N, h, w, 1). It has no
    padding, sees ``window`` x ``window`` pixels and moves on by ``stride``, so that on an image of
    just one window it is an ordinary classifier (h = w = 1), which is how it is trained.

    A photo is looked at in sizes that differ by ``step``, from that in which the window covers
    ``min_size`` pixels of the photo, or ``min_share`` of its longer side if that is more, up to
    the whole photo. With a share above 0 a photo of any size takes about the same work.

    Windows of a score, the sigmoid of the logit, above ``threshold`` are candidates; an object
    shows in several of them, next to each other and at sizes next to each other, and what shows in
    fewer than ``min_windows`` is none. Raises :class:`ArgumentError` if a number makes no sense.
    """

    def __init__(
        self,
        network: Module,
        window: int = 24,
        stride: int = 4,
        step: float = 1.2,
        threshold: float = 0.5,
        min_size: float = 24,
        min_share: float = 0.0,
        min_windows: int = 1,
    ) -> None:
        _check_whole(window=window, stride=stride, min_windows=min_windows)
        if not 1 < step < math.inf:
            raise ArgumentError(f"step is the factor between two sizes, above 1, got {step}")
        if not 0 < threshold < 1:
            raise ArgumentError(f"threshold is a score between 0 and 1, got {threshold}")
        if not 0 < min_size < math.inf:
            raise ArgumentError(f"min_size is pixels of the photo, above 0, got {min_size}")
        if not 0 <= min_share <= 1:
            raise ArgumentError(f"min_share is a share of the longer side, 0 to 1, got {min_share}")
        self.network = network
        self.window = window
        self.stride = stride
        self.step = step
        self.threshold = threshold
        self.min_size = min_size
        self.min_share = min_share
        self.min_windows = min_windows

    def detect(self, photo: npt.NDArray[np.uint8]) -> Detections:
        """The objects in ``photo``, uint8 (H, W), (H, W, 1) or (H, W, 3), best first.

        Overlapping candidates become one box, see :func:`merge_overlapping`; of boxes within each
        other the better one stays.
        """
        height, width = photo.shape[:2]
        found = self.windows(photo)
        boxes, scores = merge_overlapping(*found[:2], MERGE_IOU, self.min_windows)
        kept = drop_nested(boxes, scores, NESTED)
        return Detections(clip_boxes(boxes[kept], height, width), scores[kept])

    def windows(self, photo: npt.NDArray[np.uint8], threshold: float | None = None) -> Windows:
        """Every window of ``photo`` that scores above ``threshold`` (None: the detector's own).

        Where the photo shows no object these are the false alarms to learn from.
        """
        limit = self.threshold if threshold is None else threshold
        gray = to_gray(photo)
        smallest = max(self.min_size, self.min_share * max(gray.shape))
        found = [_no_windows(self.window)]
        with self.network.in_mode(training=False), no_grad():
            for level in image_pyramid(gray, self.step, self.window, smallest):
                scale = np.array([level.scale_x, level.scale_y], dtype=np.float32)
                for top, logits in self._strips(level.photo):
                    found.append(self._above(limit, level.photo, top, logits, scale))
        return Windows(*(np.concatenate(parts) for parts in zip(*found, strict=True)))

    def _strips(self, level: Photo) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
        """The logits of ``level``, (rows, columns), strip by strip, with each strip's first row.

        Strips share as many rows as a window needs, so their logits are those of the whole level.
        """
        device = next((weights.device for weights in self.network.parameters()), "cpu")
        height, width = level.shape[:2]
        positions = (height - self.window) // self.stride + 1
        per_strip = max(1, (STRIP_PIXELS // width - self.window) // self.stride + 1)
        for first in range(0, positions, per_strip):
            rows = min(per_strip, positions - first)
            top, size = first * self.stride, (rows - 1) * self.stride + self.window
            strip = level[top : top + size].astype(np.float32) / np.float32(255)
            logits = self.network(from_numpy(strip[np.newaxis]).to(device)).numpy()
            self._check(logits.shape, rows, width)
            yield top, logits[0, :, :, 0]

    def _above(
        self,
        threshold: float,
        level: Photo,
        top: int,
        logits: npt.NDArray[np.float32],
        scale: npt.NDArray[np.float32],
    ) -> Windows:
        """The windows of a strip that score above ``threshold``."""
        rows, columns = np.nonzero(logits > math.log(threshold / (1 - threshold)))
        y, x = rows * self.stride + top, columns * self.stride
        sides = np.full((len(x), 2), self.window)
        boxes = np.column_stack([np.column_stack([x, y]) / scale, sides / scale])
        places = sliding_window_view(level[:, :, 0], (self.window, self.window))
        scores = 1 / (1 + np.exp(-logits[rows, columns].astype(np.float64)))
        return Windows(
            boxes.astype(np.float32), scores.astype(np.float32), places[y, x][..., np.newaxis]
        )

    def _check(self, shape: tuple[int, ...], rows: int, width: int) -> None:
        columns = (width - self.window) // self.stride + 1
        if shape != (1, rows, columns, 1):
            raise ShapeError(
                f"with window {self.window} and stride {self.stride} the network should give "
                f"logits of shape {(1, rows, columns, 1)}, got {shape}: its layers need padding 0 "
                "and strides whose product is the detector's"
            )


def _check_whole(**numbers: int) -> None:
    for name, number in numbers.items():
        if not isinstance(number, (int, np.integer)) or number < 1:
            raise ArgumentError(f"{name} is a whole number >= 1, got {number!r}")


def _no_windows(window: int) -> Windows:
    return Windows(
        np.zeros((0, 4), dtype=np.float32),
        np.zeros(0, dtype=np.float32),
        np.zeros((0, window, window, 1), dtype=np.uint8),
    )
