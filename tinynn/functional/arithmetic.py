"""Binary functions with broadcasting: arithmetic, comparison, logic, ``where``."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from tinynn.autograd import Operand, Tensor, record
from tinynn.errors import DtypeError, ShapeError
from tinynn.functional.operands import array_of, as_tensor, broadcast, check_same, promote, sum_to

__all__ = ["add", "divide", "maximum", "minimum", "multiply", "negative", "power", "subtract"]
__all__ += ["equal", "greater", "greater_equal", "less", "less_equal", "not_equal", "where"]
__all__ += ["logical_and", "logical_not", "logical_or", "logical_xor"]


def add(a: Operand, b: Operand) -> Tensor:
    """a + b, elementwise with broadcasting."""
    x, y, out = broadcast("add", a, b)
    return record("add", out, (x, lambda g: sum_to(g, x.shape)), (y, lambda g: sum_to(g, y.shape)))


def subtract(a: Operand, b: Operand) -> Tensor:
    """a - b, elementwise with broadcasting."""
    x, y, out = broadcast("subtract", a, b)
    return record(
        "subtract", out, (x, lambda g: sum_to(g, x.shape)), (y, lambda g: sum_to(-g, y.shape))
    )


def multiply(a: Operand, b: Operand) -> Tensor:
    """a · b, elementwise with broadcasting."""
    x, y, out = broadcast("multiply", a, b)
    return record(
        "multiply",
        out,
        (x, lambda g: sum_to(g * y, x.shape)),
        (y, lambda g: sum_to(g * x, y.shape)),
    )


def divide(a: Operand, b: Operand) -> Tensor:
    """a / b, elementwise with broadcasting; integers are divided as float32."""
    a, b = promote("divide", a, b)
    if all(not isinstance(part, Tensor) or part.dtype.kind != "f" for part in (a, b)):
        a, b = (part.astype("float32") if isinstance(part, Tensor) else part for part in (a, b))
    x, y, out = broadcast("divide", a, b)
    return record(
        "divide",
        out,
        (x, lambda g: sum_to(g / y, x.shape)),
        (y, lambda g: sum_to(-g * x / (y * y), y.shape)),
    )


def power(a: Operand, b: Operand) -> Tensor:
    """a ** b, elementwise with broadcasting.

    The gradient with respect to b is computed where a > 0, and 0 elsewhere.
    """
    x, y, out = broadcast("power", a, b)

    def base_vjp(grad: Tensor) -> Tensor:
        if isinstance(y, (int, float)) and y == 0:
            return grad * 0.0
        return sum_to(grad * (y * power(x, y - 1)), x.shape)

    def exponent_vjp(grad: Tensor) -> Tensor:
        logarithm = log_where_positive(x) if isinstance(x, Tensor) else float(np.log(x))
        return sum_to(grad * power(x, y) * logarithm, y.shape)

    return record("power", out, (x, base_vjp), (y, exponent_vjp))


def log_where_positive(x: Tensor) -> Tensor:
    """log(x) where x > 0, else 0."""
    positive = x > 0
    return where(positive, where(positive, x, 1.0).log(), 0.0)


def negative(x: Operand) -> Tensor:
    """-x."""
    x = as_tensor("negative", x)
    return record("negative", x.backend.elementwise("negative", x.data), (x, lambda grad: -grad))


def maximum(a: Operand, b: Operand) -> Tensor:
    """The larger of a and b, elementwise; where they are equal, each gets half the gradient."""
    return _extreme("maximum", a, b, operator.gt)


def minimum(a: Operand, b: Operand) -> Tensor:
    """The smaller of a and b, elementwise; where they are equal, each gets half the gradient."""
    return _extreme("minimum", a, b, operator.lt)


def _extreme(name: str, a: Operand, b: Operand, wins: Callable[[Any, Any], Any]) -> Tensor:
    x, y, out = broadcast(name, a, b)

    def vjp(grad: Tensor, own: Any, other: Any) -> Tensor:
        p, q = array_of(own), array_of(other)
        share = wins(p, q) + 0.5 * (p == q)
        return sum_to(grad * share.astype(grad.dtype), own.shape)

    return record(name, out, (x, lambda grad: vjp(grad, x, y)), (y, lambda grad: vjp(grad, y, x)))


def where(condition: Operand, a: Operand, b: Operand) -> Tensor:
    """a where the condition is true, else b; all three broadcast."""
    condition = as_tensor("where", condition)
    if condition.dtype.kind != "b":
        raise DtypeError(f"where expects a boolean condition, got {condition.dtype}")
    if not isinstance(a, Tensor) and not isinstance(b, Tensor):
        a = Tensor(condition.backend.from_host(as_tensor("where", a).data))
    x, y = promote("where", a, b)
    tensors = [part for part in (x, y) if isinstance(part, Tensor)]
    check_same("where", condition, *tensors, floating=False)
    try:
        out = condition.backend.xp.where(condition.data, array_of(x), array_of(y))
    except ValueError as error:
        shapes = [part.shape for part in (condition, *tensors)]
        raise ShapeError(f"where: shapes {shapes} do not broadcast") from error
    return record(
        "where",
        out.astype(tensors[0].dtype, copy=False),
        (x, lambda grad: sum_to(where(condition, grad, 0.0), x.shape)),
        (y, lambda grad: sum_to(where(condition, 0.0, grad), y.shape)),
    )


# -- comparison and logic: boolean tensors, without gradients --------------------------------------


def _compare(name: str, a: Operand, b: Operand) -> Tensor:
    x, y, out = broadcast(name, a, b)
    backend = x.backend if isinstance(x, Tensor) else y.backend
    return Tensor(backend.xp.asarray(out))


def less(a: Operand, b: Operand) -> Tensor:
    """a < b, elementwise with broadcasting."""
    return _compare("less", a, b)


def less_equal(a: Operand, b: Operand) -> Tensor:
    """a <= b, elementwise with broadcasting."""
    return _compare("less_equal", a, b)


def greater(a: Operand, b: Operand) -> Tensor:
    """a > b, elementwise with broadcasting."""
    return _compare("greater", a, b)


def greater_equal(a: Operand, b: Operand) -> Tensor:
    """a >= b, elementwise with broadcasting."""
    return _compare("greater_equal", a, b)


def equal(a: Operand, b: Operand) -> Tensor:
    """a == b, elementwise with broadcasting."""
    return _compare("equal", a, b)


def not_equal(a: Operand, b: Operand) -> Tensor:
    """a != b, elementwise with broadcasting."""
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
    """a and b, elementwise with broadcasting."""
    return _combine("logical_and", a, b)


def logical_or(a: Operand, b: Operand) -> Tensor:
    """a or b, elementwise with broadcasting."""
    return _combine("logical_or", a, b)


def logical_xor(a: Operand, b: Operand) -> Tensor:
    """Exactly one of a and b, elementwise with broadcasting."""
    return _combine("logical_xor", a, b)


def logical_not(x: Operand) -> Tensor:
    """not x, elementwise."""
    x = as_tensor("logical_not", x)
    _check_mask("logical_not", x)
    return Tensor(x.backend.xp.asarray(x.backend.xp.logical_not(x.data)))
