"""Operators and methods of ``Tensor``: ``a + b``, ``x.sum()``, ``np.exp(x)``.

``tinynn.autograd`` contains no mathematics, so this module installs the functions of this package.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinynn.arguments import is_sequence
from tinynn.autograd import Tensor, is_grad_enabled
from tinynn.changes import in_place, note_change, recorded_change
from tinynn.errors import InvalidIndexError
from tinynn.functional import arithmetic, elementwise, reduction, shape
from tinynn.functional.linear import matmul
from tinynn.functional.operands import as_tensor, check_same

_BINARY = {
    "add": arithmetic.add,
    "sub": arithmetic.subtract,
    "mul": arithmetic.multiply,
    "truediv": arithmetic.divide,
    "pow": arithmetic.power,
    "matmul": matmul,
    "and": arithmetic.logical_and,
    "or": arithmetic.logical_or,
    "xor": arithmetic.logical_xor,
}
_COMPARISONS = {
    "lt": arithmetic.less,
    "le": arithmetic.less_equal,
    "gt": arithmetic.greater,
    "ge": arithmetic.greater_equal,
    "eq": arithmetic.equal,
    "ne": arithmetic.not_equal,
}
_REDUCTIONS = ("argmax", "argmin", "max", "mean", "min", "std", "sum", "var")
_METHODS: dict[str, Any] = {
    "__neg__": arithmetic.negative,
    "__invert__": arithmetic.logical_not,
    "__abs__": elementwise.absolute,
    "__getitem__": shape.index,
    "__setitem__": lambda x, key, value: _assign(x, key, value),
    "__iter__": lambda x: (x[i] for i in range(len(x))),
    "T": property(shape.permute),
    "reshape": lambda x, *sizes: shape.reshape(x, _sequence(sizes)),
    "permute": lambda x, *axes: shape.permute(x, _sequence(axes)),
    **{name: getattr(elementwise, name) for name in ("abs", "clip", "exp", "log", "sqrt")},
    **{name: getattr(reduction, name) for name in _REDUCTIONS},
    **{name: getattr(shape, name) for name in ("flatten", "squeeze", "unsqueeze")},
}
_UFUNCS: dict[str, Callable[..., Tensor]] = {  # functions of the same name in NumPy
    name: function
    for name, function in (vars(arithmetic) | vars(elementwise) | {"matmul": matmul}).items()
    if isinstance(getattr(np, name, None), np.ufunc)
}


def install() -> None:
    """Give ``Tensor`` its operators and methods."""
    for name, function in _BINARY.items():
        setattr(Tensor, f"__{name}__", function)
        setattr(Tensor, f"__r{name}__", _reflected(function))
        setattr(Tensor, f"__i{name}__", in_place(name, function, _assign))
    for name, function in _COMPARISONS.items():
        setattr(Tensor, f"__{name}__", _unless_none(function))
    for name, method in _METHODS.items():
        setattr(Tensor, name, method)
    Tensor.__array_ufunc__ = _apply_ufunc  # type: ignore[attr-defined]
    Tensor.__array_function__ = _apply_function  # type: ignore[attr-defined]


def _reflected(function: Callable[[Any, Any], Tensor]) -> Callable[[Any, Any], Tensor]:
    return lambda a, b: function(b, a)


def _assign(x: Tensor, key: Any, value: Any) -> None:
    """x[key] = value, in place."""
    part = as_tensor("an assignment to elements", value)
    if not x.is_leaf or (is_grad_enabled() and (x.requires_grad or part.requires_grad)):
        raise recorded_change(x)
    check_same("an assignment to elements", x, part if part.ndim else None, floating=False)
    try:
        key = shape.array_key(x, key)
        x.data[key] = part.data if part.ndim else part.item()
        x.backend.check_index(x.data, key)
    except (IndexError, TypeError, ValueError) as error:
        text = f"assignment to elements of a tensor of shape {x.shape}: {error}"
        raise InvalidIndexError(text) from None
    note_change(x)


def _unless_none(compare: Callable[[Any, Any], Tensor]) -> Callable[[Any, Any], Any]:
    """A comparison that leaves ``x == None`` to Python."""
    return lambda a, b: NotImplemented if b is None else compare(a, b)


def _sequence(arguments: tuple[Any, ...]) -> Any:
    """reshape(2, 3) and reshape((2, 3)) are equivalent."""
    single = len(arguments) == 1 and is_sequence(arguments[0])
    return arguments[0] if single else arguments


def _apply_ufunc(self: Tensor, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Tensor:
    """np.exp(x) and array * x: the differentiable function of that name, if there is one."""
    function = _UFUNCS.get(ufunc.__name__)
    if method != "__call__" or options or function is None:
        raise TypeError(
            f"np.{ufunc.__name__} has no differentiable counterpart for tensors in this form; "
            "use tinynn.functional, or x.numpy() to leave the graph"
        )
    return function(*inputs)


def _apply_function(
    self: Tensor, function: Any, types: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """np.concatenate([x, y]) and the like: plain NumPy, unless that would lose a gradient."""
    return function(*_as_arrays(args, function), **_as_arrays(kwargs, function))


def _as_arrays(value: Any, function: Any) -> Any:
    """The arguments with arrays in place of tensors."""
    if isinstance(value, dict):
        return {key: _as_arrays(part, function) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_as_arrays(part, function) for part in value)
    if not isinstance(value, Tensor):
        return value
    if value.requires_grad:
        raise TypeError(
            f"np.{function.__name__} would leave the graph and lose the gradient: use "
            "tinynn.functional, or x.numpy() to leave it on purpose"
        )
    return np.asarray(value)
