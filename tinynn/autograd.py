"""Level 1: ``Tensor``, the computational graph, and the backward pass.

This is reverse-mode automatic differentiation, which is called backpropagation in neural networks.
A differentiable function computes an array and passes it to ``record`` together with its inputs
and, for each input, its vector-Jacobian product (VJP): a function that maps the upstream gradient,
i.e. the gradient of the function's output, to the gradient of that input. ``record`` returns a
tensor whose ``Node`` holds the inputs and their VJPs; the nodes form the computational graph.
``backward`` visits them from the newest to the oldest. VJPs are written with tensors, so gradients
of gradients need no further code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Self, Union

import numpy as np

from tinynn import changes
from tinynn.arguments import DTYPES, check_array, flag, is_sequence, real_dtype
from tinynn.backend import Array, Backend, backend_of, get_backend, tracing
from tinynn.changes import clock, share_changes
from tinynn.errors import ArgumentError, DeviceError, DtypeError, GradientError, ShapeError
from tinynn.scoped import Block, Scoped

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

__all__ = ["Tensor", "enable_grad", "grad", "is_grad_enabled", "no_grad"]

Scalar = float | int | bool
Operand = Union["Tensor", Scalar, np.ndarray[Any, Any]]
Axis = int | tuple[int, ...] | None
VJP = Callable[..., "Tensor"]
_Inputs = Sequence[tuple["Tensor", Any]]  # each with its VJP
_Gradients = dict[int, tuple["Tensor", "Tensor"]]  # tensor and gradient by ``_key``


class Tensor:
    """An array on a device, and the node of the computational graph that produced it.

    Create one with ``tinynn.tensor``, ``tinynn.zeros`` and so on. ``data`` is the NumPy or CuPy
    array. ``backward`` fills ``grad`` of the leaves: tensors created with ``requires_grad=True``,
    not computed by a function.

    ``p -= y`` changes parameters, buffers, gradients and leaves that require a gradient in place,
    within ``no_grad``; for any other tensor it is ``p = p - y``, a new tensor. ``x[key] = y``
    changes a leaf in place. ``backward`` raises a ``GradientError`` if it needs values that were
    changed since; only what is written to ``data`` and ``numpy()`` directly goes unnoticed.

    Example:
        >>> x = tinynn.tensor([1.0, 2.0], requires_grad=True)
        >>> (x * x).sum().backward()
        >>> x.grad
        Tensor([2., 4.], shape=(2,), dtype=float32, device='cpu')
    """

    __slots__ = (
        "__weakref__",
        "_changes",
        "_node",
        "backend",
        "data",
        "grad",
        "is_state",
        "origin",
        "requires_grad",
    )

    def __init__(self, data: Array, requires_grad: bool = False) -> None:
        backend = backend_of(data)
        if backend is None:
            raise ArgumentError(
                f"Tensor expects a NumPy or CuPy array, got {type(data).__name__}; "
                "tinynn.tensor() takes numbers and lists"
            )
        if data.dtype not in DTYPES or type(data) is not backend.xp.ndarray:
            data = backend.xp.asarray(check_array(data))
        if requires_grad is not False:
            requires_grad = flag("requires_grad", requires_grad)
        if requires_grad and data.dtype.kind != "f":
            raise GradientError(
                f"only floating-point tensors have gradients, got dtype {data.dtype}; "
                "use .astype('float32') first"
            )
        self.data = data
        self.backend: Backend = backend
        self.requires_grad = requires_grad
        self.grad: Tensor | None = None
        self.origin: str | None = None  # the batch of a data loader, for error messages
        self.is_state = False  # of a model, an optimizer step: ``x += y`` changes it in place
        self._node: Node | None = None
        self._changes: list[int] | None = None  # see ``note_change``; shared with views

    # -- properties -------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, ...]:
        """The length of each axis."""
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
        """The device that holds the elements: "cpu", "cuda", "cuda:1"."""
        return self.backend.device

    @property
    def is_leaf(self) -> bool:
        """Whether no recorded function produced this tensor; only leaves get a ``grad``."""
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

    # -- conversions to NumPy and Python; they synchronize with a GPU -----------------------------

    def numpy(self) -> np.ndarray[Any, Any]:
        """The values as a NumPy array; on the CPU it shares the tensor's memory."""
        return self.backend.to_host(self.data)

    def item(self) -> Any:
        """The value of a tensor with one element, as a Python number."""
        if self.size != 1:
            raise ShapeError(f"item() expects a tensor with one element, got shape {self.shape}")
        return self.numpy().item()

    def tolist(self) -> Any:
        """The values as nested lists of Python numbers."""
        return self.numpy().tolist()

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __format__(self, spec: str) -> str:
        return format(self.item() if spec and self.size == 1 else str(self), spec)

    def __bool__(self) -> bool:
        if self.size != 1:
            raise ShapeError(
                f"the truth value of a tensor of shape {self.shape} is ambiguous; reduce it first"
            )
        return bool(self.item())

    def __index__(self) -> int:
        if self.dtype.kind not in "iu" or self.size != 1:
            raise TypeError(f"only an integer tensor with one element is an index, got {self!r}")
        return int(self.item())

    def __array__(
        self, dtype: DTypeLike | None = None, copy: bool | None = None
    ) -> np.ndarray[Any, Any]:
        if not isinstance(self.data, np.ndarray):
            raise DeviceError(
                f"NumPy cannot read a tensor on {self.device} in place: call .numpy(), which copies"
            )
        return np.array(self.data, dtype=dtype, copy=copy)

    def __dlpack__(self, **options: Any) -> Any:
        return self.data.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.data.__dlpack_device__()

    def __reduce_ex__(self, protocol: Any) -> Any:
        if self._node is not None:
            raise GradientError(
                f"the result of {self._node.name} cannot be copied or pickled: a copy of its graph "
                "would not lead to the same parameters; copy x.detach(), or compute it again"
            )
        return super().__reduce_ex__(protocol)

    def __getstate__(self) -> Any:
        state: Any = super().__getstate__()  # attributes and slots
        return state[0], state[1] | {"_changes": None}  # another process counts anew

    # -- conversions to other tensors -----------------------------------------------------------

    def detach(self) -> Tensor:
        """The same array, detached from the computational graph."""
        result = Tensor(self.data)
        share_changes(result, self)
        return result

    def to(self, device: str) -> Tensor:
        """This tensor on another device; differentiable."""
        backend = get_backend(device)
        if backend is self.backend:
            return self
        origin = self.device
        moved = backend.from_host(self.backend.to_host(self.data))
        return record("to", moved, (self, lambda grad: grad.to(origin)))

    def astype(self, dtype: DTypeLike) -> Tensor:
        """The values converted to a dtype; differentiable between floating-point dtypes."""
        origin: np.dtype[Any] = self.data.dtype
        target = origin if dtype is origin else real_dtype("astype", dtype)
        if target == origin:
            return self
        with np.errstate(under="ignore"):  # to round to 0 is no error
            data = self.backend.xp.asarray(self.data, dtype=target)
        if target.kind != "f":
            return Tensor(data)
        return record(_CAST, data, (self, lambda grad: grad.astype(origin)))

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Switch gradients of this leaf on or off, in place; returns the tensor."""
        if not self.is_leaf:
            raise GradientError("requires_grad can be switched on leaves only; use .detach() first")
        self.requires_grad = Tensor(self.data, requires_grad).requires_grad
        return self

    def backward(
        self,
        gradient: Tensor | None = None,
        *,
        create_graph: bool = False,
        retain_graph: bool | None = None,
    ) -> None:
        """Add d(self)/d(leaf) to the ``grad`` of every leaf that this tensor depends on.

        Args:
            gradient: The upstream gradient, of this tensor's shape; may be omitted for a tensor
                with one element (a loss), where it is 1.
            create_graph: Record the backward pass, so that the gradients can be differentiated.
            retain_graph: Keep the graph for another backward pass (default: ``create_graph``).

        Raises:
            GradientError: If this tensor has no graph, the graph was freed, or ``gradient`` is
                missing.
        """
        seed = _seed_gradient(self, gradient)
        keep = create_graph if retain_graph is None else retain_graph
        with self.backend.session(), _grad_mode(create_graph):
            shared = {id(_memory(seed))}
            for leaf, grad in _backpropagate([self], [seed], keep, None).values():
                leaf.grad = _own(grad, shared) if leaf.grad is None else leaf.grad + grad
                leaf.grad.is_state = True

    __hash__ = object.__hash__

    if TYPE_CHECKING:  # operators and methods that tinynn.functional.operators installs

        def __add__(self, other: Operand) -> Tensor: ...

        __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = __add__
        __pow__ = __rpow__ = __matmul__ = __rmatmul__ = __and__ = __or__ = __xor__ = __add__

        def __iadd__(self, other: Operand) -> Self: ...

        __isub__ = __imul__ = __itruediv__ = __ipow__ = __imatmul__ = __iadd__

        def __eq__(self, other: object) -> Tensor: ...  # type: ignore[override]

        __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __eq__  # type: ignore[assignment]

        def __neg__(self) -> Tensor: ...

        __invert__ = __abs__ = exp = log = sqrt = abs = __neg__

        T: Tensor

        def __getitem__(self, index: Any) -> Tensor: ...

        def __setitem__(self, index: Any, value: Operand) -> None: ...

        def __iter__(self) -> Iterator[Tensor]: ...

        def sum(self, axis: Axis = None, keepdims: bool = False) -> Tensor: ...

        mean = max = min = sum

        def var(self, axis: Axis = None, keepdims: bool = False, correction: int = 0) -> Tensor: ...

        std = var

        def argmax(self, axis: int | None = None) -> Tensor: ...

        argmin = argmax

        def clip(self, low: float | None = None, high: float | None = None) -> Tensor: ...

        def reshape(self, *shape: Any) -> Tensor: ...

        permute = reshape

        def flatten(self, start_axis: int = 0) -> Tensor: ...

        def squeeze(self, axis: Axis = None) -> Tensor: ...

        def unsqueeze(self, axis: int) -> Tensor: ...


# -- the computational graph ----------------------------------------------------------------------

_CAST = "astype"  # the one function whose result may be wider than its input


class Node:
    """One recorded function call: its name and the inputs that require a gradient.

    Each input is paired with its VJP or, after ``record_jointly``, with its position. ``inputs`` is
    None once a backward pass has freed the node.
    """

    __slots__ = ("inputs", "jointly", "name", "order", "output")

    def __init__(self, name: str, inputs: _Inputs) -> None:
        self.name = name
        self.order = next(clock)  # a node is always newer than the nodes of its inputs
        self.inputs: _Inputs | None = inputs
        self.output: Array | None = None  # for VJPs that take the output
        self.jointly: tuple[Callable[..., Sequence[Any]], int] | None = None

    def vjps(self, grad: Tensor, inputs: _Inputs) -> list[Tensor]:
        """The gradients of ``inputs``, given the gradient of the output."""
        if self.jointly is not None:
            function, count = self.jointly
            positions = [position for _, position in inputs]
            grads = function(grad, tuple([i in positions for i in range(count)]))
            return [grads[position] for position in positions]
        if self.output is None:
            return [vjp(grad) for _, vjp in inputs]
        output = Tensor(self.output)
        output.requires_grad, output._node = True, self
        return [vjp(grad, output) for _, vjp in inputs]

    def free(self) -> None:
        """Drop the inputs and everything that the VJPs captured."""
        self.inputs = self.output = self.jointly = None


def record(name: str, data: Array, *inputs: tuple[Any, VJP]) -> Tensor:
    """Wrap the output array of a differentiable function and add a node to the graph.

    A new differentiable function is its forward pass and one VJP per input, written with tensors:

        from tinynn.autograd import record
        from tinynn.functional.operands import as_tensor

        def cube(x):
            x = as_tensor("cube", x)
            return record("cube", x.data ** 3, (x, lambda grad: grad * (3 * x * x)))

    Inputs that need no gradient are dropped at once, and with them what their VJPs captured. Python
    numbers and None are allowed as inputs and dropped likewise. A VJP captures the tensors whose
    values it needs, not their arrays, so that a change in place before ``backward`` is an error.

    Args:
        name: The function's name, for error messages and traces.
        data: The output, computed from the inputs' ``data``.
        *inputs: Pairs ``(tensor, vjp)``; ``vjp(grad)`` maps the gradient of the output to the
            gradient of that tensor, of the tensor's shape and dtype.

    Raises:
        DtypeError: If ``data`` is wider than a floating-point input: models keep their dtype.
    """
    backend = backend_of(data)
    if backend is None:  # reductions of NumPy return scalars
        data = np.asarray(data)
        backend = Tensor(data).backend
    result = Tensor.__new__(Tensor)  # without __init__ and its checks: every operation ends here
    result.data, result.backend = data, backend
    result.grad = result.origin = result._node = result._changes = None
    result.requires_grad = result.is_state = False
    dtype, base, needed = data.dtype, data.base, []
    for pair in inputs:
        source = pair[0]
        if isinstance(source, Tensor):
            array = source.data
            if array.dtype is not dtype:
                _check_promotion(name, array.dtype, dtype)
            if data is array or (base is not None and (base is array or base is array.base)):
                share_changes(result, source)
            if source.requires_grad:
                needed.append(pair)
    if needed and _recording.innermost.get()[0]:  # get(), without a Python call
        result.requires_grad, result._node = True, Node(name, needed)
        if len(needed) < len(inputs):
            changes.follow_constants(inputs)
    tracer = tracing.active
    if tracer is not None:
        node = result._node
        tracer.recorded(name, data.nbytes, None if node is None else node.order)
    return result


def record_with_output(name: str, data: Array, *inputs: tuple[Any, VJP]) -> Tensor:
    """Like ``record``, for VJPs that use the output: ``vjp(grad, out)``.

    A VJP must not capture the output itself: node and tensor would keep each other alive.

    Example:
        >>> def exp(x):
        ...     return record_with_output("exp", np.exp(x.data), (x, lambda grad, out: grad * out))
    """
    result = record(name, data, *inputs)
    if result._node is not None:
        result._node.output = result.data
    return result


def record_jointly(
    name: str, data: Array, tensors: Sequence[Any], vjps: Callable[..., Sequence[Any]]
) -> Tensor:
    """Like ``record``, for inputs whose gradients share work.

    ``vjps(grad, needs_grad)`` returns one gradient for each of ``tensors``; ``needs_grad`` has a
    bool for each, and where it is False anything may be returned.
    """
    positions: list[tuple[Any, Any]] = [(tensor, i) for i, tensor in enumerate(tensors)]
    result = record(name, data, *positions)
    if result._node is not None:
        result._node.jointly = (vjps, len(tensors))
    return result


def _check_promotion(name: str, source: np.dtype[Any], dtype: np.dtype[Any]) -> None:
    if dtype.kind == source.kind == "f" and source.itemsize < dtype.itemsize and name != _CAST:
        raise DtypeError(
            f"{name} would widen {source} to {dtype}: this is a bug in the function; a model keeps "
            "its dtype"
        )


# -- grad mode ------------------------------------------------------------------------------------


_recording = Scoped("recording", True)


def is_grad_enabled() -> bool:
    """Whether functions called on this thread are recorded."""
    return _recording.innermost.get()[0]


def _grad_mode(recording: bool) -> Block[bool]:
    """A context manager and decorator that switches recording on or off for this thread."""
    return _recording.block(lambda before: recording)


def no_grad(function: Callable[..., Any] | None = None) -> Any:
    """A context manager, or decorator, in which this thread records nothing.

    A decorated generator records nothing between its yields; the loop over it is not affected.

    Example:
        >>> with tinynn.no_grad():
        ...     scores = model(images)
    """
    return _grad_mode(False) if function is None else _grad_mode(False)(function)


def enable_grad(function: Callable[..., Any] | None = None) -> Any:
    """A context manager, or decorator, in which functions are recorded, even inside ``no_grad``."""
    return _grad_mode(True) if function is None else _grad_mode(True)(function)


# -- backward pass --------------------------------------------------------------------------------


def grad(
    outputs: Tensor | Sequence[Tensor],
    inputs: Tensor | Sequence[Tensor],
    grad_outputs: Tensor | Sequence[Tensor] | None = None,
    *,
    create_graph: bool = False,
    retain_graph: bool | None = None,
    allow_unused: bool = False,
) -> Any:
    """The gradients of ``outputs`` with respect to ``inputs``; no ``.grad`` is changed.

    Args:
        outputs: One tensor or several, whose gradients add up.
        inputs: The tensors to differentiate with respect to; need not be leaves.
        grad_outputs: The upstream gradients; may be omitted for outputs with one element.
        create_graph: Record the backward pass, for derivatives of higher order.
        retain_graph: Keep the graph for another backward pass (default: ``create_graph``).
        allow_unused: Return None for an input that the outputs do not depend on.

    Returns:
        One tensor for one input, a tuple for a sequence.

    Raises:
        ArgumentError: If there is no output.
        GradientError: If an input does not require grad, or is unused without ``allow_unused``.

    Example:
        >>> slope = tinynn.grad(x**3, x, create_graph=True)
        >>> curvature = tinynn.grad(slope, x)
    """
    single = isinstance(inputs, Tensor)
    sources, targets = _tensors("outputs", outputs), _tensors("inputs", inputs)
    if not sources:
        raise ArgumentError("grad expects at least one output, got none")
    if grad_outputs is None or isinstance(grad_outputs, Tensor):
        given: Sequence[Any] = [grad_outputs] * len(sources)
    else:
        given = list(grad_outputs) if is_sequence(grad_outputs) else []
    if len(given) != len(sources):
        raise ArgumentError(f"grad expects {len(sources)} grad_outputs, got {len(given)}")
    for tensor in targets:
        if not tensor.requires_grad:
            raise GradientError(f"grad: an input of shape {tensor.shape} does not require grad")
    seeds = [_seed_gradient(o, g) for o, g in zip(sources, given, strict=True)]
    keep = create_graph if retain_graph is None else retain_graph
    with sources[0].backend.session(), _grad_mode(create_graph):
        found = _backpropagate(sources, seeds, keep, targets)
    results = tuple([found.get(_key(tensor), (None, None))[1] for tensor in targets])
    unused = [t.shape for t, result in zip(targets, results, strict=True) if result is None]
    if unused and not allow_unused:
        raise GradientError(
            f"grad: the outputs do not depend on the inputs of shapes {unused}; "
            "allow_unused=True returns None for them"
        )
    return results[0] if single else results


def _tensors(what: str, value: Any) -> list[Tensor]:
    """One tensor or several, as a list."""
    if isinstance(value, Tensor) or not is_sequence(value):
        value = [value]
    found = list(value)
    for tensor in found:
        if not isinstance(tensor, Tensor):
            raise ArgumentError(f"grad expects tensors as {what}, got {type(tensor).__name__}")
    return found


def _seed_gradient(output: Tensor, gradient: Tensor | None) -> Tensor:
    """The gradient that the backward pass starts from."""
    if not output.requires_grad:
        raise GradientError(
            "backward expects a tensor that was computed from one with requires_grad=True, got "
            f"one of shape {output.shape} without a graph (computed under no_grad, or detached?)"
        )
    if gradient is None:
        if output.data.size != 1:
            raise GradientError(
                f"backward from a tensor of shape {output.shape} needs a gradient of that shape; "
                "reduce a loss to one element with .mean() or .sum()"
            )
        return Tensor(output.backend.xp.ones(output.data.shape, output.data.dtype))
    if not isinstance(gradient, Tensor) or gradient.data.shape != output.data.shape:
        got = gradient.shape if isinstance(gradient, Tensor) else type(gradient).__name__
        raise ShapeError(f"backward expects a gradient of shape {output.shape}, got {got}")
    if gradient.backend is not output.backend:
        raise DeviceError(f"backward: tensor on {output.device}, gradient on {gradient.device}")
    return gradient.astype(output.dtype)


def _own(grad: Tensor, shared: set[int]) -> Tensor:
    """A gradient that may be modified in place: a copy where other tensors share its memory."""
    memory = _memory(grad)
    if id(memory) in shared or not grad.data.flags.c_contiguous:
        memory = grad.backend.xp.array(grad.data, copy=True, order="C")
        grad = record("copy", memory, (grad, lambda grad: grad))
    shared.add(id(memory))
    return grad


def _memory(tensor: Tensor) -> Array:
    """The array that owns the memory of a tensor."""
    return tensor.data if tensor.data.base is None else tensor.data.base


def _key(tensor: Tensor) -> int:
    """The identity of a tensor in the graph: its node, or for a leaf the tensor itself."""
    return id(tensor if tensor._node is None else tensor._node)


def _backpropagate(
    outputs: Sequence[Tensor], seeds: Sequence[Tensor], keep: bool, targets: Sequence[Tensor] | None
) -> _Gradients:
    """Propagate gradients from the outputs to the leaves, or to the targets, newest node first.

    Returns tensor and gradient by key, for the leaves and the targets that were reached.
    """
    nodes = _reachable(outputs)
    final = set() if targets is None else {_key(tensor) for tensor in targets}
    useful = None if targets is None else _leading_to(final, nodes)
    found: _Gradients = {}
    for output, seed in zip(outputs, seeds, strict=True):
        _accumulate(found, output, seed)
    for node in reversed(nodes):
        key = id(node)
        if key not in found:
            continue
        # a node's gradient is complete: every node that uses its output is newer
        grad = found[key][1] if key in final else found.pop(key)[1]
        inputs = node.inputs or ()
        if useful is not None:
            inputs = [pair for pair in inputs if _key(pair[0]) in useful]
        if not inputs:
            continue
        tracer = tracing.active
        if tracer is None:
            _visit(node, grad, inputs, found)
        else:
            with tracer.span(f"{node.name} backward", node.order):
                _visit(node, grad, inputs, found)
        if not keep:
            node.free()
    return found


def _visit(node: Node, grad: Tensor, inputs: _Inputs, found: _Gradients) -> None:
    """Compute the gradients of a node's inputs and add them to those found so far."""
    if changes.latest > node.order:
        vjps = [vjp for _, vjp in inputs] if node.jointly is None else [node.jointly[0]]
        changes.check_unchanged(node.name, node.order, vjps, Tensor)
    for (source, _), product in zip(inputs, node.vjps(grad, inputs), strict=True):
        if not isinstance(product, Tensor):
            raise GradientError(
                f"the gradient of {node.name} should be a tensor, got {type(product).__name__}: "
                "this is a bug in its VJP"
            )
        if product.data.shape != source.data.shape or product.data.dtype != source.data.dtype:
            raise GradientError(
                f"the gradient of {node.name} should be {source.dtype} {source.shape}, got "
                f"{product.dtype} {product.shape}: this is a bug in its VJP"
            )
        _accumulate(found, source, product)


def _accumulate(found: _Gradients, tensor: Tensor, grad: Tensor) -> None:
    """Add a gradient to the sum over the tensor's other uses."""
    key = id(tensor if tensor._node is None else tensor._node)
    if key in found:
        grad = found[key][1] + grad
    found[key] = (tensor, grad)


def _reachable(outputs: Sequence[Tensor]) -> list[Node]:
    """All nodes that the outputs depend on, oldest first; without recursion, for deep graphs."""
    seen: dict[int, Node] = {}
    stack = [output._node for output in outputs if output._node is not None]
    while stack:
        node = stack.pop()
        if id(node) in seen:
            continue
        if node.inputs is None:
            raise GradientError(
                f"backward a second time through {node.name}, whose graph was freed by the first: "
                "call the first with retain_graph=True, or compute the tensor again"
            )
        seen[id(node)] = node
        for tensor, _ in node.inputs:
            if tensor._node is not None:
                stack.append(tensor._node)
    return sorted(seen.values(), key=attrgetter("order"))


def _leading_to(targets: set[int], nodes: Sequence[Node]) -> set[int]:
    """The keys between the outputs and the targets: no other VJP is computed."""
    useful = set(targets)
    for node in nodes:
        if any(_key(tensor) in useful for tensor, _ in node.inputs or ()):
            useful.add(id(node))
    return useful
