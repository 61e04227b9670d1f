"""New tensors: from data, filled with a value, or random.

Python floats become float32, Python integers int64; NumPy arrays keep their dtype. Without
``device``, a tensor is created on ``tinynn.default_device()``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from tinynn import arguments
from tinynn.arguments import real_dtype
from tinynn.autograd import Tensor, is_grad_enabled
from tinynn.backend import Backend, default_backend, get_backend
from tinynn.errors import ArgumentError, GradientError
from tinynn.memory import take_from_allowance
from tinynn.random import default_generator

if TYPE_CHECKING:
    from numpy.typing import DTypeLike as DType

__all__ = ["from_dlpack", "from_numpy", "tensor"]
__all__ += ["arange", "eye", "full", "linspace", "ones", "ones_like", "zeros", "zeros_like"]
__all__ += ["rand", "randn"]

Shape = int | tuple[int, ...]


def tensor(
    data: Any, dtype: DType | None = None, device: str | None = None, requires_grad: bool = False
) -> Tensor:
    """A tensor with a copy of a number, nested lists, a NumPy array or a tensor.

    Args:
        data: The values. Python floats become float32. Arrays in another byte order than the
            machine's are converted.
        dtype: The dtype of the elements (default: the dtype of ``data``).
        device: Where to create it; the copy of a tensor stays on its device by default.
        requires_grad: Whether ``backward`` computes its gradient.

    Raises:
        ArgumentError: If the lists are ragged, the values are not real numbers, or some are masked.
        GradientError: If the lists hold results of functions that require a gradient.

    Example:
        >>> tinynn.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    """
    if isinstance(data, Tensor):
        device, data = device or data.device, data.numpy()
    elif is_grad_enabled() and _holds_recorded(data):
        raise GradientError(
            "tensor() copies values and would lose the gradient of the tensors in the list: use "
            "F.stack, or .item() to leave the graph on purpose"
        )
    backend = _backend(device)
    return Tensor(backend.from_host(arguments.real_array("tensor()", data, dtype)), requires_grad)


def _holds_recorded(data: Any) -> bool:
    """Whether nested lists hold a result that has a graph."""
    if not isinstance(data, (list, tuple)) or {*map(type, data)} <= {int, float, bool}:
        return isinstance(data, Tensor) and not data.is_leaf
    return any(map(_holds_recorded, data))


def from_numpy(array: np.ndarray[Any, Any]) -> Tensor:
    """A CPU tensor that shares the memory of a NumPy array."""
    if not isinstance(array, np.ndarray):
        raise ArgumentError(f"from_numpy expects a NumPy array, got {type(array).__name__}")
    return Tensor(array)


def from_dlpack(source: Any) -> Tensor:
    """A tensor that shares the memory of an object with ``__dlpack__`` (PyTorch, JAX, CuPy)."""
    cpu, cuda = 1, 2  # DLDeviceType of dlpack.h
    try:
        kind, index = map(int, source.__dlpack_device__())
        if kind not in (cpu, cuda):
            raise BufferError(f"it takes arrays of a CPU or a CUDA device, got kind {kind}")
        backend = get_backend("cpu" if kind == cpu else f"cuda:{index}")
        return Tensor(backend.xp.from_dlpack(source))
    except (AttributeError, BufferError, TypeError) as error:
        raise ArgumentError(f"from_dlpack of {type(source).__name__}: {error}") from error


def zeros(
    shape: Shape, dtype: DType = "float32", device: str | None = None, requires_grad: bool = False
) -> Tensor:
    """A tensor of zeros."""
    return _filled("zeros", (_sizes("zeros", shape),), dtype, device, requires_grad)


def ones(
    shape: Shape, dtype: DType = "float32", device: str | None = None, requires_grad: bool = False
) -> Tensor:
    """A tensor of ones."""
    return _filled("ones", (_sizes("ones", shape),), dtype, device, requires_grad)


def full(
    shape: Shape,
    value: float,
    dtype: DType = "float32",
    device: str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """A tensor whose elements all have one value."""
    if not isinstance(value, (bool, np.bool_)):
        value = arguments.exact_number("full: value", value)
    return _filled("full", (_sizes("full", shape), value), dtype, device, requires_grad)


def _filled(
    name: str, arguments: tuple[Any, ...], dtype: DType, device: str | None, requires_grad: bool
) -> Tensor:
    backend, dtype = _backend(device), _numeric(name, dtype)
    try:
        array = getattr(backend.xp, name)(*arguments, dtype=dtype)
    except (ValueError, TypeError, OverflowError) as error:
        raise ArgumentError(f"{name}{arguments} as {dtype}: {error}") from error
    except Exception:
        with backend.session():  # explains that memory is short
            raise
    return Tensor(array, requires_grad)


def zeros_like(other: Tensor) -> Tensor:
    """Zeros with the shape, dtype and device of another tensor."""
    return Tensor(_tensor("zeros_like", other).backend.xp.zeros_like(other.data))


def ones_like(other: Tensor) -> Tensor:
    """Ones with the shape, dtype and device of another tensor."""
    return Tensor(_tensor("ones_like", other).backend.xp.ones_like(other.data))


def eye(size: int, dtype: DType = "float32", device: str | None = None) -> Tensor:
    """The identity matrix (size, size)."""
    shape = _sizes("eye", [size] * 2)
    return _filled("eye", shape[:1], dtype, device, False)


def arange(
    start: float,
    stop: float | None = None,
    step: float = 1,
    dtype: DType | None = None,
    device: str | None = None,
) -> Tensor:
    """start, start + step, ... up to but not including stop; int64 for integers, else float32."""
    if stop is None:
        start, stop = 0, start
    start, stop, step = (arguments.exact_number("arange", value) for value in (start, stop, step))
    count = (stop - start) / step if step else math.inf
    if not abs(count) < 2**60:
        raise ArgumentError(f"arange cannot step from {start} to {stop} by {step}")
    take_from_allowance((max(0, int(count)),))
    if dtype is None:
        dtype = "int64" if all(isinstance(part, int) for part in (start, stop, step)) else "float32"
    return _filled("arange", (start, stop, step), dtype, device, False)


@np.errstate(under="ignore")
def linspace(
    start: float, stop: float, count: int, dtype: DType = "float32", device: str | None = None
) -> Tensor:
    """``count`` evenly spaced values from start to stop, both included."""
    ends = arguments.number("linspace: start", start), arguments.number("linspace: stop", stop)
    (count,) = _sizes("linspace", arguments.integer("linspace: count", count, 0))
    return _filled("linspace", (*ends, count), dtype, device, False)


def rand(
    shape: Shape, dtype: DType = "float32", device: str | None = None, requires_grad: bool = False
) -> Tensor:
    """Uniform random values in [0, 1), from the sequence of ``manual_seed``."""
    values = _drawn("rand", default_generator.uniform, shape, dtype)
    values[values >= 1] = 0  # rounded up to 1 by the conversion to a narrower dtype
    return Tensor(_backend(device).from_host(values), requires_grad)


def randn(
    shape: Shape, dtype: DType = "float32", device: str | None = None, requires_grad: bool = False
) -> Tensor:
    """Standard normal random values, from the sequence of ``manual_seed``."""
    values = _drawn("randn", default_generator.normal, shape, dtype)
    return Tensor(_backend(device).from_host(values), requires_grad)


@np.errstate(under="ignore")
def _drawn(name: str, draw: Callable[[Any], Any], shape: Shape, dtype: DType) -> Any:
    """Random values of a floating-point dtype, on the host."""
    lengths, dtype = _sizes(name, shape), _numeric(name, dtype)
    if dtype.kind != "f":
        raise ArgumentError(f"{name} expects a floating-point dtype, got {dtype}")
    with get_backend("cpu").session():  # explains that memory is short
        return np.asarray(draw(lengths), dtype)


def _tensor(name: str, x: Any) -> Tensor:
    if not isinstance(x, Tensor):
        raise ArgumentError(f"{name} expects a tensor, got {type(x).__name__}")
    return x


def _sizes(name: str, shape: Any) -> tuple[int, ...]:
    return take_from_allowance(arguments.sizes(f"the shape of {name}", shape))


def _backend(device: str | None) -> Backend:
    return default_backend() if device is None else get_backend(device)


def _numeric(name: str, dtype: DType) -> np.dtype[Any]:
    """The dtype, if it is one of real numbers or bool."""
    if isinstance(dtype, int):
        raise ArgumentError(f"the shape is one argument, as in zeros((2, 3)): got dtype {dtype}")
    return real_dtype(name, dtype)
