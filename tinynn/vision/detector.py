"""Sliding-window object detection with a small fully convolutional network."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from tinynn.arguments import integer, number
from tinynn.autograd import no_grad
from tinynn.creation import from_numpy
from tinynn.errors import ArgumentError, ShapeError
from tinynn.nn import Module, constant_weights
from tinynn.vision.boxes import Boxes, Scores, clip_boxes, drop_nested, merge_overlapping
from tinynn.vision.photo import Photo, as_photo, to_gray
from tinynn.vision.pyramid import Level, image_pyramid

__all__ = ["Detections", "Detector", "Windows"]

Logits = NDArray[np.float32]

STRIP_PIXELS = 1 << 20
"""Approximate pixels per forward pass: a level is processed in strips, which bounds the memory."""

MERGE_IOU = 0.3
"""Candidates whose IoU exceeds this are merged into one box."""

NESTED = 0.6
"""Of two boxes that share more than this fraction of the smaller area, the better one is kept."""


class Detections(NamedTuple):
    """Detected objects: boxes float32 (n, 4) of x, y, width, height, and scores float32 (n,)."""

    boxes: Boxes
    scores: Scores


class Windows(NamedTuple):
    """Single windows: boxes, scores and pixels at the network's input size, uint8 (n, w, w, 1)."""

    boxes: Boxes
    scores: Scores
    patches: Photo


@dataclass(eq=False)
class Detector:
    """Detect objects with a fully convolutional two-class network on an image pyramid.

    Windows whose score, the sigmoid of the logit, exceeds ``threshold`` are candidates.
    Overlapping candidates, from neighboring positions and scales, are merged into one detection.
    The network keeps its mode, and several threads may use one detector at the same time.

    Args:
        network: Maps gray images float32 (N, H, W, 1) in [0, 1] to logits (N, h, w, 1). It has no
            padding, a receptive field of ``window`` x ``window`` pixels and a total stride of
            ``stride``; a single window gives h = w = 1, so it is trained as a classifier.
        window: Receptive field of the network in pixels.
        stride: Product of the strides of its layers.
        step: Ratio of the scales of two levels of the pyramid.
        threshold: Minimum score of a candidate, between 0 and 1.
        min_size: Side of the smallest object in pixels of the photo.
        min_share: Side of the smallest object as a fraction of the photo's longer side, or of
            twice its shorter side if that is less, as in a panorama; the larger of this and
            ``min_size`` applies. Above 0, the cost depends on the photo's shape, not on its size.
        min_windows: Minimum number of merged candidates in a detection.

    Raises:
        ArgumentError: If a number is out of range.
    """

    network: Module
    window: int = 24
    stride: int = 4
    step: float = 1.2
    threshold: float = 0.5
    min_size: float = 24
    min_share: float = 0.0
    min_windows: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.network, Module):
            raise ArgumentError(f"network must be a Module, got {self.network!r:.80}")
        for name in ("window", "stride", "min_windows"):
            setattr(self, name, integer(name, getattr(self, name), 1))
        self.step = number("step", self.step, 1)
        self.threshold = number("threshold", self.threshold, 0, 1)
        self.min_size = number("min_size", self.min_size, 0)
        self.min_share = number("min_share", self.min_share, 0, 1, "[]")

    def detect(self, photo: NDArray[np.uint8]) -> Detections:
        """The objects in ``photo``, uint8 (H, W), (H, W, 1) or (H, W, 3), highest score first."""
        height, width = as_photo(photo).shape[:2]
        found = self.windows(photo)
        boxes, scores = merge_overlapping(*found[:2], MERGE_IOU, self.min_windows)
        kept = drop_nested(boxes, scores, NESTED)
        return Detections(clip_boxes(boxes[kept], height, width), scores[kept])

    @np.errstate(under="ignore")
    def windows(self, photo: NDArray[np.uint8], threshold: float | None = None) -> Windows:
        """All windows of ``photo`` that score above ``threshold`` (None: the detector's threshold).

        In a photo without objects these are the false positives, for hard-negative mining.
        """
        limit = number("threshold", self.threshold if threshold is None else threshold, 0, 1)
        gray = to_gray(photo)
        height, width = gray.shape[:2]
        smallest = max(
            self.min_size, self.min_share * min(max(height, width), 2 * height, 2 * width)
        )
        no_patches = np.zeros((0, self.window, self.window, 1), np.uint8)
        found = [Windows(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), no_patches)]
        # Batch norm is folded into the convolutions once, for all levels and strips.
        with self.network.in_mode(training=False), no_grad(), constant_weights():
            for level in image_pyramid(gray, self.step, self.window, smallest):
                for corner, logits in self._strips(level.photo):
                    found.append(self._above(limit, level, corner, logits))
        return Windows(*(np.concatenate(parts) for parts in zip(*found, strict=True)))

    def _strips(self, level: Photo) -> Iterator[tuple[tuple[int, int], Logits]]:
        """For each strip of ``level``, its first row and column and its logits (rows, columns).

        Strips overlap by window - stride pixels, so the logits equal those of the whole level. Only
        a level that is too wide for a strip of one window's height is divided into columns, too.
        """
        device = next((weights.device for weights in self.network.parameters()), "cpu")
        positions = [self._positions(side) for side in level.shape[:2]]
        across = max(1, min(positions[1], self._positions(STRIP_PIXELS // self.window)))
        width = level.shape[1] if across == positions[1] else self._pixels(across)
        down = max(1, self._positions(STRIP_PIXELS // width))
        for first, left in product(range(0, positions[0], down), range(0, positions[1], across)):
            rows, columns = min(down, positions[0] - first), min(across, positions[1] - left)
            top, left = first * self.stride, left * self.stride
            part = level[top : top + self._pixels(rows), left : left + width]
            strip = part.astype(np.float32) / np.float32(255)
            logits = self.network(from_numpy(strip[np.newaxis]).to(device)).numpy()
            if logits.shape != (1, rows, columns, 1):
                raise ShapeError(
                    f"with window {self.window} and stride {self.stride} the network should give "
                    f"logits of shape {(1, rows, columns, 1)}, got {logits.shape}: its layers need "
                    "padding 0 and strides whose product is that of the detector"
                )
            yield (top, left), logits[0, :, :, 0]

    def _positions(self, side: int) -> int:
        """The number of windows along ``side`` pixels."""
        return (side - self.window) // self.stride + 1

    def _pixels(self, positions: int) -> int:
        return (positions - 1) * self.stride + self.window

    def _above(
        self, threshold: float, level: Level, corner: tuple[int, int], logits: Logits
    ) -> Windows:
        """The windows of a strip, with its ``corner``, that score above ``threshold``."""
        rows, columns = np.nonzero(logits > math.log(threshold / (1 - threshold)))
        y, x = rows * self.stride + corner[0], columns * self.stride + corner[1]
        side = np.full_like(x, self.window)
        scale = np.array([level.scale_x, level.scale_y] * 2, dtype=np.float32)
        boxes = (np.column_stack([x, y, side, side]) / scale).astype(np.float32)
        scores = 1 / (1 + np.exp(-logits[rows, columns].astype(np.float64)))
        patches = sliding_window_view(level.photo[:, :, 0], (self.window, self.window))[y, x]
        return Windows(boxes, scores.astype(np.float32), patches[..., np.newaxis])
