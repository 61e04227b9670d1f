"""Checks of operands: one device, one dtype, existing axes."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinynn.arguments import integer, is_sequence, native, number
from tinynn.autograd import Axis, Tensor, is_grad_enabled
from tinynn.backend import Array, backend_of
from tinynn.errors import ArgumentError, DeviceError, DtypeError, ShapeError
from tinynn.precision import is_autocast, widen


def as_tensor(name: str, x: Any) -> Tensor:
    """The operand as a tensor; numbers and arrays become constants."""
    if isinstance(x, Tensor):
        return x
    if isinstance(x, (int, float, np.generic)):
        x = np.asarray(x, dtype="float32" if type(x) is float else None)
    if backend_of(x) is None:
        raise _not_a_tensor(name, x)
    # a copy for the backward pass: the caller may write to the array before
    try:
        return Tensor(native(x.copy() if is_grad_enabled() and x.ndim else x))
    except ArgumentError as error:
        raise DtypeError(f"{name}: {error}") from error


def _not_a_tensor(name: str, x: Any) -> DtypeError:
    maker = "from_numpy" if isinstance(x, np.ndarray) else "tensor"
    return DtypeError(f"{name} expects a tensor, got {type(x).__name__}; use tinynn.{maker}()")


def require_floating(name: str, x: Tensor) -> Tensor:
    """The tensor; raises DtypeError if it is none, or not floating-point."""
    if not isinstance(x, Tensor):
        raise _not_a_tensor(name, x)
    if x.data.dtype.kind != "f":
        raise DtypeError(
            f"{name} expects a floating-point tensor, got {x.dtype} of shape {x.shape}; "
            "convert with .astype('float32')"
        )
    return x


Shape = tuple[int, ...]


def broadcast(name: str, a: Any, b: Any) -> tuple[Any, Any, Array, Shape, Shape]:
    """Two operands after type promotion, the backend's function ``name`` of their arrays, shapes.

    A VJP that only needs the shape of an operand must not capture the operand: it would be an error
    to change it in place before the backward pass.
    """
    alike = isinstance(a, Tensor) and isinstance(b, Tensor) and a.backend is b.backend
    if not alike or a.data.dtype != b.data.dtype:
        a, b = promote(name, a, b)
    backend = a.backend if isinstance(a, Tensor) else b.backend
    p, q = getattr(a, "data", a), getattr(b, "data", b)  # Python numbers have no ``data``
    shapes = getattr(p, "shape", ()), getattr(q, "shape", ())
    try:
        return a, b, backend.elementwise(name, p, q), *shapes
    except ValueError as error:
        try:
            np.broadcast_shapes(*shapes)
        except ValueError:
            text = f"{name}: shapes {shapes[0]} and {shapes[1]} do not broadcast"
            raise ShapeError(text) from error
        raise ArgumentError(f"{name} of {_kind(p)} and {_kind(q)}: {error}") from error
    except (TypeError, OverflowError) as error:  # bool - bool, uint8 + 300
        raise DtypeError(f"{name} of {_kind(p)} and {_kind(q)}: {error}") from error


def _kind(x: Any) -> str:
    return str(getattr(x, "dtype", x))


def promote(name: str, a: Any, b: Any) -> tuple[Any, Any]:
    """Two operands that can be combined, at least one of them a tensor.

    Python numbers stay numbers, so that they neither widen a dtype nor are copied to a GPU. Integer
    tensors take the dtype of floating-point ones.

    Raises:
        DtypeError: If two floating-point dtypes differ.
        DeviceError: If the tensors are on two devices.
    """
    if type(b) is float and isinstance(a, Tensor) and a.data.dtype.kind == "f":
        return a, b  # the common case
    a, b = _tensor_or_number(name, a), _tensor_or_number(name, b)
    if not isinstance(a, Tensor) and not isinstance(b, Tensor):
        a = as_tensor(name, a)
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        if a.backend is not b.backend:
            raise _mixed_devices(name, a, b)
        return _one_dtype(name, a, b)
    if isinstance(b, float) and a.data.dtype.kind != "f":
        a = a.astype("float32")
    elif isinstance(a, float) and b.data.dtype.kind != "f":
        b = b.astype("float32")
    return a, b


def _tensor_or_number(name: str, x: Any) -> Any:
    if isinstance(x, np.generic) or (isinstance(x, np.ndarray) and not x.ndim):
        x = x.item()
    if isinstance(x, int) and not -(2**63) <= x < 2**64:  # no array holds it as an integer
        x = number(f"{name}: operand", x)
    return x if isinstance(x, (int, float)) else as_tensor(name, x)


def _one_dtype(name: str, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    kinds = a.dtype.kind + b.dtype.kind
    if kinds == "ff" and a.dtype != b.dtype:
        if not is_autocast():
            raise _mixed_dtypes(name, a, b)
        return widen(a), widen(b)
    if kinds in ("fi", "fu"):
        return a, b.astype(a.dtype)
    if kinds in ("if", "uf"):
        return a.astype(b.dtype), b
    return a, b


def check_same(
    name: str, *tensors: Tensor | None, floating: bool = True, required: int = 1
) -> None:
    """Raise, naming the function, unless all are tensors of one device and one floating dtype.

    None is skipped after the first ``required``; without ``floating`` only the device is checked.
    """
    first = None
    for position, tensor in enumerate(tensors):
        if tensor is None and position >= required:
            continue
        if not isinstance(tensor, Tensor):
            raise _not_a_tensor(name, tensor)
        if first is None:
            first = require_floating(name, tensor) if floating else tensor
        if tensor.backend is not first.backend:
            raise _mixed_devices(name, first, tensor)
        if floating and tensor.data.dtype != first.data.dtype:
            raise _mixed_dtypes(name, first, require_floating(name, tensor))


def _mixed_devices(name: str, a: Tensor, b: Tensor) -> DeviceError:
    return DeviceError(
        f"{name}: one operand of shape {a.shape} is on {a.device}, the other of shape {b.shape} on "
        f"{b.device}; move one with .to({a.device!r}) (a model with model.to(...))"
    )


def _mixed_dtypes(name: str, a: Tensor, b: Tensor) -> DtypeError:
    return DtypeError(
        f"{name}: got {a.dtype} of shape {a.shape} and {b.dtype} of shape {b.shape}; "
        "convert one of them with .astype()"
    )


def array_of(x: Any) -> Any:
    """The array of a tensor; a number or None unchanged."""
    return x.data if isinstance(x, Tensor) else x


def sum_to(grad: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The VJP of broadcasting: the sum over the axes along which ``shape`` was repeated."""
    if grad.data.shape == shape:
        return grad
    extra = grad.ndim - len(shape)
    repeated = (i + extra for i, n in enumerate(shape) if n == 1 and grad.shape[i + extra] != 1)
    return grad.sum(axis=(*range(extra), *repeated), keepdims=True).reshape(shape)


def normal_axis(name: str, axis: int, ndim: int) -> int:
    """A non-negative axis number; ShapeError if there is no such axis."""
    try:
        return integer("axis", axis, -ndim, ndim - 1) % ndim
    except ArgumentError:
        raise ShapeError(f"{name}: axis {axis!r:.80} of a tensor with {ndim} axes") from None


def normal_axes(name: str, axis: Axis, ndim: int) -> tuple[int, ...]:
    """Axis numbers as a sorted tuple; None means all."""
    if axis is None:
        return tuple(range(ndim))
    axes: tuple[Any, ...] = tuple(axis) if is_sequence(axis) else (axis,)
    normal = sorted({normal_axis(name, a, ndim) for a in axes})
    if len(normal) != len(axes):
        raise ShapeError(f"{name}: an axis occurs twice in {axis!r}")
    return tuple(normal)
