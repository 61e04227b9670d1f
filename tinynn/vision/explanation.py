"""What a classifier looks at: maps over its images, and the filters of its first layer.

A map says which pixels a decision hung on, for this network and this image. It does not say that
the decision is right, nor why those pixels count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

import tinynn.functional as F
from tinynn.autograd import Tensor, grad, no_grad
from tinynn.creation import tensor
from tinynn.errors import ArgumentError, DtypeError, LabelError, ShapeError
from tinynn.nn import Conv2d, Module

Images = npt.NDArray[Any]
Maps = npt.NDArray[np.float32]
Classes = npt.NDArray[np.int64]

_BATCH = 64  # images at a time
_HEAT = np.array(  # from cold to hot, ever lighter, so that it also reads in gray
    [[20, 14, 54], [101, 21, 110], [187, 55, 84], [249, 142, 9], [252, 255, 164]], np.float32
)


def grad_cam(
    model: Module,
    images: Images,
    classes: npt.ArrayLike | None = None,
    layer: str | None = None,
) -> Maps:
    """Where a layer saw what speaks for a class: float32 (N, H, W), from 0 to 1.

    ReLU(sum over channels of (mean over pixels of ∂s/∂activation) · activation), of the output of
    ``layer`` (its path in the model; None: the last layer whose output is an image, (N, h, w, C)
    of more than one pixel), enlarged to the images bilinearly and divided by its maximum; all 0
    where nothing speaks for the class. s is the class's logit less the mean of all logits, because
    adding a number to all of them changes no decision.

    It was made for networks that end in a mean over places. Behind a ``Flatten``, which gives each
    place weights of its own, ``hires_cam`` is the faithful one.

    ``images`` are (N, H, W, C), uint8 in 0..255 or float32 in 0..1, ``classes`` (N,) or None, the
    ones that are predicted. The model is run in evaluation mode and left as it was. Raises
    ArgumentError if there is no such layer. Selvaraju and others, "Grad-CAM" (2017).
    """
    return _cams(model, images, classes, layer, lambda slope: slope.mean((1, 2), keepdims=True))


def hires_cam(
    model: Module,
    images: Images,
    classes: npt.ArrayLike | None = None,
    layer: str | None = None,
) -> Maps:
    """Where a layer saw what speaks for a class, place by place: float32 (N, H, W), from 0 to 1.

    ReLU(sum over channels of ∂s/∂activation · activation), otherwise as ``grad_cam``. If only
    flattening and a linear layer follow, the sum over places before the ReLU is the score s itself,
    up to the bias. Draelos and Carin, "Use HiResCAM instead of Grad-CAM" (2020).
    """
    return _cams(model, images, classes, layer, lambda slope: slope)


def occlusion_map(
    model: Module,
    images: Images,
    classes: npt.ArrayLike | None = None,
    patch: int | None = None,
    stride: int | None = None,
    fill: float = 0.5,
) -> Maps:
    """How much less likely a class is while a place is covered: float32 (N, H, W), from -1 to 1.

    A square of ``patch`` pixels (None: a quarter of the shorter side) of the value ``fill`` covers
    each place of a grid of step ``stride`` (None: half a patch). A pixel has the mean, over all
    squares that cover it, of what the probability (softmax) of the class lost. Otherwise as
    ``grad_cam``. Zeiler and Fergus, "Visualizing and understanding convolutional networks" (2014).
    """
    floats, wanted = _checked(model, images, classes)
    count, height, width = floats.shape[:3]
    side = max(1, min(height, width) // 4) if patch is None else patch
    step = max(1, side // 2) if stride is None else stride
    if not 1 <= side <= min(height, width) or not 1 <= step <= side:
        raise ArgumentError(
            f"expected 1 <= stride <= patch <= {min(height, width)} pixels, got stride={step} and "
            f"patch={side}"
        )
    whole = _probabilities(model, floats)
    chosen = whole.argmax(axis=1) if wanted is None else wanted
    rows = np.arange(count)
    lost = np.zeros((count, height, width))
    covered = np.zeros((height, width))
    for top in _places(height, side, step):
        for left in _places(width, side, step):
            place = np.s_[top : top + side, left : left + side]
            hidden = floats.copy()
            hidden[:, *place] = fill
            drop = whole[rows, chosen] - _probabilities(model, hidden)[rows, chosen]
            lost[:, *place] += drop[:, None, None]
            covered[place] += 1
    return np.asarray(lost / covered, dtype=np.float32)


def first_filters(model: Module) -> Maps:
    """The kernels of the first convolution, float32 (filters, kh, kw, channels) in 0..1.

    Each is stretched to its own range; one that is constant is 0.5.
    """
    first = next((m for m in model.modules() if isinstance(m, Conv2d)), None)
    if first is None:
        raise ArgumentError(f"{type(model).__name__} has no convolution: it has no filters to show")
    filters = first.weight.numpy().astype(np.float32).transpose(3, 0, 1, 2)
    low = filters.min(axis=(1, 2, 3), keepdims=True)
    span = filters.max(axis=(1, 2, 3), keepdims=True) - low
    shown: Maps = np.where(span > 0, (filters - low) / np.where(span > 0, span, 1), 0.5)
    return shown.astype(np.float32)


def overlay(image: npt.NDArray[np.uint8], heat: Maps, strength: float = 0.6) -> Images:
    """A map (H, W) in 0..1 as colors on an image, uint8 (H, W, 1) or (H, W, 3): uint8 (H, W, 3).

    The hotter, the less is left of the image: ``strength`` of the hottest is color.
    """
    if heat.shape != image.shape[:2] or image.ndim != 3 or image.shape[2] not in (1, 3):
        raise ShapeError(
            f"overlay takes an image (H, W, 1) or (H, W, 3) and a map (H, W), got {image.shape} "
            f"and {heat.shape}"
        )
    level = heat.clip(0, 1)[..., None]
    stops = np.linspace(0, 1, len(_HEAT))
    color = np.stack([np.interp(heat.clip(0, 1), stops, _HEAT[:, k]) for k in range(3)], axis=-1)
    share = strength * np.sqrt(level)
    mixed = (1 - share) * image.astype(np.float32) + share * color
    shown: Images = np.rint(mixed).astype(np.uint8)
    return shown


# -- how -------------------------------------------------------------------------------------------


def _cams(
    model: Module,
    images: Images,
    classes: npt.ArrayLike | None,
    path: str | None,
    weigh: Callable[[Tensor], Tensor],
) -> Maps:
    floats, wanted = _checked(model, images, classes)
    layer = _image_layer(model, path, floats[:1])
    maps = [
        _cam(model, layer, floats[part], None if wanted is None else wanted[part], weigh)
        for part in _parts(len(floats))
    ]
    return np.concatenate(maps)


def _cam(
    model: Module,
    layer: Module,
    images: Maps,
    classes: Classes | None,
    weigh: Callable[[Tensor], Tensor],
) -> Maps:
    seen: list[Tensor] = []
    x = tensor(images, dtype=_dtype(model), device=_device(model), requires_grad=True)
    with _as_is(model), _watched(layer, seen):
        logits = _as_rows(model(x))
        wanted = logits.numpy().argmax(axis=1) if classes is None else classes
        _check_classes(wanted, logits.shape[1])
        part = np.full(logits.shape, -1 / logits.shape[1], logits.dtype)
        part[np.arange(len(wanted)), wanted] += 1
        score = (logits * tensor(part, device=logits.device)).sum()
        activation = seen[-1]
        (slope,) = grad(score, [activation])
    with no_grad():
        cam = F.relu((weigh(slope) * activation).sum(axis=3, keepdims=True)).astype("float32")
        large = F.resize_bilinear(cam, images.shape[1:3]).numpy()[..., 0]
    top = large.max(axis=(1, 2), keepdims=True)
    maps: Maps = np.divide(large, top, out=np.zeros_like(large), where=top > 0)
    return maps


def _probabilities(model: Module, images: Maps) -> npt.NDArray[np.float64]:
    """Softmax of the logits, (N, classes)."""
    with _as_is(model), no_grad():
        parts = [
            _as_rows(model(tensor(images[part], dtype=_dtype(model), device=_device(model))))
            for part in _parts(len(images))
        ]
        rows = np.concatenate([F.softmax(part, axis=1).numpy() for part in parts])
    return rows.astype(np.float64)


def _as_rows(logits: Tensor) -> Tensor:
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise ShapeError(
            f"an explanation is of a classifier with logits (N, classes), got {logits.shape}"
        )
    return logits


@contextmanager
def _as_is(model: Module) -> Iterator[None]:
    """In evaluation mode; parameters take no gradients."""
    kept = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        with model.in_mode(training=False):
            for parameter, _ in kept:
                parameter.requires_grad = False
            yield
    finally:
        for parameter, required in kept:
            parameter.requires_grad = required


@contextmanager
def _watched(layer: Module, seen: list[Tensor]) -> Iterator[None]:
    remove = layer.register_forward_hook(lambda module, inputs, output: seen.append(output))
    try:
        yield
    finally:
        remove()


def _image_layer(model: Module, path: str | None, example: Maps) -> Module:
    """The module at a path, or the last one without children, that gives an image."""
    modules = dict(model.named_modules())
    if path is not None and path not in modules:
        raise ArgumentError(f"layer is a path in the model, one of {list(modules)}, got {path!r}")
    gave: list[Module] = []

    def look(module: Module, inputs: tuple[Any, ...], output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[1:3] != (1, 1):
            gave.append(module)

    if path is None:
        asked = [m for m in modules.values() if next(m.named_children(), None) is None]
    else:
        asked = [modules[path]]
    with ExitStack() as stack:
        for module in asked:
            stack.callback(module.register_forward_hook(look))
        _probabilities(model, example)
    if not gave:
        what = f"no layer of {type(model).__name__}" if path is None else f"not the layer {path!r}"
        raise ArgumentError(f"a map is of a layer that gives images (N, h, w, C): {what} does")
    return gave[-1]


def _checked(
    model: Module, images: Images, classes: npt.ArrayLike | None
) -> tuple[Maps, Classes | None]:
    """Images as float32 in 0..1, classes as int64."""
    values = np.asarray(images)
    if values.ndim != 4 or not values.size:
        raise ShapeError(f"expected images (N, H, W, C), at least one, got {values.shape}")
    if values.dtype not in (np.uint8, np.float32):
        raise DtypeError(f"expected images of uint8 or float32, got {values.dtype}")
    floats = values.astype(np.float32) / np.float32(255 if values.dtype == np.uint8 else 1)
    if classes is None:
        return floats, None
    wanted = np.asarray(classes)
    if wanted.shape != (len(values),) or wanted.dtype.kind not in "iu":
        raise ShapeError(
            f"expected one integer class for each of {len(values)} images, got {wanted.shape} of "
            f"{wanted.dtype}"
        )
    outputs = _probabilities(model, floats[:1]).shape[1]
    _check_classes(wanted, outputs)
    return floats, wanted.astype(np.int64)


def _check_classes(classes: Classes, count: int) -> None:
    wrong = classes[(classes < 0) | (classes >= count)]
    if len(wrong):
        raise LabelError(f"classes are from 0 to {count - 1}, got {int(wrong[0])}")


def _places(length: int, side: int, step: int) -> list[int]:
    """Where squares begin, the last one at the edge."""
    places = list(range(0, length - side + 1, step))
    return places if places[-1] == length - side else [*places, length - side]


def _parts(count: int) -> list[slice]:
    return [slice(start, start + _BATCH) for start in range(0, count, _BATCH)]


def _dtype(model: Module) -> Any:
    return next((p.dtype for p in model.parameters()), np.dtype("float32"))


def _device(model: Module) -> str:
    return next((p.device for p in model.parameters()), "cpu")
