"""Augmentation: random variants of a batch of images, drawn from the generator that is handed in.

Every step is a callable ``step(images, rng)`` from float32 (N, H, W, C) in 0..1 to the same, works
on the whole batch at once and leaves its input alone. Each image draws its own amounts, all its
channels share them.
"""

import math
from collections.abc import Callable
from typing import cast

import numpy as np
import numpy.typing as npt

from tinynn.errors import ArgumentError, DtypeError, ShapeError

Images = npt.NDArray[np.float32]
Step = Callable[[Images, np.random.Generator], Images]
Range = tuple[float, float]


class Compose:
    """One step after the other."""

    def __init__(self, *steps: Step) -> None:
        self.steps = steps

    def __call__(self, images: Images, rng: np.random.Generator) -> Images:
        for step in self.steps:
            images = step(images, rng)
        return images


class RandomFlip:
    """Left and right exchanged, with ``probability`` for each image."""

    def __init__(self, probability: float = 0.5) -> None:
        self.probability = _within("probability", probability, 0, 1)

    def __call__(self, images: Images, rng: np.random.Generator) -> Images:
        _check(images)
        flipped = rng.random(len(images)) < self.probability
        return np.where(flipped[:, None, None, None], images[:, :, ::-1], images)


class RandomAffine:
    """Each image rotated and scaled about its center, then shifted; sampled bilinearly.

    shift     up to this fraction of height and width, either way
    scale     factors (low, high), drawn evenly on a logarithmic scale; above 1 the image grows
    rotation  up to this many degrees, either way
    size      (height, width) of the result, cut from the middle; None keeps that of the images

    What lies beyond the edge repeats the edge.
    """

    def __init__(
        self,
        shift: float = 0.0,
        scale: Range = (1.0, 1.0),
        rotation: float = 0.0,
        size: tuple[int, int] | None = None,
    ) -> None:
        self.shift = _within("shift", shift, 0, 1)
        self.scale = _positive_range("scale", scale)
        self.rotation = _within("rotation", rotation, 0, 180)
        self.size = None if size is None else _pixels(*size)

    def __call__(self, images: Images, rng: np.random.Generator) -> Images:
        _check(images)
        n, height, width, _ = images.shape
        rows, columns = self.size or (height, width)
        angle = np.radians(rng.uniform(-self.rotation, self.rotation, n))
        factor = _log_uniform(rng, self.scale, n)
        move = rng.uniform(-self.shift, self.shift, (2, n)) * [[height], [width]]
        return _sample(images, *_sources(rows, columns, height, width, angle, factor, move))


class RandomCrop:
    """A ``height`` x ``width`` part of each image, anywhere within it."""

    def __init__(self, height: int, width: int) -> None:
        self.height, self.width = _pixels(height, width)

    def __call__(self, images: Images, rng: np.random.Generator) -> Images:
        _check(images)
        n, height, width, _ = images.shape
        if self.height > height or self.width > width:
            raise ShapeError(
                f"RandomCrop({self.height}, {self.width}) needs images of at least that size, "
                f"got {height} x {width}"
            )
        top = rng.integers(0, height - self.height + 1, n)[:, None] + np.arange(self.height)
        left = rng.integers(0, width - self.width + 1, n)[:, None] + np.arange(self.width)
        parts: Images = images[np.arange(n)[:, None, None], top[:, :, None], left[:, None, :]]
        return parts


class RandomBrightness:
    """image + b, b in -amount..amount, clipped to 0..1."""

    def __init__(self, amount: float) -> None:
        self.amount = _within("amount", amount, 0, 1)

    def __call__(self, images: Images, rng: np.random.Generator) -> Images:
        _check(images)
        return _clip(images + _per_image(rng.uniform(-self.amount, self.amount, len(images))))


class RandomContrast:
    """mean + c (image - mean), c in low..high (logarithmic), mean that of the image. Clipped."""

    def __init__(self, low: float, high: float) -> None:
        self.range = _positive_range("contrast", (low, high))

    def __call__(self, images: Images, rng: np.random.Generator) -> Images:
        _check(images)
        mean = images.mean(axis=(1, 2, 3), keepdims=True)
        return _clip(
            mean + _per_image(_log_uniform(rng, self.range, len(images))) * (images - mean)
        )


class RandomLightGradient:
    """image + g p: p a plane from -1 to 1 across the image in a random direction, g in 0..amount.

    Light that comes from one side. Clipped.
    """

    def __init__(self, amount: float) -> None:
        self.amount = _within("amount", amount, 0, 1)

    def __call__(self, images: Images, rng: np.random.Generator) -> Images:
        _check(images)
        n, (height, width) = len(images), images.shape[1:3]
        direction = _per_image(rng.uniform(0, 2 * math.pi, n))
        y = np.linspace(-1, 1, height, dtype=np.float32)[:, None, None]
        x = np.linspace(-1, 1, width, dtype=np.float32)[:, None]
        plane = np.cos(direction) * x + np.sin(direction) * y
        amount = _per_image(rng.uniform(0, self.amount, n))
        return _clip(images + amount * plane.astype(np.float32))


class RandomGamma:
    """image ** g, g in low..high (logarithmic): the middle tones become darker or lighter."""

    def __init__(self, low: float, high: float) -> None:
        self.range = _positive_range("gamma", (low, high))

    def __call__(self, images: Images, rng: np.random.Generator) -> Images:
        _check(images)
        return cast(Images, images ** _per_image(_log_uniform(rng, self.range, len(images))))


class RandomBlur:
    """A Gaussian blur of sigma in 0..max_sigma pixels, as repeated [w, 1 - 2 w, w] each way.

    Each pass adds a variance of 2 w; as many passes are taken as keep w at most 1/4: 2 sigma**2,
    which is why ``max_sigma`` is at most 100.
    """

    def __init__(self, max_sigma: float) -> None:
        self.max_sigma = _within("max_sigma", max_sigma, 0, 100)
        self.passes = math.ceil(2 * max_sigma**2)

    def __call__(self, images: Images, rng: np.random.Generator) -> Images:
        _check(images)
        sigma = rng.uniform(0, self.max_sigma, len(images))
        weight = _per_image(sigma**2 / (2 * max(self.passes, 1)))
        for _ in range(self.passes):
            images = _smooth(_smooth(images, weight, axis=1), weight, axis=2)
        return images


class RandomNoise:
    """image + s n, n normal of variance 1 for each value, s in 0..max_sigma, clipped to 0..1."""

    def __init__(self, max_sigma: float) -> None:
        self.max_sigma = _within("max_sigma", max_sigma, 0, 1)

    def __call__(self, images: Images, rng: np.random.Generator) -> Images:
        _check(images)
        sigma = _per_image(rng.uniform(0, self.max_sigma, len(images)))
        return _clip(images + sigma * rng.standard_normal(images.shape, dtype=np.float32))


def _sources(
    rows: int,
    columns: int,
    height: int,
    width: int,
    angle: npt.NDArray[np.float64],
    factor: npt.NDArray[np.float64],
    move: npt.NDArray[np.float64],
) -> tuple[Images, Images]:
    """Where in its image each output pixel is read: float32 rows and columns, (N, rows, columns).

    The inverse of "rotate, scale, shift" about the centers of both images.
    """
    y = np.arange(rows) - (rows - 1) / 2 - move[0][:, None]
    x = np.arange(columns) - (columns - 1) / 2 - move[1][:, None]
    cosine, sine = (np.cos(angle) / factor)[:, None], (np.sin(angle) / factor)[:, None]
    source_y = (cosine * y + (height - 1) / 2)[:, :, None] - (sine * x)[:, None, :]
    source_x = (sine * y)[:, :, None] + (cosine * x + (width - 1) / 2)[:, None, :]
    return source_y.astype(np.float32), source_x.astype(np.float32)


def _sample(images: Images, y: Images, x: Images) -> Images:
    """Bilinear samples (N, rows, columns, C) of ``images`` at (y, x), the edge repeated."""
    n, height, width, channels = images.shape
    y, x = y.clip(0, height - 1), x.clip(0, width - 1)
    top, left = y.astype(np.int64), x.astype(np.int64)
    below, right = np.minimum(top + 1, height - 1), np.minimum(left + 1, width - 1)
    v, u = (y % 1)[..., None], (x % 1)[..., None]
    pixels = images.reshape(-1, channels)
    first = (np.arange(n) * height)[:, None, None]

    def row(index: npt.NDArray[np.int64]) -> Images:
        start = (first + index) * width
        near: Images = pixels.take(start + left, axis=0)
        far: Images = pixels.take(start + right, axis=0)
        return near + u * (far - near)

    upper = row(top)
    return upper + v * (row(below) - upper)


def _smooth(images: Images, weight: Images, axis: int) -> Images:
    """[w, 1 - 2 w, w] along ``axis``, the edge repeated."""
    edge = [(0, 0)] * 4
    edge[axis] = (1, 1)
    padded = np.pad(images, edge, mode="edge")
    length = images.shape[axis]
    before = padded.take(range(length), axis=axis)
    after = padded.take(range(2, length + 2), axis=axis)
    return images + weight * (before + after - 2 * images)


def _check(images: Images) -> None:
    if images.ndim != 4:
        raise ShapeError(f"augmentation takes images (N, H, W, C), got shape {images.shape}")
    if images.dtype != np.float32:
        raise DtypeError(
            f"augmentation takes float32 images in 0..1, got {images.dtype}. "
            "From uint8: images.astype(np.float32) / 255"
        )


def _within(name: str, value: float, low: float, high: float) -> float:
    if not low <= value <= high:
        raise ArgumentError(f"{name} must be from {low} to {high}, got {value}")
    return value


def _positive_range(name: str, bounds: Range) -> Range:
    low, high = bounds
    if not 0 < low <= high < math.inf:
        raise ArgumentError(f"{name} is a range 0 < low <= high < inf, got {low} to {high}")
    return low, high


def _pixels(height: int, width: int) -> tuple[int, int]:
    if not all(isinstance(side, (int, np.integer)) and side >= 1 for side in (height, width)):
        raise ArgumentError(f"a size is whole numbers of pixels >= 1, got {height!r} x {width!r}")
    return height, width


def _log_uniform(rng: np.random.Generator, bounds: Range, count: int) -> npt.NDArray[np.float64]:
    """Half as much is as likely as twice as much."""
    return np.exp(rng.uniform(math.log(bounds[0]), math.log(bounds[1]), count))


def _per_image(values: npt.NDArray[np.float64]) -> Images:
    return values.astype(np.float32)[:, None, None, None]


def _clip(images: Images) -> Images:
    return images.clip(0, 1)
