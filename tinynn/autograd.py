"""Floor 1: ``Tensor``, the record of what was done to it, and the way back.

A differentiable function computes an array and hands it to ``record`` together with its inputs and,
for each, a small function that turns the gradient of the result into the gradient of that input
(the vector-Jacobian product). Those functions are written with tensors again, so the gradient of a
gradient needs nothing new. ``backward`` visits the records from the newest to the oldest.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Union

import numpy as np

from tinynn.backend import (
    Array,
    Backend,
    backend_of,
    get_backend,
    tracing,
)
from tinynn.errors import ArgumentError, DeviceError, DtypeError, GradientError, ShapeError

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

Scalar = float | int | bool
_Operand = Union["Tensor", Scalar, np.ndarray[Any, Any]]
_Axis = int | tuple[int, ...] | None
VJP = Callable[..., "Tensor"]


class Tensor:
    """An array on a device that remembers how it was computed.

    Make one with ``tinynn.tensor``, ``tinynn.zeros`` and the like. ``data`` is the array itself,
    NumPy's or CuPy's; ``grad`` is filled by ``backward`` on tensors that were made with
    ``requires_grad=True``.
    """

    __slots__ = ("__weakref__", "_node", "backend", "data", "grad", "origin", "requires_grad")

    def __init__(self, data: Array, requires_grad: bool = False) -> None:
        backend = backend_of(data)
        if backend is None:
            raise ArgumentError(
                f"Tensor expects a NumPy or CuPy array, got {type(data).__name__}; "
                "tinynn.tensor() takes numbers and lists"
            )
        if requires_grad and data.dtype.kind != "f":
            raise GradientError(
                f"only floating-point tensors have gradients, got dtype {data.dtype}; "
                "use .astype('float32') first"
            )
        self.data = data
        self.backend: Backend = backend
        self.requires_grad = requires_grad
        self.grad: Tensor | None = None
        self.origin: str | None = None  # where a loader has it from, for messages
        self._node: _Node | None = None

    # -- what it is -------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes of the axes."""
        shape: tuple[int, ...] = self.data.shape
        return shape

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.data.shape)

    @property
    def size(self) -> int:
        """The number of elements."""
        return int(self.data.size)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The NumPy dtype of the elements."""
        dtype: np.dtype[Any] = self.data.dtype
        return dtype

    @property
    def device(self) -> str:
        """Where the elements are: "cpu", "cuda", "cuda:1"."""
        return self.backend.device

    @property
    def is_leaf(self) -> bool:
        """Whether no function made this tensor; ``backward`` fills ``grad`` of leaves only."""
        return self._node is None

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("a tensor without axes has no length")
        return self.shape[0]

    def __repr__(self) -> str:
        values = np.array2string(self.numpy(), separator=", ", prefix="Tensor(", threshold=100)
        notes = [f"shape={self.shape}", f"dtype={self.dtype}", f"device={self.device!r}"]
        if self._node is not None:
            notes.append(f"function={self._node.name!r}")
        elif self.requires_grad:
            notes.append("requires_grad=True")
        return f"Tensor({values}, {', '.join(notes)})"

    # -- out of the library: these wait for a GPU ---------------------------------------------

    def numpy(self) -> np.ndarray[Any, Any]:
        """The values as a NumPy array; on the CPU it shares the tensor's memory."""
        return self.backend.to_host(self.data)

    def item(self) -> Any:
        """The value of a tensor with one element, as a Python number."""
        if self.size != 1:
            raise ShapeError(f"item() expects a tensor with one element, got shape {self.shape}")
        return self.backend.to_host(self.data).item()

    def tolist(self) -> Any:
        """The values as nested lists of Python numbers."""
        return self.backend.to_host(self.data).tolist()

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __bool__(self) -> bool:
        if self.size != 1:
            raise ShapeError(
                f"the truth of a tensor of shape {self.shape} is ambiguous; reduce it first"
            )
        return bool(self.item())

    def __index__(self) -> int:
        if self.dtype.kind not in "iu" or self.size != 1:
            raise TypeError(f"only an integer tensor with one element is an index, got {self!r}")
        return int(self.item())

    def __array__(
        self, dtype: DTypeLike | None = None, copy: bool | None = None
    ) -> np.ndarray[Any, Any]:
        if self.device != "cpu":
            raise DeviceError(
                f"NumPy cannot read a tensor on {self.device} in place: call .numpy(), which copies"
            )
        return np.array(self.data, dtype=dtype, copy=copy)

    def __dlpack__(self, **options: Any) -> Any:
        return self.data.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.data.__dlpack_device__()

    # -- to other tensors ---------------------------------------------------------------------

    def detach(self) -> Tensor:
        """The same array without its history."""
        return Tensor(self.data)

    def to(self, device: str) -> Tensor:
        """This tensor on another device; the gradient finds its way back."""
        backend = get_backend(device)
        if backend is self.backend:
            return self
        origin = self.device
        moved = backend.from_host(self.backend.to_host(self.data))
        return record("to", moved, (self, lambda grad: grad.to(origin)))

    def astype(self, dtype: DTypeLike) -> Tensor:
        """The values in another dtype."""
        dtype = np.dtype(dtype)
        if dtype == self.dtype:
            return self
        data = self.backend.xp.asarray(self.data, dtype=dtype)
        if dtype.kind != "f":
            return Tensor(data)
        origin = self.dtype
        return _result("astype", data, ((self, lambda grad: grad.astype(origin)),), None)

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Switch gradients of this leaf on or off, in place; returns the tensor."""
        if not self.is_leaf:
            raise GradientError("requires_grad can be switched on leaves only; use .detach() first")
        checked = Tensor(self.data, requires_grad)
        self.requires_grad = checked.requires_grad
        return self

    # -- the way back -------------------------------------------------------------------------

    def backward(
        self,
        gradient: Tensor | None = None,
        *,
        create_graph: bool = False,
        retain_graph: bool | None = None,
    ) -> None:
        """Add d(self)/d(leaf) to the ``grad`` of every leaf that this tensor came from.

        ``gradient`` (the shape of this tensor) weighs its elements; it may be left out for a
        single number. The record is freed on the way unless ``retain_graph`` or ``create_graph``
        is true; with ``create_graph`` the gradients have a record themselves.

        Raises GradientError without a record, through a freed one, or if a gradient is missing.
        """
        seed = _seed_gradient(self, gradient)
        keep = create_graph if retain_graph is None else retain_graph
        with self.backend.session(), _set_grad_mode(create_graph):
            given = {id(_memory(seed))}
            for leaf, grad in _propagate([self], [seed], keep, None).values():
                leaf.grad = _own(grad, given) if leaf.grad is None else leaf.grad + grad

    __hash__ = object.__hash__

    if TYPE_CHECKING:  # installed by tinynn.functional.operators, one floor up

        @property
        def T(self) -> Tensor: ...  # noqa: N802
        def __add__(self, other: _Operand) -> Tensor: ...
        def __radd__(self, other: _Operand) -> Tensor: ...
        def __sub__(self, other: _Operand) -> Tensor: ...
        def __rsub__(self, other: _Operand) -> Tensor: ...
        def __mul__(self, other: _Operand) -> Tensor: ...
        def __rmul__(self, other: _Operand) -> Tensor: ...
        def __truediv__(self, other: _Operand) -> Tensor: ...
        def __rtruediv__(self, other: _Operand) -> Tensor: ...
        def __pow__(self, other: _Operand) -> Tensor: ...
        def __rpow__(self, other: _Operand) -> Tensor: ...
        def __matmul__(self, other: Tensor | np.ndarray[Any, Any]) -> Tensor: ...
        def __rmatmul__(self, other: Tensor | np.ndarray[Any, Any]) -> Tensor: ...
        def __and__(self, other: _Operand) -> Tensor: ...
        def __or__(self, other: _Operand) -> Tensor: ...
        def __xor__(self, other: _Operand) -> Tensor: ...
        def __invert__(self) -> Tensor: ...
        def __neg__(self) -> Tensor: ...
        def __abs__(self) -> Tensor: ...
        def __lt__(self, other: Any) -> Tensor: ...
        def __le__(self, other: Any) -> Tensor: ...
        def __gt__(self, other: Any) -> Tensor: ...
        def __ge__(self, other: Any) -> Tensor: ...
        def __eq__(self, other: object) -> Tensor: ...  # type: ignore[override]
        def __ne__(self, other: object) -> Tensor: ...  # type: ignore[override]
        def __getitem__(self, index: Any) -> Tensor: ...
        def __iter__(self) -> Iterator[Tensor]: ...
        def sum(self, axis: _Axis = None, keepdims: bool = False) -> Tensor: ...
        def mean(self, axis: _Axis = None, keepdims: bool = False) -> Tensor: ...
        def max(self, axis: _Axis = None, keepdims: bool = False) -> Tensor: ...
        def min(self, axis: _Axis = None, keepdims: bool = False) -> Tensor: ...
        def var(
            self, axis: _Axis = None, keepdims: bool = False, correction: int = 0
        ) -> Tensor: ...
        def std(
            self, axis: _Axis = None, keepdims: bool = False, correction: int = 0
        ) -> Tensor: ...
        def argmax(self, axis: int | None = None) -> Tensor: ...
        def argmin(self, axis: int | None = None) -> Tensor: ...
        def exp(self) -> Tensor: ...
        def log(self) -> Tensor: ...
        def sqrt(self) -> Tensor: ...
        def abs(self) -> Tensor: ...
        def clip(self, low: float | None = None, high: float | None = None) -> Tensor: ...
        def reshape(self, *shape: Any) -> Tensor: ...
        def permute(self, *axes: Any) -> Tensor: ...
        def flatten(self, start_axis: int = 0) -> Tensor: ...
        def squeeze(self, axis: _Axis = None) -> Tensor: ...
        def unsqueeze(self, axis: int) -> Tensor: ...


class _Node:
    """What made a tensor: a function's name and, for each input that matters, the product."""

    __slots__ = ("inputs", "jointly", "name", "order", "output")

    def __init__(
        self, name: str, inputs: tuple[tuple[Tensor, Any], ...], output: Array | None
    ) -> None:
        self.name = name
        # each with its product, or with its position where ``jointly`` has them all; None: freed
        self.inputs: tuple[tuple[Tensor, Any], ...] | None = inputs
        self.jointly: tuple[Callable[..., Sequence[Any]], int] | None = None
        self.order = next(_order)
        self.output = output

    def products(self, grad: Tensor, needed: Sequence[tuple[Tensor, Any]]) -> Iterator[Any]:
        """The needed inputs with their gradients."""
        if self.jointly is not None:
            function, count = self.jointly
            positions = {position for _, position in needed}
            grads = function(grad, tuple(position in positions for position in range(count)))
            yield from ((source, grads[position]) for source, position in needed)
            return
        result = () if self.output is None else (_output_tensor(self),)
        for source, vjp in needed:
            yield source, vjp(grad, *result)


_order = itertools.count()  # a result is always newer than what it was made from


def record(name: str, data: Array, *inputs: tuple[Any, VJP]) -> Tensor:
    """The result of a differentiable function called ``name``.

    Each input is a pair of a tensor and its vector-Jacobian product ``vjp(grad)``. Inputs that need
    no gradient are dropped here, and with them what their products captured; inputs that are plain
    numbers may be passed too and are dropped likewise.
    """
    return _result(name, _checked(name, data, inputs), inputs, None)


def record_with_output(name: str, data: Array, *inputs: tuple[Any, VJP]) -> Tensor:
    """Like ``record``, for products that are best said with the result: ``vjp(grad, out)``.

    A product cannot capture the result itself: the two would keep each other alive.
    """
    return _result(name, _checked(name, data, inputs), inputs, data)


def record_jointly(
    name: str, data: Array, tensors: tuple[Any, ...], gradients: Callable[..., Sequence[Any]]
) -> Tensor:
    """Like ``record``, where the gradients of several inputs are best computed at once.

    ``gradients(grad, wanted)`` gives a gradient for each position in ``tensors`` that is wanted (a
    tuple of bools), and anything for the others.
    """
    positions = tuple((tensor, position) for position, tensor in enumerate(tensors))
    result = _result(name, _checked(name, data, positions), positions, None)
    if result._node is not None:
        result._node.jointly = (gradients, len(tensors))
    return result


def _result(
    name: str, data: Array, inputs: tuple[tuple[Any, Any], ...], output: Array | None
) -> Tensor:
    result = Tensor.__new__(Tensor)
    backend = backend_of(data)
    if backend is None:  # reductions of NumPy give scalars
        data = np.asarray(data)
        backend = get_backend("cpu")
        output = data if output is not None else None
    result.data, result.backend, result.grad = data, backend, None
    result.origin, result.requires_grad, result._node = None, False, None
    if _mode.recording:
        needed = tuple(
            pair for pair in inputs if isinstance(pair[0], Tensor) and pair[0].requires_grad
        )
        if needed:
            result.requires_grad = True
            result._node = _Node(name, needed, output)
    if tracing.active is not None:
        node = result._node
        tracing.active.made(name, data.nbytes, None if node is None else node.order)
    return result


def _checked(name: str, data: Array, inputs: tuple[tuple[Any, Any], ...]) -> Array:
    """The data, after a look that no function made it wider than its floating-point inputs."""
    dtype = data.dtype
    if dtype.kind == "f":
        for tensor, _ in inputs:
            if isinstance(tensor, Tensor) and tensor.data.dtype.kind == "f":
                if tensor.data.dtype.itemsize < dtype.itemsize:
                    raise DtypeError(
                        f"{name} would turn {tensor.data.dtype} into {dtype}: this is a fault of "
                        "the function; a model keeps its dtype"
                    )
                break
    return data


# -- grad mode ------------------------------------------------------------------------------------


class _Mode(threading.local):
    recording = True


_mode = _Mode()


def is_grad_enabled() -> bool:
    """Whether functions on this thread are being recorded."""
    return _mode.recording


@contextmanager
def _set_grad_mode(recording: bool) -> Iterator[None]:
    previous = _mode.recording
    _mode.recording = recording
    try:
        yield
    finally:
        _mode.recording = previous


def no_grad() -> Any:
    """A context, or a decorator, in which nothing is recorded on this thread.

    >>> with tinynn.no_grad():
    ...     scores = model(images)
    """
    return _set_grad_mode(False)


def enable_grad() -> Any:
    """A context, or a decorator, in which functions are recorded, also inside ``no_grad``."""
    return _set_grad_mode(True)


# -- backward -------------------------------------------------------------------------------------


def grad(
    outputs: Tensor | Sequence[Tensor],
    inputs: Tensor | Sequence[Tensor],
    grad_outputs: Tensor | Sequence[Tensor] | None = None,
    *,
    create_graph: bool = False,
    retain_graph: bool | None = None,
    allow_unused: bool = False,
) -> Any:
    """The gradients of ``outputs`` with respect to ``inputs``, without touching any ``.grad``.

    Returns one tensor for one input and a tuple for a sequence. ``grad_outputs`` weighs the outputs
    and may be left out where they are single numbers. With ``create_graph`` the gradients can be
    differentiated again. An input that the outputs do not depend on is an error unless
    ``allow_unused``, which gives None for it.
    """
    single = isinstance(inputs, Tensor)
    outputs = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    wanted = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    if grad_outputs is None or isinstance(grad_outputs, Tensor):
        grad_outputs = [grad_outputs] * len(outputs)  # type: ignore[list-item]
    for tensor in wanted:
        if not tensor.requires_grad:
            raise GradientError(f"grad: an input of shape {tensor.shape} does not require grad")
    seeds = [_seed_gradient(o, g) for o, g in zip(outputs, grad_outputs, strict=True)]
    keep = create_graph if retain_graph is None else retain_graph
    with outputs[0].backend.session(), _set_grad_mode(create_graph):
        found = _propagate(outputs, seeds, keep, wanted)
    results = tuple(found[_key(t)][1] if _key(t) in found else None for t in wanted)
    if not allow_unused and any(result is None for result in results):
        unused = [t.shape for t, r in zip(wanted, results, strict=True) if r is None]
        raise GradientError(
            f"grad: the outputs do not depend on the inputs of shapes {unused}; "
            "allow_unused=True gives None for them"
        )
    return results[0] if single else results


def _seed_gradient(output: Tensor, gradient: Tensor | None) -> Tensor:
    if not output.requires_grad:
        raise GradientError(
            "backward expects a tensor that was computed from one with requires_grad=True, got "
            f"one of shape {output.shape} without a record (made under no_grad, or detached?)"
        )
    if gradient is None:
        if output.size != 1:
            raise GradientError(
                f"backward from a tensor of shape {output.shape} needs a gradient of that shape; "
                "for a loss, reduce it to one number with .mean() or .sum()"
            )
        return Tensor(output.backend.xp.ones_like(output.data))
    if not isinstance(gradient, Tensor) or gradient.shape != output.shape:
        came = gradient.shape if isinstance(gradient, Tensor) else type(gradient).__name__
        raise ShapeError(f"backward expects a gradient of shape {output.shape}, got {came}")
    if gradient.backend is not output.backend:
        raise DeviceError(f"backward: tensor on {output.device}, gradient on {gradient.device}")
    return gradient.astype(output.dtype)


def _own(grad: Tensor, given: set[int]) -> Tensor:
    """A gradient that may be written to: a copy where its memory is somebody else's too."""
    if id(_memory(grad)) in given or not grad.data.flags.c_contiguous:
        copy = grad.backend.xp.array(grad.data, copy=True, order="C")
        grad = record("copy", copy, (grad, lambda grad: grad))
    given.add(id(_memory(grad)))
    return grad


def _memory(tensor: Tensor) -> Array:
    """The array that owns the memory of a tensor."""
    return tensor.data if tensor.data.base is None else tensor.data.base


def _key(tensor: Tensor) -> int:
    """What identifies a tensor in the graph: its record, or for a leaf the tensor itself."""
    return id(tensor if tensor._node is None else tensor._node)


def _propagate(
    outputs: Sequence[Tensor],
    seeds: Sequence[Tensor],
    keep: bool,
    wanted: Sequence[Tensor] | None,
) -> dict[int, tuple[Tensor, Tensor]]:
    """Carry gradients from the outputs to the leaves (or to ``wanted``), newest record first.

    Returns tensor and gradient by key, for the leaves and the wanted tensors that were reached.
    """
    nodes = _reachable(outputs)
    targets = set() if wanted is None else {_key(tensor) for tensor in wanted}
    useful = None if wanted is None else _leading_to(targets, nodes)
    arrived: dict[int, tuple[Tensor, Tensor]] = {}

    def arrive(tensor: Tensor, grad: Tensor) -> None:
        key = _key(tensor)
        arrived[key] = (tensor, arrived[key][1] + grad if key in arrived else grad)

    for output, seed in zip(outputs, seeds, strict=True):
        arrive(output, seed)
    for node in reversed(nodes):
        if id(node) not in arrived:
            continue
        grad = arrived[id(node)][1]
        if id(node) not in targets:
            del arrived[id(node)]  # all that came to it has come; let the memory go
        needed = [pair for pair in node.inputs or () if useful is None or _key(pair[0]) in useful]
        with tracing.lap(f"{node.name} backward", node.order):
            for source, product in node.products(grad, needed) if needed else ():
                arrive(source, _matching(node.name, product, source))
        if needed and not keep:  # the record of a wanted tensor itself was not used
            node.inputs = node.output = node.jointly = None
    return arrived


def _matching(name: str, grad: Tensor, source: Tensor) -> Tensor:
    if grad.data.shape != source.data.shape or grad.data.dtype != source.data.dtype:
        raise GradientError(
            f"the gradient of {name} should be {source.dtype} {source.shape}, got {grad.dtype} "
            f"{grad.shape}: this is a fault of the function"
        )
    return grad


def _output_tensor(node: _Node) -> Tensor:
    """The result of a record, as a tensor that leads back to it."""
    tensor = Tensor(node.output)
    tensor.requires_grad, tensor._node = True, node
    return tensor


def _reachable(outputs: Sequence[Tensor]) -> list[_Node]:
    """All records behind the outputs, oldest first; a loop, because graphs can be very deep."""
    seen: dict[int, _Node] = {}
    stack = [output._node for output in outputs if output._node is not None]
    while stack:
        node = stack.pop()
        if id(node) in seen:
            continue
        if node.inputs is None:
            raise GradientError(
                f"backward a second time through {node.name}, whose record was freed by the first: "
                "call the first with retain_graph=True, or compute the tensor again"
            )
        seen[id(node)] = node
        stack.extend(t._node for t, _ in node.inputs if t._node is not None)
    return sorted(seen.values(), key=lambda node: node.order)


def _leading_to(targets: set[int], nodes: Sequence[_Node]) -> set[int]:
    """The keys on the way from the outputs to the targets: other products are not computed."""
    useful = set(targets)
    for node in nodes:
        if any(_key(tensor) in useful for tensor, _ in node.inputs or ()):
            useful.add(id(node))
    return useful
