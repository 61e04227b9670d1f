"""Data augmentation: random variants of a batch of images.

An augmentation is a callable ``augment(images, rng)`` that maps float32 images (N, H, W, C) with
values in [0, 1] to augmented images of the same dtype. It processes the whole batch at once, draws
all random numbers from ``rng`` and does not modify its input. The parameters of a transform are
sampled independently for each image and shared by the channels of that image.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tinynn.arguments import integer, is_sequence, number
from tinynn.errors import ArgumentError, DtypeError, ShapeError
from tinynn.functional.geometry import pair

__all__ = [
    *("Compose", "RandomAffine", "RandomBlur", "RandomBrightness", "RandomContrast", "RandomCrop"),
    *("RandomFlip", "RandomGamma", "RandomLightGradient", "RandomNoise"),
]

Images = NDArray[np.float32]
Augmentation = Callable[[Images, np.random.Generator], Images]
Range = tuple[float, float]
_MOST = 1e6  # of a scale, contrast or gamma; infinity times 0 would be NaN


class Compose:
    """Apply several augmentations in sequence.

    Args:
        *steps: Callables ``step(images, rng)``, applied from left to right.

    Example:
        >>> augment = Compose(RandomFlip(), RandomAffine(rotation=8), RandomBrightness(0.2))
        >>> loader = DataLoader(dataset, batch_size=32, augment=augment)
    """

    def __init__(self, *steps: Augmentation) -> None:
        for step in steps:
            if not callable(step):
                raise ArgumentError(f"Compose expects functions (images, rng), got {step!r:.80}")
        self.steps = steps

    def __call__(self, images: Images, rng: np.random.Generator) -> Images:
        for step in self.steps:
            images = step(images, rng)
        return images


class _Transform:
    """Base class: checks the images, then calls ``apply``, which a subclass defines."""

    def __call__(self, images: Images, rng: np.random.Generator) -> Images:
        if not isinstance(images, np.ndarray) or not hasattr(rng, "uniform"):
            raise ArgumentError(
                "augmentation expects an array of images and a numpy.random.Generator, got "
                f"{type(images).__name__} and {type(rng).__name__}"
            )
        if images.ndim != 4 or 0 in images.shape[1:]:
            raise ShapeError(f"augmentation expects images (N, H, W, C), got shape {images.shape}")
        if images.dtype != np.float32:
            raise DtypeError(
                f"augmentation expects float32 images in [0, 1], got {images.dtype}. "
                "Convert uint8 images with images.astype(np.float32) / 255"
            )
        with np.errstate(under="ignore"):
            return self.apply(images, rng)

    def apply(self, images: Images, rng: np.random.Generator) -> Images:
        """Transform a batch of images."""
        raise NotImplementedError


class RandomFlip(_Transform):
    """Flip each image horizontally with the given ``probability``."""

    def __init__(self, probability: float = 0.5) -> None:
        self.probability = number("probability", probability, 0, 1, "[]")

    def apply(self, images: Images, rng: np.random.Generator) -> Images:
        flipped = rng.random(len(images)) < self.probability
        return np.where(flipped[:, None, None, None], images[:, :, ::-1], images)


class RandomAffine(_Transform):
    """Rotate and scale each image about its center, then translate it.

    Sampling is bilinear; coordinates outside the image are clamped to its border.

    Args:
        shift: Maximum translation in either direction, as a fraction of height and width.
        scale: Range (low, high) of the scale factor, sampled log-uniformly; above 1 the content
            is enlarged.
        rotation: Maximum angle in degrees, in either direction.
        size: (height, width) of the output, cropped at the center; None keeps the input size.
    """

    def __init__(
        self,
        shift: float = 0.0,
        scale: Range = (1.0, 1.0),
        rotation: float = 0.0,
        size: tuple[int, int] | None = None,
    ) -> None:
        self.shift = number("shift", shift, 0, 1, "[]")
        self.scale = _positive_range("scale", scale)
        self.rotation = number("rotation", rotation, 0, 180, "[]")
        self.size = None if size is None else pair("RandomAffine", "size", size, 1)

    def apply(self, images: Images, rng: np.random.Generator) -> Images:
        n, height, width, _ = images.shape
        rows, columns = self.size or (height, width)
        angle = np.radians(rng.uniform(-self.rotation, self.rotation, n))
        factor = _log_uniform(rng, self.scale, n)
        move = rng.uniform(-self.shift, self.shift, (2, n)) * [[height], [width]]
        # Map output pixels to input coordinates: the inverse of "rotate, scale, translate".
        y = np.arange(rows) - (rows - 1) / 2 - move[0][:, None]
        x = np.arange(columns) - (columns - 1) / 2 - move[1][:, None]
        cosine, sine = (np.cos(angle) / factor)[:, None], (np.sin(angle) / factor)[:, None]
        source_y = (cosine * y + (height - 1) / 2)[:, :, None] - (sine * x)[:, None, :]
        source_x = (sine * y)[:, :, None] + (cosine * x + (width - 1) / 2)[:, None, :]
        return _sample(images, source_y.astype(np.float32), source_x.astype(np.float32))


class RandomCrop(_Transform):
    """Crop ``height`` x ``width`` pixels at a random position of each image.

    Raises:
        ShapeError: When called with images smaller than the crop.
    """

    def __init__(self, height: int, width: int) -> None:
        self.height, self.width = integer("height", height, 1), integer("width", width, 1)

    def apply(self, images: Images, rng: np.random.Generator) -> Images:
        n, height, width, _ = images.shape
        if self.height > height or self.width > width:
            raise ShapeError(
                f"RandomCrop({self.height}, {self.width}) needs images of at least that size, "
                f"got {height} x {width}"
            )
        top = rng.integers(0, height - self.height + 1, n)[:, None] + np.arange(self.height)
        left = rng.integers(0, width - self.width + 1, n)[:, None] + np.arange(self.width)
        return np.asarray(images[np.arange(n)[:, None, None], top[:, :, None], left[:, None, :]])


class RandomBrightness(_Transform):
    """image + b with b uniform in [-amount, amount], clipped to [0, 1]."""

    def __init__(self, amount: float) -> None:
        self.amount = number("amount", amount, 0, 1, "[]")

    def apply(self, images: Images, rng: np.random.Generator) -> Images:
        return _clip(images + _per_image(rng.uniform(-self.amount, self.amount, len(images))))


class RandomContrast(_Transform):
    """mean + c · (image - mean) with c log-uniform in [low, high], clipped to [0, 1].

    The mean is taken over all pixels and channels of the image.
    """

    def __init__(self, low: float, high: float) -> None:
        self.range = _positive_range("contrast", (low, high))

    def apply(self, images: Images, rng: np.random.Generator) -> Images:
        mean = images.mean(axis=(1, 2, 3), keepdims=True)
        factor = _per_image(_log_uniform(rng, self.range, len(images)))
        return _clip(mean + factor * (images - mean))


class RandomLightGradient(_Transform):
    """image + g · p with g uniform in [0, amount], clipped to [0, 1]: illumination from one side.

    p is a linear ramp from -1 to 1 across the image, in a random direction.
    """

    def __init__(self, amount: float) -> None:
        self.amount = number("amount", amount, 0, 1, "[]")

    def apply(self, images: Images, rng: np.random.Generator) -> Images:
        n, (height, width) = len(images), images.shape[1:3]
        direction = _per_image(rng.uniform(0, 2 * math.pi, n))
        y = np.linspace(-1, 1, height, dtype=np.float32)[:, None, None]
        x = np.linspace(-1, 1, width, dtype=np.float32)[:, None]
        ramp = np.cos(direction) * x + np.sin(direction) * y
        amount = _per_image(rng.uniform(0, self.amount, n))
        return _clip(images + amount * ramp.astype(np.float32))


class RandomGamma(_Transform):
    """image ** g with g log-uniform in [low, high]: gamma correction of the midtones."""

    def __init__(self, low: float, high: float) -> None:
        self.range = _positive_range("gamma", (low, high))

    def apply(self, images: Images, rng: np.random.Generator) -> Images:
        gamma = _per_image(_log_uniform(rng, self.range, len(images)))
        return np.asarray(images**gamma)


class RandomBlur(_Transform):
    """Gaussian blur with sigma uniform in [0, max_sigma] pixels; ``max_sigma`` is at most 100.

    The Gaussian is approximated by repeated convolution with [w, 1 - 2w, w] along both axes. Each
    pass adds a variance of 2w. The number of passes, ceil(2 · max_sigma**2), keeps w at most 1/4.
    """

    def __init__(self, max_sigma: float) -> None:
        self.max_sigma = number("max_sigma", max_sigma, 0, 100, "[]")
        self.passes = math.ceil(2 * self.max_sigma**2)

    def apply(self, images: Images, rng: np.random.Generator) -> Images:
        sigma = rng.uniform(0, self.max_sigma, len(images))
        weight = _per_image(sigma**2 / (2 * max(self.passes, 1)))
        for _ in range(self.passes):
            images = _smooth(_smooth(images, weight, axis=1), weight, axis=2)
        return images


class RandomNoise(_Transform):
    """image + s · n with n ~ N(0, 1) per value, s uniform in [0, max_sigma]; clipped to [0, 1]."""

    def __init__(self, max_sigma: float) -> None:
        self.max_sigma = number("max_sigma", max_sigma, 0, 1, "[]")

    def apply(self, images: Images, rng: np.random.Generator) -> Images:
        sigma = _per_image(rng.uniform(0, self.max_sigma, len(images)))
        return _clip(images + sigma * rng.standard_normal(images.shape, dtype=np.float32))


def _sample(images: Images, y: Images, x: Images) -> Images:
    """Bilinear interpolation at (y, x), each (N, rows, columns), clamped to the border."""
    n, height, width, channels = images.shape
    y, x = y.clip(0, height - 1), x.clip(0, width - 1)
    top, left = y.astype(np.int64), x.astype(np.int64)
    below, right = np.minimum(top + 1, height - 1), np.minimum(left + 1, width - 1)
    v, u = (y % 1)[..., None], (x % 1)[..., None]
    pixels = images.reshape(-1, channels)
    first = (np.arange(n) * height)[:, None, None]

    def row(index: NDArray[np.int64]) -> Images:
        start = (first + index) * width
        near: Images = pixels.take(start + left, axis=0)
        far: Images = pixels.take(start + right, axis=0)
        return near + u * (far - near)

    upper = row(top)
    return upper + v * (row(below) - upper)


def _smooth(images: Images, weight: Images, axis: int) -> Images:
    """Convolve with [w, 1 - 2w, w] along ``axis``, border pixels replicated."""
    index = np.arange(images.shape[axis])
    before = images.take(index - 1, axis=axis, mode="clip")
    after = images.take(index + 1, axis=axis, mode="clip")
    return images + weight * (before + after - 2 * images)


def _positive_range(name: str, bounds: Range) -> Range:
    if not is_sequence(bounds) or len(bounds) != 2:
        raise ArgumentError(f"{name} must be a range (low, high), got {bounds!r:.80}")
    low = number(f"{name}: low", bounds[0], 0)
    return low, number(f"{name}: high", bounds[1], low, _MOST, "[]")


def _log_uniform(rng: np.random.Generator, bounds: Range, count: int) -> NDArray[np.float64]:
    """Sample so that the logarithm is uniform: a factor and its inverse are equally likely."""
    return np.exp(rng.uniform(math.log(bounds[0]), math.log(bounds[1]), count))


def _per_image(values: NDArray[np.float64]) -> Images:
    """One value per image, (N,), broadcastable to (N, H, W, C)."""
    return values.astype(np.float32)[:, None, None, None]


def _clip(images: Images) -> Images:
    return images.clip(0, 1)
