"""What functions ask of their operands: one device, one dtype, axes that exist."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinynn.autograd import Scalar, Tensor
from tinynn.backend import backend_of
from tinynn.errors import DeviceError, DtypeError, ShapeError
from tinynn.precision import is_autocast, widened

Operand = Tensor | Scalar | np.ndarray[Any, Any]
Axis = int | tuple[int, ...] | None


def as_tensor(name: str, x: Any) -> Tensor:
    """The operand as a tensor; arrays become constants."""
    if isinstance(x, Tensor):
        return x
    if isinstance(x, (int, float, np.generic)):
        x = np.asarray(x, dtype="float32" if type(x) is float else None)
    if backend_of(x) is None:
        raise no_tensor(name, x)
    return Tensor(x)


def no_tensor(name: str, x: Any) -> DtypeError:
    """The error for an operand that is no tensor."""
    maker = "from_numpy" if isinstance(x, np.ndarray) else "tensor"
    return DtypeError(
        f"{name} expects a tensor, got {type(x).__name__}; tinynn.{maker}() makes one of it"
    )


def operands(name: str, a: Any, b: Any) -> tuple[Any, Any]:
    """Two operands that may meet, at least one of them a tensor.

    Plain numbers stay numbers, so that they neither widen a dtype nor travel to a GPU. Integer
    tensors that meet floating-point ones take their dtype; two different floating-point dtypes or
    two devices are an error.
    """
    a, b = _operand(name, a), _operand(name, b)
    if not isinstance(b, Tensor):
        if not isinstance(a, Tensor):
            a = as_tensor(name, a)
        if isinstance(b, float) and a.data.dtype.kind in "iub":
            a = a.astype("float32")
    elif not isinstance(a, Tensor):
        if isinstance(a, float) and b.data.dtype.kind in "iub":
            b = b.astype("float32")
        return a, b
    elif a.backend is not b.backend:
        raise mixed_devices(name, a, b)
    elif a.data.dtype != b.data.dtype:
        a, b = _one_dtype(name, a, b)
    return a, b


def _operand(name: str, x: Any) -> Any:
    if isinstance(x, (Tensor, int, float)) and not isinstance(x, np.generic):
        return x
    if isinstance(x, np.generic):
        return x.item()
    return as_tensor(name, x)


def _one_dtype(name: str, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    kinds = a.dtype.kind + b.dtype.kind
    if kinds == "ff" and is_autocast():
        return widened(a), widened(b)
    if kinds == "ff":
        raise DtypeError(
            f"{name}: {a.dtype} of shape {a.shape} meets {b.dtype} of shape {b.shape}; "
            "convert one of them with .astype()"
        )
    if kinds[0] == "f" and kinds[1] in "iu":
        return a, b.astype(a.dtype)
    if kinds[1] == "f" and kinds[0] in "iu":
        return a.astype(b.dtype), b
    return a, b


def mixed_devices(name: str, a: Tensor, b: Tensor) -> DeviceError:
    """The error for operands on two devices."""
    return DeviceError(
        f"{name}: one operand of shape {a.shape} is on {a.device}, the other of shape {b.shape} on "
        f"{b.device}; move one with .to({a.device!r}) (a model with model.to(...))"
    )


def same_device(name: str, *tensors: Tensor | None) -> None:
    """Raise DeviceError, naming the function, if tensors live on different devices."""
    present = [tensor for tensor in tensors if tensor is not None]
    for tensor in present:
        if not isinstance(tensor, Tensor):
            raise no_tensor(name, tensor)
        if tensor.backend is not present[0].backend:
            raise mixed_devices(name, present[0], tensor)


def same_dtype(name: str, *tensors: Tensor | None) -> None:
    """Raise DtypeError, naming the function, unless all are of one floating-point dtype."""
    present = [tensor for tensor in tensors if tensor is not None]
    for tensor in present:
        dtype = tensor.data.dtype
        if dtype.kind != "f":
            raise DtypeError(
                f"{name} expects floating-point tensors, got {dtype} of shape {tensor.shape}; "
                "convert with .astype('float32')"
            )
        if dtype != present[0].data.dtype:
            raise DtypeError(
                f"{name}: {present[0].dtype} of shape {present[0].shape} meets {dtype} of shape "
                f"{tensor.shape}; convert one of them with .astype()"
            )


def raw(x: Any) -> Any:
    """The array of a tensor; a number as it is."""
    return x.data if isinstance(x, Tensor) else x


def sum_to(grad: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The adjoint of broadcasting ``shape`` to the gradient's shape: sums over the new axes."""
    if grad.data.shape == shape:
        return grad
    extra = grad.ndim - len(shape)
    stretched = (i + extra for i, n in enumerate(shape) if n == 1 and grad.shape[i + extra] != 1)
    axes = (*range(extra), *stretched)
    return grad.sum(axis=axes, keepdims=True).reshape(shape)


def normal_axis(name: str, axis: int, ndim: int) -> int:
    """A non-negative axis number; ShapeError if there is no such axis."""
    if not isinstance(axis, (int, np.integer)) or not -ndim <= axis < ndim:
        raise ShapeError(f"{name}: axis {axis!r} of a tensor with {ndim} axes")
    return int(axis) % ndim


def normal_axes(name: str, axis: Axis, ndim: int) -> tuple[int, ...]:
    """Axis numbers as a sorted tuple; None means all."""
    if axis is None:
        return tuple(range(ndim))
    axes = (axis,) if isinstance(axis, (int, np.integer)) else tuple(axis)
    normal = sorted({normal_axis(name, a, ndim) for a in axes})
    if len(normal) != len(axes):
        raise ShapeError(f"{name}: an axis is named twice in {axis!r}")
    return tuple(normal)
