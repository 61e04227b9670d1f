"""``Module``, the base class of layers and models.

Parameters and children are found by walking plain attributes; nothing is registered. A
``Parameter`` is a parameter, any other tensor a buffer (unless its name starts with an underscore),
and a module is a child; lists, tuples and dicts of them are searched, too. A path such as
``features.0.weight`` names a parameter in errors, files and optimizers.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Self, TypeVar

import numpy as np

from tinynn.arguments import flag, real_dtype, refuse_masked
from tinynn.autograd import Tensor
from tinynn.backend import Array, backend_of, get_backend, tracing
from tinynn.changes import note_change, share_changes
from tinynn.errors import ArgumentError, DtypeError, FileFormatError, TinynnError
from tinynn.scoped import Scoped

__all__ = ["Module", "Parameter"]

T = TypeVar("T")
ForwardHook = Callable[["Module", tuple[Any, ...], Any], Any]


class Parameter(Tensor):
    """A tensor that is trained: optimizers update it. A read-only array is copied."""

    __slots__ = ()

    def __init__(self, data: Array | Tensor, requires_grad: bool = True) -> None:
        super().__init__(data.data if isinstance(data, Tensor) else data, requires_grad)
        self.is_state = True
        if not getattr(self.data.flags, "writeable", True):
            self.data = self.data.copy()
        if isinstance(data, Tensor):
            share_changes(self, data)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "data" and backend_of(value) is None:
            raise ArgumentError(
                f"data of a parameter is a NumPy or CuPy array, got {type(value).__name__}; to "
                "change values, write p[...] = value within no_grad()"
            )
        super().__setattr__(name, value)


class Module:
    """Base class of all layers and models.

    Subclass it, assign parameters and children to attributes in ``__init__``, and define
    ``forward``.

    Example:
        >>> class Block(nn.Module):
        ...     def __init__(self, channels):
        ...         self.conv = nn.Conv2d(channels, channels, 3, padding="same")
        ...
        ...     def forward(self, x):
        ...         return F.relu(x + self.conv(x))
        >>> block = Block(8)
        >>> [path for path, _ in block.named_parameters()]
        ['conv.weight', 'conv.bias']
        >>> block(tinynn.ones((1, 5, 5, 8))).shape
        (1, 5, 5, 8)
    """

    __slots__ = ("__dict__", "__weakref__", "_arguments", "_forward_hooks")

    _arguments: tuple[tuple[Any, ...], dict[str, Any]]
    _forward_hooks: dict[object, ForwardHook]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        self = super().__new__(cls)
        self._arguments = (args, kwargs)  # shown by repr, stored in files
        self._forward_hooks = {}
        return self

    def __getstate__(self) -> Any:
        state: Any = super().__getstate__()
        return {**(state[0] or {}), "training": self.training}, state[1]

    def __setattr__(self, name: str, value: Any) -> None:
        held = vars(self).get(name)
        if isinstance(held, Tensor) and value is not held:
            _check_replacement(self, name, held, value)
        super().__setattr__(name, value)

    def forward(self, *inputs: Any) -> Any:
        """Compute the output. Subclasses define it; users call the module itself."""
        raise TypeError(f"{type(self).__name__} has no forward(); a module must define one")

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        trail = _calls.trail
        if trail is not None:
            return self._run(trail, inputs, options)
        _calls.trail = trail = []
        try:
            with self._session(inputs):
                return self._run(trail, inputs, options)
        except Exception as error:
            _explain(error, self, trail, inputs)
            raise
        finally:
            _calls.trail = None

    def _session(self, inputs: tuple[Any, ...]) -> AbstractContextManager[None]:
        """The session of the device of the inputs, or else of the parameters."""
        for value in inputs:
            if isinstance(value, Tensor):
                return value.backend.session()
        _, first = next(self._named_tensors(), ("", None))
        return nullcontext() if first is None else first.backend.session()

    def _run(self, trail: list[_Step], inputs: tuple[Any, ...], options: dict[str, Any]) -> Any:
        try:
            tracer = tracing.active
            if tracer is None:
                output = self.forward(*inputs, **options)
            else:
                output = tracer.call((self,), self.forward, *inputs, **options)
            if self._forward_hooks or _observers.innermost.get()[0]:
                for hook in self._hooks():
                    changed = hook(self, inputs, output)
                    output = output if changed is None else changed
        except Exception as error:
            if not hasattr(error, "module"):
                error.module = self  # type: ignore[attr-defined]
                error.input_shapes = _shapes(inputs)  # type: ignore[attr-defined]
            raise
        trail.append(((self,), _shape(output)))
        return output

    @property
    def is_observed(self) -> bool:
        """Whether the module has a forward hook: then it is not fused with its neighbors."""
        return bool(self._forward_hooks) or id(self) in _observers.innermost.get()[0]

    def _hooks(self) -> list[ForwardHook]:
        hooks = list(self._forward_hooks.values())
        observer = _observers.get().get(id(self))
        return hooks if observer is None else [*hooks, observer]

    def register_forward_hook(self, hook: ForwardHook) -> Callable[[], object]:
        """Call ``hook(module, inputs, output)`` after every forward pass of this module.

        A result other than None replaces the output. The hook is called on every thread.

        Returns:
            A function that removes the hook.
        """
        key = object()
        self._forward_hooks[key] = hook
        return partial(self._forward_hooks.pop, key, None)

    # -- children, parameters, buffers --------------------------------------------------------

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """(name, module) of each direct child, in the order of the attributes."""
        for name, value in list(vars(self).items()):  # another thread may set an attribute
            yield from _found_in(name, value, Module)

    def named_modules(self) -> Iterator[tuple[str, Module]]:
        """(path, module) of this module, whose path is "", and of all its descendants."""
        return self._walk("", ())

    def _walk(self, path: str, above: tuple[Module, ...]) -> Iterator[tuple[str, Module]]:
        if any(self is module for module in above):
            raise ArgumentError(f"the module at {path!r} contains itself as a descendant")
        yield path, self
        for name, child in self.named_children():
            yield from child._walk(f"{path}.{name}" if path else name, (*above, self))

    def modules(self) -> Iterator[Module]:
        """This module and all its descendants."""
        return (module for _, module in self.named_modules())

    def _named_tensors(self) -> Iterator[tuple[str, Tensor]]:
        for path, module in self.named_modules():
            for name, value in list(vars(module).items()):
                for inner, tensor in _found_in(name, value, Tensor):
                    if isinstance(tensor, Parameter) or not name.startswith("_"):
                        tensor.is_state = True
                        yield f"{path}.{inner}" if path else inner, tensor

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """(path, parameter) of each parameter, once, in the order of the attributes."""
        seen: set[int] = set()
        for path, tensor in self._named_tensors():
            if isinstance(tensor, Parameter) and id(tensor) not in seen:
                seen.add(id(tensor))
                yield path, tensor

    def parameters(self) -> Iterator[Parameter]:
        """All parameters; shared ones once."""
        return (parameter for _, parameter in self.named_parameters())

    def named_buffers(self) -> Iterator[tuple[str, Tensor]]:
        """(path, buffer) of each buffer: a tensor of the state that is not trained."""
        return ((p, t) for p, t in self._named_tensors() if not isinstance(t, Parameter))

    def num_parameters(self) -> int:
        """The number of trainable scalars."""
        return sum(parameter.size for parameter in self.parameters())

    def multiply_adds(self, output_shape: tuple[int, ...]) -> int:
        """Multiply-adds of this layer itself for an output of this shape; 0 if negligible."""
        return 0

    # -- state --------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Tensor]:
        """All parameters and buffers by path: the tensors themselves, not copies."""
        return dict(self._named_tensors())

    @np.errstate(under="ignore")  # to round to 0 is no error
    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> None:
        """Copy values into the parameters and buffers with the same paths.

        Args:
            state: Tensors or arrays by path.
            strict: Whether the paths must be equal; if not, only the common ones are loaded.

        Raises:
            FileFormatError: Lists what is missing, unexpected or of another shape or dtype; nothing
                is changed then.
        """
        own = self.state_dict()
        if not isinstance(state, Mapping):
            raise FileFormatError(f"a state has tensors or arrays by path, got {state!r:.80}")
        problems = [f"missing: {path} {own[path].shape}" for path in own if path not in state]
        problems += [f"unexpected: {path}" for path in state if path not in own]
        problems = problems if strict else []
        arrays = {path: _array(state[path]) for path in own if path in state}
        for path, array in arrays.items():
            target = own[path]
            if array.shape != target.shape:
                problems.append(f"wrong shape: {path} is {target.shape}, got {array.shape}")
            elif (array.dtype.kind == "f") != (target.dtype.kind == "f"):
                problems.append(f"wrong dtype: {path} is {target.dtype}, got {array.dtype}")
        if problems:
            raise FileFormatError(
                f"the state does not fit this {type(self).__name__}:\n  " + "\n  ".join(problems)
            )
        for path, array in arrays.items():
            own[path].data[...] = own[path].backend.from_host(array)
        note_change(*(own[path] for path in arrays))

    @property
    def training(self) -> bool:
        """Whether the module is in training mode, on this thread."""
        own: bool = vars(self).get("training", True)
        return _modes.get().get(id(self), (self, own))[1]

    @training.setter
    def training(self, mode: bool) -> None:
        modes = _modes.get()
        if id(self) in modes:  # until the end of the block, on this thread
            modes[id(self)] = (self, flag("training", mode))
        else:
            vars(self)["training"] = flag("training", mode)

    def train(self, mode: bool = True) -> Self:
        """Set training mode in all modules: dropout is active, batch norm uses the batch.

        Inside ``in_mode`` it applies until the end of the block, else to all threads. A module
        whose layers keep their mode overrides it; ``eval``, ``in_mode`` and parents call it.
        """
        self.training = mode
        for _, child in self.named_children():
            child.train(mode)
        return self

    def eval(self) -> Self:
        """Set evaluation mode in all modules."""
        return self.train(False)

    def in_mode(self, training: bool) -> AbstractContextManager[None]:
        """Context manager: training or evaluation mode of all modules, on this thread only."""

        def inside(modes: _Modes) -> _Modes:
            inner = modes | {id(module): (module, module.training) for module in self.modules()}
            with _modes.block(lambda before: inner):
                self.train(training)
            return inner

        return _modes.block(inside)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Train (True) or freeze (False) all parameters."""
        for parameter in self.parameters():
            parameter.requires_grad_(requires_grad)
        return self

    def zero_grad(self) -> None:
        """Drop the gradients of all parameters."""
        for parameter in self.parameters():
            parameter.grad = None

    def to(self, device: str) -> Self:
        """Move all parameters and buffers to a device, in place; return the module."""
        backend = get_backend(device)
        for _, tensor in self._named_tensors():
            if tensor.backend is not backend:
                tensor.data = backend.from_host(tensor.numpy())
                tensor.backend = backend
                tensor.grad = None if tensor.grad is None else tensor.grad.to(device)
                note_change(tensor)
        return self

    def astype(self, dtype: Any) -> Self:
        """Convert floating-point parameters and buffers to a dtype, in place; drops gradients."""
        dtype = real_dtype("astype", dtype)
        if dtype.kind != "f":
            raise DtypeError(f"a module has a floating-point dtype, got {dtype}")
        for _, tensor in self._named_tensors():
            if tensor.dtype.kind == "f":
                tensor.data, tensor.grad = tensor.backend.xp.asarray(tensor.data, dtype), None
                note_change(tensor)
        return self

    def __repr__(self) -> str:
        args, kwargs = self._arguments
        own = [repr(a) for a in args if not _holds_modules(a)]
        own += [f"{key}={value!r}" for key, value in kwargs.items() if not _holds_modules(value)]
        head = f"{type(self).__name__}({', '.join(own)}"
        children = [
            f"  {name}: " + repr(child).replace("\n", "\n  ")
            for name, child in self.named_children()
        ]
        return head + ("\n" + "\n".join(children) + "\n)" if children else ")")


def _found_in(name: str, value: Any, kind: type[T]) -> Iterator[tuple[str, T]]:
    """(name, object) of each instance of ``kind``: the value itself or nested in it."""
    if isinstance(value, kind):
        yield name, value
    elif isinstance(value, (list, tuple)):
        for position, item in enumerate(tuple(value)):
            yield from _found_in(f"{name}.{position}", item, kind)
    elif isinstance(value, dict):
        for key, item in list(value.items()):
            yield from _found_in(f"{name}.{key}", item, kind)


def _holds_modules(value: Any) -> bool:
    return next(_found_in("", value, Module), None) is not None


def _array(value: Any) -> np.ndarray[Any, Any]:
    if isinstance(value, Tensor):
        return value.numpy()
    refuse_masked("an array of the state", value)
    backend = backend_of(value)
    return np.asarray(value) if backend is None else backend.to_host(value)


def _check_replacement(module: Module, name: str, held: Tensor, value: Any) -> None:
    """An attribute that is part of the state stays part of it, unless it is deleted."""
    trained = isinstance(held, Parameter)
    if value is None or isinstance(value, (Module, Parameter if trained else Tensor)):
        return
    if trained or not name.startswith("_"):
        kind, accepted = ("parameter", "an nn.Parameter") if trained else ("buffer", "a Tensor")
        raise ArgumentError(
            f"{name} of {type(module).__name__} is a {kind}: it can be replaced by {accepted} or "
            f"None, got {type(value).__name__}. To change its values, write {name}[...] = array "
            "within no_grad(); to compute it from other tensors, first `del` it"
        )


# -- state of this thread --------------------------------------------------------------------------

# by id: the module, which keeps the id valid, and its mode inside the innermost ``in_mode``
_Modes = dict[int, tuple[Module, bool]]
_modes: Scoped[_Modes] = Scoped("modes", {})
_observers: Scoped[dict[int, ForwardHook]] = Scoped("observers", {})


def observe(hooks: Iterable[tuple[Module, ForwardHook]]) -> AbstractContextManager[None]:
    """A context in which modules have a forward hook on this thread, which runs after all others.

    Of several hooks for a module the first one counts. The caller keeps the modules alive.
    """
    added = {id(module): hook for module, hook in reversed(list(hooks))}
    return _observers.block(lambda before: before | added)


# -- errors that name the layer --------------------------------------------------------------------

_Step = tuple[tuple[Module, ...], Any]  # layers that ran as one function, the shape of the output


class _Calls(threading.local):
    trail: list[_Step] | None = None  # layers run so far in the outermost call


_calls = _Calls()


def note_call(modules: tuple[Module, ...], output: Any) -> None:
    """Note, for error messages, that these modules ran as one function."""
    if _calls.trail is not None:
        _calls.trail.append((modules, _shape(output)))


def _shape(value: Any) -> Any:
    return value.shape if isinstance(value, Tensor) else type(value).__name__


def _shapes(values: tuple[Any, ...]) -> str:
    return ", ".join(str(_shape(value)) for value in values)


def _explain(error: Exception, module: Module, trail: list[_Step], inputs: tuple[Any, ...]) -> None:
    """Add to the error the path of the module that raised it, and all shapes up to there."""
    culprit: Module = getattr(error, "module", module)
    paths = {id(m): path for path, m in module.named_modules()}
    path = paths.get(id(culprit), "")
    root = type(module).__name__
    where = f"in {root}.{path} ({type(culprit).__name__})" if path else f"in {root}"
    if not isinstance(error, TinynnError):
        error.add_note(where)
        return
    rows = [("input", _shapes(inputs))]
    rows += [
        (" + ".join(f"{paths.get(id(m), '?')} ({type(m).__name__})" for m in layers), str(shape))
        for layers, shape in trail
        if next(layers[0].named_children(), None) is None
    ]
    rows.append((f"{path} ({type(culprit).__name__})" if path else root, "failed here"))
    width = max(len(name) for name, _ in rows)
    steps = "\n".join(f"    {name.ljust(width)}  {shape}" for name, shape in rows)
    error.args = (f"{error}\n  {where}, which got {error.input_shapes}:\n{steps}",)  # type: ignore[attr-defined]
