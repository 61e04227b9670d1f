"""Saliency maps of a classifier: Grad-CAM, HiResCAM and occlusion, and its first-layer filters.

A map shows which pixels a decision depends on, for this network and this image. It does not show
that the decision is correct, nor why those pixels matter.
"""

from itertools import product
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

import tinynn.functional as F
from tinynn.arguments import as_array, integer, number
from tinynn.autograd import Tensor, enable_grad, grad, no_grad
from tinynn.creation import tensor
from tinynn.data.dataset import to_float32
from tinynn.errors import ArgumentError, LabelError, ShapeError
from tinynn.nn import Conv2d, Module, constant_weights
from tinynn.nn.module import observe
from tinynn.vision.photo import as_photo

__all__ = ["first_filters", "grad_cam", "hires_cam", "occlusion_map", "overlay"]

Images = NDArray[Any]
Maps = NDArray[np.float32]
Classes = NDArray[np.int64]

_BATCH = 64
_COLORMAP = np.array(  # of increasing lightness, so that it stays readable in grayscale
    [[20, 14, 54], [101, 21, 110], [187, 55, 84], [249, 142, 9], [252, 255, 164]], np.float32
)


def grad_cam(
    model: Module, images: Images, classes: ArrayLike | None = None, layer: str | None = None
) -> Maps:
    """ReLU(Σ_c mean_yx(∂s/∂A) · A), upsampled bilinearly and divided by its maximum.

    A is the output of ``layer`` and s the logit of the class minus the mean of all logits, because
    adding a constant to all logits does not change the decision.

    Grad-CAM assumes a network that ends in global average pooling. For a network with ``Flatten``,
    which has separate weights for each position, :func:`hires_cam` is the faithful method.

    Args:
        model: A classifier with logits (N, classes). It runs in evaluation mode and is unchanged
            afterwards.
        images: (N, H, W, C), uint8 in [0, 255] or float32 in [0, 1].
        classes: Class to explain for each image, (N,); None selects the predicted classes.
        layer: Path of a layer in the model; None selects the last one whose output is an image
            (N, h, w, C) of more than one pixel.

    Returns:
        float32 (N, H, W) in [0, 1]; all 0 for an image without positive evidence.

    Raises:
        ArgumentError: If there is no such layer.

    Selvaraju et al., "Grad-CAM: Visual explanations from deep networks via gradient-based
    localization" (2017).
    """
    return _cams(model, images, classes, layer, mean=True)


def hires_cam(
    model: Module, images: Images, classes: ArrayLike | None = None, layer: str | None = None
) -> Maps:
    """ReLU(Σ_c ∂s/∂A · A), upsampled bilinearly and divided by its maximum.

    Like :func:`grad_cam`, with the same arguments, but the gradient is not averaged over positions.
    If only ``Flatten`` and ``Linear`` follow the layer, the sum of the map before the ReLU is the
    score s itself, up to the bias.

    Draelos and Carin, "Use HiResCAM instead of Grad-CAM for faithful explanations of convolutional
    neural networks" (2020).
    """
    return _cams(model, images, classes, layer, mean=False)


def occlusion_map(
    model: Module,
    images: Images,
    classes: ArrayLike | None = None,
    patch: int | None = None,
    stride: int | None = None,
    fill: float = 0.5,
) -> Maps:
    """The decrease of the class probability (softmax) while a pixel is occluded.

    A square is moved over the image; each pixel gets the mean decrease over all squares that cover
    it.

    Args:
        model: As in :func:`grad_cam`.
        images: As in :func:`grad_cam`.
        classes: As in :func:`grad_cam`.
        patch: Side of the square in pixels; None is a quarter of the shorter side of the image.
        stride: Step between two positions; None is half of ``patch``.
        fill: Value of the occluded pixels.

    Returns:
        float32 (N, H, W) in [-1, 1].

    Zeiler and Fergus, "Visualizing and understanding convolutional networks" (2014).
    """
    floats, wanted = _check(model, images, classes)
    count, height, width = floats.shape[:3]
    side = max(1, min(height, width) // 4) if patch is None else integer("patch", patch)
    step = max(1, side // 2) if stride is None else integer("stride", stride)
    fill = number("fill", fill)
    if not 1 <= side <= min(height, width) or not 1 <= step <= side:
        raise ArgumentError(
            f"expected 1 <= stride <= patch <= {min(height, width)} pixels, got stride={step} and "
            f"patch={side}"
        )
    with constant_weights():
        whole = _probabilities(model, floats)
        chosen = whole.argmax(axis=1) if wanted is None else wanted
        rows = np.arange(count)
        total = np.zeros((count, height, width))
        covered = np.zeros((height, width))
        for top, left in product(_positions(height, side, step), _positions(width, side, step)):
            square = np.s_[top : top + side, left : left + side]
            occluded = floats.copy()
            occluded[:, *square] = fill
            decrease = whole[rows, chosen] - _probabilities(model, occluded)[rows, chosen]
            total[:, *square] += decrease[:, None, None]
            covered[square] += 1
    return np.asarray(total / covered, dtype=np.float32)


def first_filters(model: Module) -> Maps:
    """The kernels of the first convolution, float32 (filters, kh, kw, channels) in [0, 1].

    Each kernel is rescaled to its own range; a constant kernel becomes 0.5.
    """
    first = next((m for m in model.modules() if isinstance(m, Conv2d)), None)
    if first is None:
        raise ArgumentError(f"{type(model).__name__} has no Conv2d layer: no filters to show")
    filters = first.weight.numpy().astype(np.float32).transpose(3, 0, 1, 2)
    low = filters.min(axis=(1, 2, 3), keepdims=True)
    span = filters.max(axis=(1, 2, 3), keepdims=True) - low
    shown = np.where(span > 0, (filters - low) / np.where(span > 0, span, 1), 0.5)
    return np.asarray(shown, np.float32)


def overlay(image: NDArray[np.uint8], heat: Maps, strength: float = 0.6) -> Images:
    """Blend a heat map over an image.

    Args:
        image: uint8 (H, W, 1) or (H, W, 3).
        heat: (H, W) in [0, 1].
        strength: Opacity of the color at heat 1; at heat h it is strength · √h.

    Returns:
        uint8 (H, W, 3).
    """
    strength = number("strength", strength, 0, 1, "[]")
    image, heat = as_photo(image), as_array("heat", heat)
    if heat.shape != image.shape[:2] or heat.dtype.kind != "f":
        raise ShapeError(
            f"overlay expects an image (H, W, 1) or (H, W, 3) and a map (H, W), got {image.shape} "
            f"and {heat.shape} of {heat.dtype}"
        )
    level = heat.clip(0, 1)
    stops = np.linspace(0, 1, len(_COLORMAP))
    color = np.stack([np.interp(level, stops, channel) for channel in _COLORMAP.T], axis=-1)
    opacity = strength * np.sqrt(level[..., None])
    mixed = (1 - opacity) * image.astype(np.float32) + opacity * color
    return np.asarray(np.rint(mixed).astype(np.uint8))


# -- implementation --------------------------------------------------------------------------------


def _cams(
    model: Module, images: Images, classes: ArrayLike | None, path: str | None, mean: bool
) -> Maps:
    floats, wanted = _check(model, images, classes)
    layer = _image_layer(model, path, floats[:1])
    maps = [
        _cam(model, layer, floats[part], None if wanted is None else wanted[part], mean)
        for part in _parts(len(floats))
    ]
    return np.concatenate(maps)


def _cam(model: Module, layer: Module, images: Maps, chosen: Classes | None, mean: bool) -> Maps:
    outputs: list[Tensor] = []
    x = _to_input(model, images).requires_grad_()

    def keep(module: Module, inputs: Any, output: Any) -> None:
        outputs.append(output)

    with enable_grad(), model.in_mode(training=False), observe([(layer, keep)]):
        logits = _checked_logits(model(x))
        wanted = logits.numpy().argmax(axis=1) if chosen is None else chosen
        shares = np.full(logits.shape, -1 / logits.shape[1], logits.dtype)
        shares[np.arange(len(wanted)), wanted] += 1
        score = (logits * tensor(shares, device=logits.device)).sum()
        (slope,) = grad(score, [outputs[-1]])
    with no_grad():
        weights = slope.mean((1, 2), keepdims=True) if mean else slope
        cam = F.relu((weights * outputs[-1]).sum(axis=3, keepdims=True)).astype("float32")
        large = F.resize_bilinear(cam, images.shape[1:3]).numpy()[..., 0]
    top = large.max(axis=(1, 2), keepdims=True)
    return np.asarray(np.divide(large, top, out=np.zeros_like(large), where=top > 0))


def _probabilities(model: Module, images: Maps) -> NDArray[np.float64]:
    """Softmax of the logits, (N, classes)."""
    with model.in_mode(training=False), no_grad():
        batches = [
            F.softmax(_checked_logits(model(_to_input(model, images[part]))), axis=1).numpy()
            for part in _parts(len(images))
        ]
    return np.concatenate(batches).astype(np.float64)


def _to_input(model: Module, images: Maps) -> Tensor:
    """``images`` in the dtype and on the device of the parameters."""
    first = next(model.parameters(), None)
    dtype, device = (images.dtype, "cpu") if first is None else (first.dtype, first.device)
    return tensor(images, dtype=dtype, device=device)


def _checked_logits(logits: Tensor) -> Tensor:
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise ShapeError(f"expected a classifier with logits (N, classes), got {logits.shape}")
    return logits


def _image_layer(model: Module, path: str | None, example: Maps) -> Module:
    """The module at ``path``, or the last leaf module, whose output is an image."""
    modules = dict(model.named_modules())
    if path is not None and not (isinstance(path, str) and path in modules):
        raise ArgumentError(f"layer must be a path in the model: {list(modules)}, got {path!r}")
    found: list[Module] = []

    def note_image(module: Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[1:3] != (1, 1):
            found.append(module)

    leaves = [m for m in modules.values() if next(m.named_children(), None) is None]
    with observe((module, note_image) for module in (leaves if path is None else [modules[path]])):
        _probabilities(model, example)
    if not found:
        what = f"no layer of {type(model).__name__}" if path is None else f"not layer {path!r}"
        raise ArgumentError(f"a map needs a layer with an image (N, h, w, C) as output: {what} has")
    return found[-1]


def _check(model: Module, images: Images, classes: ArrayLike | None) -> tuple[Maps, Classes | None]:
    """Images as float32 in [0, 1], classes as int64."""
    values = as_array("images", images)
    if values.ndim != 4 or not values.size:
        raise ShapeError(f"expected images (N, H, W, C) with N >= 1, got {values.shape}")
    floats = to_float32(values)
    if classes is None:
        return floats, None
    wanted = as_array("classes", classes)
    if wanted.shape != (len(values),) or wanted.dtype.kind not in "iu":
        raise ShapeError(
            f"expected one integer class per image, ({len(values)},), got {wanted.shape} of dtype "
            f"{wanted.dtype}"
        )
    count = _probabilities(model, floats[:1]).shape[1]
    wrong = wanted[(wanted < 0) | (wanted >= count)]
    if len(wrong):
        raise LabelError(f"classes must be from 0 to {count - 1}, got {int(wrong[0])}")
    return floats, wanted.astype(np.int64)


def _positions(length: int, side: int, step: int) -> list[int]:
    """Start of each square along an axis; the last square ends at the border."""
    positions = list(range(0, length - side + 1, step))
    return positions if positions[-1] == length - side else [*positions, length - side]


def _parts(count: int) -> list[slice]:
    return [slice(start, start + _BATCH) for start in range(0, count, _BATCH)]
