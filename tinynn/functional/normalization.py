"""Normalization to mean 0 and variance 1: over the batch, the features, or groups of channels."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tinynn.arguments import flag, integer, number
from tinynn.autograd import Tensor, is_grad_enabled, record_jointly, record_with_output
from tinynn.backend import BatchNorm
from tinynn.changes import note_update
from tinynn.errors import ShapeError
from tinynn.functional import elementwise
from tinynn.functional.operands import array_of, check_same, require_floating
from tinynn.functional.reduction import mean, var
from tinynn.precision import widen

__all__ = ["batch_norm", "group_norm", "layer_norm"]


def _normalize(x: Tensor, axes: tuple[int, ...], eps: float) -> Tensor:
    """y = (x - mean)·r with r = 1 / √(var + eps); its VJP is r·(g - mean(g) - y·mean(g·y))."""
    if not x.size:
        return x
    out, _, variance = x.backend.normalize(x.data, axes, eps)

    def vjp(grad: Tensor, out: Tensor) -> Tensor:
        if is_grad_enabled():
            return (var(x, axes, keepdims=True) + eps) ** -0.5 * _project(grad, out, axes)
        return Tensor(x.backend.normalize_gradient(grad.data, out.data, variance, axes, eps))

    return record_with_output("normalize", out, (x, vjp))


def _project(grad: Tensor, y: Tensor, axes: tuple[int, ...]) -> Tensor:
    """g - mean(g) - y·mean(g·y): changes of mean or variance have no effect on y."""
    centered = grad - mean(grad, axes, keepdims=True)
    return centered - y * mean(grad * y, axes, keepdims=True)


def batch_norm(
    x: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    relu: bool = False,
) -> Tensor:
    """weight · (x - mean) / √(var + eps) + bias, for each channel (the last axis).

    In training, mean and variance are computed from the batch, over all other axes, and the running
    statistics are updated in place: running += momentum · (batch - running), with the unbiased
    variance. Otherwise the running statistics are used. Ioffe and Szegedy (2015).

    Args:
        x: The input.
        running_mean: Running mean of each channel; None: always use the batch.
        running_var: Running variance of each channel.
        weight: Scale of each channel.
        bias: Shift of each channel.
        training: Use the statistics of the batch and update the running ones.
        momentum: Step of the running statistics.
        eps: Added to the variance.
        relu: Apply ReLU to the output, in the same pass over memory.

    Shape:
        x (..., C) -> (..., C); all others (C,).

    Raises:
        ShapeError: In training with a single value per channel, or if the channels differ.
    """
    x = _checked("batch_norm", x, 1, running_mean, running_var, weight, bias)
    training, relu = flag("batch_norm: training", training), flag("batch_norm: relu", relu)
    eps, momentum = check_eps("batch_norm", eps), check_momentum("batch_norm", momentum)
    if training or running_mean is None or running_var is None:
        if x.size // max(1, x.shape[-1]) < 2:
            raise ShapeError(
                f"batch_norm in training needs more than one value per channel, got {x.shape}; "
                "use a larger batch or model.eval()"
            )
        running = None
        if training and running_mean is not None and running_var is not None:
            running = running_mean.data, running_var.data
            note_update(running_mean, running_var)
        norm = BatchNorm(array_of(weight), array_of(bias), running, momentum, eps, relu)
        return _batch_norm(x, weight, bias, norm)
    scale = (running_var + eps) ** -0.5
    if weight is not None:
        scale = scale * weight
    shift = -running_mean * scale
    out = x * scale + (shift if bias is None else shift + bias)
    return elementwise.relu(out) if relu else out


def _batch_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, norm: BatchNorm) -> Tensor:
    """Normalize with the statistics of the batch; one kernel computes all gradients."""
    result = x.backend.batch_norm(x.data, norm)
    saved = result if norm.relu else result._replace(out=None)

    def vjps(grad: Tensor, needs_grad: tuple[bool, ...]) -> Sequence[Tensor]:
        if is_grad_enabled():
            upstream = elementwise.relu_gradient(grad, saved.out) if norm.relu else grad
            return _batch_norm_gradients(upstream, x, weight, norm.eps)
        found = x.backend.batch_norm_gradient(grad.data, x.data, norm, saved)
        return [Tensor(array) for array in found]

    return record_jointly("batch_norm", result.out, (x, weight, bias), vjps)


def _batch_norm_gradients(
    grad: Tensor, x: Tensor, weight: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of x, weight and bias, composed of differentiable functions."""
    axes = tuple(range(x.ndim - 1))
    root = (var(x, axes, keepdims=True) + eps) ** -0.5
    y = (x - mean(x, axes, keepdims=True)) * root
    scaled = grad if weight is None else grad * weight
    return root * _project(scaled, y, axes), (grad * y).sum(axis=axes), grad.sum(axis=axes)


def layer_norm(
    x: Tensor,
    axes: int = 1,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """weight · (x - mean) / √(var + eps) + bias, over the last ``axes`` axes of each example.

    Ba, Kiros and Hinton (2016).

    Shape:
        x (N, ...) -> (N, ...); weight and bias have the shape of the last ``axes`` axes.
    """
    weight, bias = _widen_all(weight, bias)
    x = require_floating("layer_norm", x)
    axes = integer(f"layer_norm: the number of axes for shape {x.shape}", axes, 1, x.ndim)
    x, eps = _checked("layer_norm", x, axes, weight, bias), check_eps("layer_norm", eps)
    return _affine(_normalize(x, tuple(range(x.ndim - axes, x.ndim)), eps), weight, bias)


def group_norm(
    x: Tensor,
    groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """weight · (x - mean) / √(var + eps) + bias, over pixels and a group of channels of an example.

    Wu and He (2018). With one channel per group it is instance normalization.

    Shape:
        x (N, ..., C) -> (N, ..., C); weight and bias (C,).
    """
    weight, bias = _widen_all(weight, bias)
    x, eps = _checked("group_norm", x, 1, weight, bias), check_eps("group_norm", eps)
    groups = integer("group_norm: groups", groups, 1)
    if x.ndim < 2 or x.shape[-1] % groups:
        raise ShapeError(f"group_norm: {groups} groups do not divide the channels of {x.shape}")
    pixels = math.prod(x.shape[1:-1])
    split = x.reshape(x.shape[0], pixels, groups, x.shape[-1] // groups)
    return _affine(_normalize(split, (1, 3), eps).reshape(x.shape), weight, bias)


def check_eps(name: str, eps: float) -> float:
    """A finite number >= 0, to be added to a variance."""
    return number(f"{name}: eps", eps, 0, ends="[)")


def check_momentum(name: str, momentum: float) -> float:
    """The share of the batch in running statistics, from 0 to 1."""
    return number(f"{name}: momentum", momentum, 0, 1, "[]")


def _widen_all(*parameters: Tensor | None) -> list[Tensor | None]:
    return [None if parameter is None else widen(parameter) for parameter in parameters]


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    if weight is not None:
        x = x * weight
    return x if bias is None else x + bias


def _checked(name: str, x: Tensor, axes: int, *parameters: Tensor | None) -> Tensor:
    """The input, after checking that the parameters have its device, dtype and last axes."""
    x = widen(require_floating(name, x))
    check_same(name, x, *parameters)
    shape = x.shape[x.ndim - axes :]
    for parameter in parameters:
        if parameter is not None and parameter.shape != shape:
            size = "x".join(map(str, parameter.shape)) or "1"
            what = "channels (the last axis)" if axes == 1 else f"elements (the last {axes} axes)"
            raise ShapeError(f"{name} expects {size} {what}, got {shape} for an input {x.shape}")
    return x
