"""Functions of two operands that broadcast: arithmetic, comparison, choice."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from tinynn.autograd import Tensor, record
from tinynn.backend import Backend
from tinynn.errors import DtypeError, ShapeError
from tinynn.functional.operands import Operand, as_tensor, operands, raw, same_device, sum_to


def _backend(a: Any, b: Any) -> Backend:
    backend: Backend = (a if isinstance(a, Tensor) else b).backend
    return backend


def _broadcast(name: str, a: Any, b: Any) -> Any:
    """The function of that name of two operands, with an error where they do not broadcast."""
    try:
        return _backend(a, b).elementwise(name, raw(a), raw(b))
    except ValueError as error:
        if isinstance(a, Tensor) and isinstance(b, Tensor):
            raise ShapeError(f"{name}: shapes {a.shape} and {b.shape} do not broadcast") from error
        raise


def add(a: Operand, b: Operand) -> Tensor:
    """a + b, elementwise with broadcasting."""
    x, y = operands("add", a, b)
    return record(
        "add",
        _broadcast("add", x, y),
        (x, lambda grad: sum_to(grad, x.shape)),
        (y, lambda grad: sum_to(grad, y.shape)),
    )


def subtract(a: Operand, b: Operand) -> Tensor:
    """a - b, elementwise with broadcasting."""
    x, y = operands("subtract", a, b)
    return record(
        "subtract",
        _broadcast("subtract", x, y),
        (x, lambda grad: sum_to(grad, x.shape)),
        (y, lambda grad: sum_to(-grad, y.shape)),
    )


def multiply(a: Operand, b: Operand) -> Tensor:
    """a · b, elementwise with broadcasting."""
    x, y = operands("multiply", a, b)
    return record(
        "multiply",
        _broadcast("multiply", x, y),
        (x, lambda grad: sum_to(grad * y, x.shape)),
        (y, lambda grad: sum_to(grad * x, y.shape)),
    )


def divide(a: Operand, b: Operand) -> Tensor:
    """a / b, elementwise with broadcasting; integers are divided as float32."""
    x, y = operands("divide", a, b)
    if all(not isinstance(part, Tensor) or part.dtype.kind in "iub" for part in (x, y)):
        x, y = (p.astype("float32") if isinstance(p, Tensor) else p for p in (x, y))
    return record(
        "divide",
        _broadcast("divide", x, y),
        (x, lambda grad: sum_to(grad / y, x.shape)),
        (y, lambda grad: sum_to(-grad * x / (y * y), y.shape)),
    )


def power(a: Operand, b: Operand) -> Tensor:
    """a ** b, elementwise with broadcasting; the gradient in b is that of a > 0."""
    x, y = operands("power", a, b)

    def in_base(grad: Tensor) -> Tensor:
        if isinstance(y, (int, float)) and y == 0:
            return grad * 0.0
        return sum_to(grad * (y * power(x, y - 1)), x.shape)

    def in_exponent(grad: Tensor) -> Tensor:
        logarithm = log_where_positive(x) if isinstance(x, Tensor) else float(np.log(x))
        return sum_to(grad * power(x, y) * logarithm, y.shape)

    return record(
        "power",
        _broadcast("power", x, y),
        (x, in_base),
        (y, in_exponent),
    )


def log_where_positive(x: Tensor) -> Tensor:
    """log(x) where x > 0, else 0."""
    positive = x > 0
    return where(positive, where(positive, x, 1.0).log(), 0.0)


def negative(x: Operand) -> Tensor:
    """-x."""
    x = as_tensor("negative", x)
    return record("negative", x.backend.elementwise("negative", x.data), (x, lambda grad: -grad))


def maximum(a: Operand, b: Operand) -> Tensor:
    """The larger of a and b, elementwise; equal ones share the gradient."""
    return _extreme("maximum", a, b, operator.gt)


def minimum(a: Operand, b: Operand) -> Tensor:
    """The smaller of a and b, elementwise; equal ones share the gradient."""
    return _extreme("minimum", a, b, operator.lt)


def _extreme(name: str, a: Operand, b: Operand, wins: Callable[[Any, Any], Any]) -> Tensor:
    x, y = operands(name, a, b)

    def share(own: Any, other: Any) -> Callable[[Tensor], Tensor]:
        def vjp(grad: Tensor) -> Tensor:
            won, tied = wins(raw(own), raw(other)), raw(own) == raw(other)
            return sum_to(grad * (won + 0.5 * tied).astype(grad.dtype), own.shape)

        return vjp

    out = _broadcast(name, x, y)
    return record(name, out, (x, share(x, y)), (y, share(y, x)))


def where(condition: Operand, a: Operand, b: Operand) -> Tensor:
    """a where the condition holds, else b; all three broadcast."""
    condition = as_tensor("where", condition)
    if condition.dtype.kind != "b":
        raise DtypeError(f"where expects a boolean condition, got {condition.dtype}")
    if not isinstance(a, Tensor) and not isinstance(b, Tensor):
        a = Tensor(condition.backend.from_host(as_tensor("where", a).data))
    x, y = operands("where", a, b)
    tensors = [part for part in (x, y) if isinstance(part, Tensor)]
    same_device("where", condition, *tensors)
    mask = condition.data
    try:
        out = condition.backend.xp.where(mask, raw(x), raw(y)).astype(tensors[0].dtype, copy=False)
    except ValueError as error:
        shapes = [part.shape for part in (condition, *tensors)]
        raise ShapeError(f"where: shapes {shapes} do not broadcast") from error
    return record(
        "where",
        out,
        (x, lambda grad: sum_to(where(condition, grad, 0.0), x.shape)),
        (y, lambda grad: sum_to(where(condition, 0.0, grad), y.shape)),
    )


# -- comparison and logic: boolean tensors, without gradients --------------------------------------


def _compare(name: str, a: Operand, b: Operand) -> Tensor:
    x, y = operands(name, a, b)
    out = _broadcast(name, x, y)
    return Tensor(_backend(x, y).xp.asarray(out))


def less(a: Operand, b: Operand) -> Tensor:
    """Where a < b, with broadcasting."""
    return _compare("less", a, b)


def less_equal(a: Operand, b: Operand) -> Tensor:
    """Where a <= b, with broadcasting."""
    return _compare("less_equal", a, b)


def greater(a: Operand, b: Operand) -> Tensor:
    """Where a > b, with broadcasting."""
    return _compare("greater", a, b)


def greater_equal(a: Operand, b: Operand) -> Tensor:
    """Where a >= b, with broadcasting."""
    return _compare("greater_equal", a, b)


def equal(a: Operand, b: Operand) -> Tensor:
    """Where a == b, with broadcasting."""
    return _compare("equal", a, b)


def not_equal(a: Operand, b: Operand) -> Tensor:
    """Where a != b, with broadcasting."""
    return _compare("not_equal", a, b)


def _combine(name: str, a: Operand, b: Operand) -> Tensor:
    for mask in (a, b):
        _check_mask(name, mask)
    return _compare(name, a, b)


def _check_mask(name: str, x: Any) -> None:
    if not isinstance(x, bool) and getattr(x, "dtype", None) != np.bool_:
        came = getattr(x, "dtype", type(x).__name__)
        raise DtypeError(f"{name} expects boolean tensors, got {came}; compare first, as in x > 0")


def logical_and(a: Operand, b: Operand) -> Tensor:
    """Where both a and b hold, with broadcasting."""
    return _combine("logical_and", a, b)


def logical_or(a: Operand, b: Operand) -> Tensor:
    """Where a or b holds, or both, with broadcasting."""
    return _combine("logical_or", a, b)


def logical_xor(a: Operand, b: Operand) -> Tensor:
    """Where either a or b holds, and not both, with broadcasting."""
    return _combine("logical_xor", a, b)


def logical_not(x: Operand) -> Tensor:
    """Where x does not hold."""
    x = as_tensor("logical_not", x)
    _check_mask("logical_not", x)
    return Tensor(x.backend.xp.asarray(x.backend.xp.logical_not(x.data)))
