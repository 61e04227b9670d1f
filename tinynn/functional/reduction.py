"""Reductions over axes: sums, means, extrema, softmax.

Sums and means differ from the exact value by at most 64·ε·Σ|x| (ε: 1.2e-7 for float32, 2.2e-16 for
float64), for any number of terms, axes and order in memory; variances by as much relative to
themselves. float16 is summed in float32, and so is every square or product within a function: only
a result beyond 65504 overflows.
"""

from __future__ import annotations

import math
from typing import Any

from tinynn.arguments import exact_number, flag
from tinynn.autograd import Axis, Operand, Tensor, record, record_with_output
from tinynn.errors import ShapeError
from tinynn.functional.arithmetic import where
from tinynn.functional.elementwise import exp, floating, log, sqrt, square
from tinynn.functional.operands import as_tensor, normal_axes, normal_axis
from tinynn.functional.shape import broadcast_to
from tinynn.precision import in_float32, widen

__all__ = ["argmax", "argmin", "max", "mean", "min", "std", "sum", "var"]
__all__ += ["log_softmax", "logsumexp", "softmax"]


def _operand(name: str, x: Operand, axis: Axis) -> tuple[Tensor, tuple[int, ...], int]:
    """The tensor, the axes to reduce, and the number of elements along them, which is not 0."""
    x = as_tensor(name, x)
    axes = normal_axes(name, axis, x.ndim)
    count = math.prod([x.shape[i] for i in axes])
    if count == 0:
        raise ShapeError(f"{name} over no elements: shape {x.shape}, axis {axis}")
    return x, axes, count


def _expand(x: Tensor, shape: tuple[int, ...], axes: tuple[int, ...], keepdims: bool) -> Tensor:
    """Broadcast a reduced tensor back over the axes it lost."""
    if not keepdims:
        x = x.reshape(tuple(1 if i in axes else n for i, n in enumerate(shape)))
    return broadcast_to(x, shape)


def sum(x: Operand, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The sum over the axes (default: all)."""
    x = as_tensor("sum", x)
    axes, shape = normal_axes("sum", axis, x.ndim), x.shape
    keepdims = keepdims is not False and flag("keepdims", keepdims)
    return record(
        "sum",
        x.backend.sum(x.data, axes, keepdims),
        (x, lambda grad: _expand(grad, shape, axes, keepdims)),
    )


def mean(x: Operand, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The mean over the axes (default: all), float32 for integers."""
    x, axes, count = _operand("mean", x, axis)
    keepdims = keepdims is not False and flag("keepdims", keepdims)
    if x.dtype.kind != "f":
        return mean(_floating(x), axes, keepdims).astype("float32")
    shape = x.shape
    return record(
        "mean",
        x.backend.mean(x.data, axes, keepdims),
        (x, lambda grad: _expand(_divided(grad, count), shape, axes, keepdims)),
    )


def _floating(x: Tensor) -> Tensor:
    """Integers as floating-point numbers that hold them exactly, up to 2**53."""
    return x.astype("float64" if x.dtype.itemsize > 2 else "float32")


def _divided(grad: Tensor, count: int) -> Tensor:
    """grad / count; float16 cannot hold a large or the inverse of a large count."""
    if grad.dtype.itemsize > 2:
        return grad * (1 / count)
    return (grad.astype("float32") * (1 / count)).astype(grad.dtype)


@in_float32
def var(x: Operand, axis: Axis = None, keepdims: bool = False, correction: float = 0) -> Tensor:
    """Σ(x - mean)² / (count - correction) over the axes (default: all).

    ``correction=1`` gives the unbiased estimate (Bessel's correction).
    """
    x, axes, count = _operand("var", x, axis)
    correction = exact_number("var: correction", correction)
    if count <= correction:
        raise ShapeError(f"var with correction {correction} needs more than {count} elements")
    if x.dtype.kind != "f":
        return var(_floating(x), axes, keepdims, correction).astype("float32")
    return sum(square(_center(x, axes)), axes, keepdims) * (1 / (count - correction))


def _center(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """x minus its mean over the axes: a projection, and so its own VJP."""
    centered, _ = x.backend.center(x.data, axes)
    return record("center", centered, (x, lambda grad: _center(grad, axes)))


@in_float32
def std(x: Operand, axis: Axis = None, keepdims: bool = False, correction: float = 0) -> Tensor:
    """The standard deviation √var; its gradient is 0 where all elements are equal."""
    variance = var(x, axis, keepdims, correction)
    equal = variance == 0
    return where(equal, 0.0, sqrt(where(equal, 1.0, variance)))


def max(x: Operand, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The maximum over the axes (default: all); equal maxima share the gradient."""
    return _extreme("max", x, axis, keepdims)


def min(x: Operand, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The minimum over the axes (default: all); equal minima share the gradient."""
    return _extreme("min", x, axis, keepdims)


def _extreme(name: str, x: Operand, axis: Axis, keepdims: bool) -> Tensor:
    x, axes, _ = _operand(name, x, axis)
    extreme = getattr(x.backend.xp, name)
    keepdims = keepdims is not False and flag("keepdims", keepdims)

    def vjp(grad: Tensor) -> Tensor:
        wide = "float32" if grad.dtype.itemsize == 2 else grad.dtype  # for their number
        winners = (x.data == extreme(x.data, axis=axes, keepdims=True)).astype(wide)
        winners /= x.backend.sum(winners, axes, keepdims=True)
        shares = as_tensor(name, winners.astype(grad.dtype, copy=False))
        return _expand(grad, x.shape, axes, keepdims) * shares

    return record(name, extreme(x.data, axis=axes, keepdims=keepdims), (x, vjp))


@in_float32
def logsumexp(x: Operand, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """log Σ exp(x) over the axes (default: all), without overflow."""
    x, axes, _ = _operand("logsumexp", floating("logsumexp", x), axis)
    keepdims = keepdims is not False and flag("keepdims", keepdims)
    xp = x.backend.xp
    highest = xp.max(x.data, axis=axes, keepdims=True)
    shift = Tensor(xp.where(xp.isfinite(highest), highest, 0).astype(highest.dtype))
    shifted = log(sum(exp(x - shift), axes, keepdims=True)) + shift
    return shifted if keepdims else shifted.squeeze(axes)


@in_float32
def softmax(x: Operand, axis: int = -1) -> Tensor:
    """exp(x) / Σ exp(x) along an axis."""
    x = widen(floating("softmax", x))
    axis = normal_axis("softmax", axis, x.ndim)

    def vjp(grad: Tensor, out: Tensor) -> Tensor:
        return out * (grad - sum(grad * out, axis, keepdims=True))

    out = x.backend.softmax(x.data, axis) if x.size else x.data
    return record_with_output("softmax", out, (x, vjp))


@in_float32
def log_softmax(x: Operand, axis: int = -1) -> Tensor:
    """x - log Σ exp(x) along an axis: log(softmax(x)) without underflow."""
    x = widen(floating("log_softmax", x))
    axis = normal_axis("log_softmax", axis, x.ndim)

    def vjp(grad: Tensor, out: Tensor) -> Tensor:
        return grad - exp(out) * sum(grad, axis, keepdims=True)

    out = x.backend.log_softmax(x.data, axis) if x.size else x.data
    return record_with_output("log_softmax", out, (x, vjp))


def argmax(x: Operand, axis: int | None = None) -> Tensor:
    """The index of the first maximum along an axis (None: in the flattened tensor)."""
    return _argument("argmax", x, axis)


def argmin(x: Operand, axis: int | None = None) -> Tensor:
    """The index of the first minimum along an axis (None: in the flattened tensor)."""
    return _argument("argmin", x, axis)


def _argument(name: str, x: Operand, axis: int | None) -> Tensor:
    x, _, _ = _operand(name, x, axis)
    axis = None if axis is None else normal_axis(name, axis, x.ndim)
    found: Any = getattr(x.backend.xp, name)(x.data, axis=axis)
    return Tensor(x.backend.xp.asarray(found))
