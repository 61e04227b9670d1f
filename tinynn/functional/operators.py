"""What makes ``a + b`` and ``x.sum()`` work: functions as operators and methods of ``Tensor``.

The floor of tensors knows no mathematics, so its operators are put in place from up here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tinynn.autograd import Tensor
from tinynn.functional import arithmetic, elementwise, linear, reduction, shape

_Binary = Callable[[Any, Any], Tensor]


def _swapped(function: _Binary) -> _Binary:
    return lambda a, b: function(b, a)


def _sizes(arguments: tuple[Any, ...]) -> Any:
    """reshape(2, 3) and reshape((2, 3)) mean the same."""
    return (
        arguments[0]
        if len(arguments) == 1 and isinstance(arguments[0], (tuple, list))
        else arguments
    )


def _iterate(x: Tensor) -> Iterator[Tensor]:
    return (x[i] for i in range(len(x)))


def _apply_ufunc(self: Tensor, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Tensor:
    """np.exp(x) and array * x: the differentiable function of the same name, if there is one."""
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
    found = [x for x in _flat((args, kwargs)) if isinstance(x, Tensor)]
    if any(tensor.requires_grad for tensor in found):
        raise TypeError(
            f"np.{function.__name__} would leave the graph and lose the gradient: use "
            "tinynn.functional, or x.numpy() to leave it on purpose"
        )
    return function(*_as_arrays(args), **_as_arrays(kwargs))


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, (list, tuple, dict)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _flat(part)
    else:
        yield value


def _as_arrays(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _as_arrays(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_as_arrays(part) for part in value)
    return np.asarray(value) if isinstance(value, Tensor) else value


def _or_not(compare: _Binary) -> Callable[[Any, Any], Any]:
    """A comparison that leaves it to Python to compare a tensor with None."""
    return lambda a, b: NotImplemented if b is None else compare(a, b)


_ARITHMETIC: dict[str, _Binary] = {
    "add": arithmetic.add,
    "sub": arithmetic.subtract,
    "mul": arithmetic.multiply,
    "truediv": arithmetic.divide,
    "pow": arithmetic.power,
    "matmul": linear.matmul,
}
_LOGICAL: dict[str, _Binary] = {
    "and": arithmetic.logical_and,
    "or": arithmetic.logical_or,
    "xor": arithmetic.logical_xor,
}
_COMPARISONS: dict[str, _Binary] = {
    "lt": arithmetic.less,
    "le": arithmetic.less_equal,
    "gt": arithmetic.greater,
    "ge": arithmetic.greater_equal,
    "eq": arithmetic.equal,
    "ne": arithmetic.not_equal,
}
_UFUNCS: dict[str, Callable[..., Tensor]] = {
    name: getattr(module, name)
    for module, names in (
        (arithmetic, ("add", "subtract", "multiply", "divide", "power", "negative")),
        (arithmetic, ("maximum", "minimum", "equal", "not_equal")),
        (arithmetic, ("less", "less_equal", "greater", "greater_equal")),
        (arithmetic, ("logical_and", "logical_or", "logical_xor", "logical_not")),
        (elementwise, ("absolute", "exp", "log", "sqrt", "square", "sin", "cos", "tanh")),
        (linear, ("matmul",)),
    )
    for name in names
}
_METHODS: dict[str, Callable[..., Any]] = {
    "__neg__": arithmetic.negative,
    "__invert__": arithmetic.logical_not,
    "__abs__": elementwise.absolute,
    "__getitem__": shape.index,
    "__iter__": _iterate,
    "__array_ufunc__": _apply_ufunc,
    "__array_function__": _apply_function,
    "T": property(shape.permute),  # type: ignore[dict-item]
    "abs": elementwise.absolute,
    "exp": elementwise.exp,
    "log": elementwise.log,
    "sqrt": elementwise.sqrt,
    "clip": elementwise.clip,
    "sum": reduction.sum,
    "mean": reduction.mean,
    "max": reduction.max,
    "min": reduction.min,
    "var": reduction.var,
    "std": reduction.std,
    "argmax": reduction.argmax,
    "argmin": reduction.argmin,
    "reshape": lambda x, *sizes: shape.reshape(x, _sizes(sizes)),
    "permute": lambda x, *axes: shape.permute(x, _sizes(axes)),
    "flatten": shape.flatten,
    "squeeze": shape.squeeze,
    "unsqueeze": shape.unsqueeze,
}


def install() -> None:
    """Give ``Tensor`` its operators and methods."""
    for name, function in (_ARITHMETIC | _LOGICAL).items():
        setattr(Tensor, f"__{name}__", function)
        setattr(Tensor, f"__r{name}__", _swapped(function))
    for name, function in _COMPARISONS.items():
        setattr(Tensor, f"__{name}__", _or_not(function))
    for name, function in _METHODS.items():
        setattr(Tensor, name, function)
