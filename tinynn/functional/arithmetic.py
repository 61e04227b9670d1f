"""Binary functions with broadcasting: arithmetic, comparison, logic, ``where``."""

from __future__ import annotations

import math
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
    x, y, out, p, q = broadcast("add", a, b)
    return record("add", out, (x, lambda g: sum_to(g, p)), (y, lambda g: sum_to(g, q)))


def subtract(a: Operand, b: Operand) -> Tensor:
    """a - b, elementwise with broadcasting."""
    x, y, out, p, q = broadcast("subtract", a, b)
    return record("subtract", out, (x, lambda g: sum_to(g, p)), (y, lambda g: sum_to(-g, q)))


def multiply(a: Operand, b: Operand) -> Tensor:
    """a · b, elementwise with broadcasting."""
    x, y, out, p, q = broadcast("multiply", a, b)
    return record("multiply", out, (x, lambda g: sum_to(g * y, p)), (y, lambda g: sum_to(g * x, q)))


def divide(a: Operand, b: Operand) -> Tensor:
    """a / b, elementwise with broadcasting; integers are divided as float32."""
    a, b = promote("divide", a, b)
    if all(not isinstance(part, Tensor) or part.dtype.kind != "f" for part in (a, b)):
        a, b = (part.astype("float32") if isinstance(part, Tensor) else part for part in (a, b))
    x, y, out, p, q = broadcast("divide", a, b)
    return record(
        "divide",
        out,
        (x, lambda g: sum_to(g / y, p)),
        (y, lambda g: sum_to(-g / y * (x / y), q)),  # y² may overflow
    )


def power(a: Operand, b: Operand) -> Tensor:
    """a ** b, elementwise with broadcasting.

    The gradient with respect to a is 0 where a and b are 0. The gradient with respect to b is
    computed where a > 0, and 0 elsewhere.
    """
    x, y, out, p, q = broadcast("power", a, b)

    def base_vjp(grad: Tensor) -> Tensor:
        if isinstance(y, Tensor):
            exponent: Any = where(logical_and(x == 0, y == 0), 0.0, y - 1)
        elif y:
            exponent = y - 1
        else:
            return Tensor(grad.backend.xp.zeros_like(grad.data))
        return sum_to(grad * (y * power(x, exponent)), p)

    def exponent_vjp(grad: Tensor) -> Tensor:
        base: Any = where(x > 0, x, 1.0) if isinstance(x, Tensor) else x if x > 0 else 1.0
        logarithm = base.log() if isinstance(base, Tensor) else math.log(base)
        return sum_to(grad * power(base, y) * logarithm, q)

    return record("power", out, (x, base_vjp), (y, exponent_vjp))


def negative(x: Operand) -> Tensor:
    """-x."""
    x = as_tensor("negative", x)
    if x.dtype.kind == "b":
        raise DtypeError("negative expects numbers, got bool; logical_not, or ~x, inverts booleans")
    return record("negative", x.backend.elementwise("negative", x.data), (x, lambda grad: -grad))


def maximum(a: Operand, b: Operand) -> Tensor:
    """The larger of a and b, elementwise; where they are equal, each gets half the gradient."""
    return _extreme("maximum", a, b, operator.gt)


def minimum(a: Operand, b: Operand) -> Tensor:
    """The smaller of a and b, elementwise; where they are equal, each gets half the gradient."""
    return _extreme("minimum", a, b, operator.lt)


def _extreme(name: str, a: Operand, b: Operand, wins: Callable[[Any, Any], Any]) -> Tensor:
    x, y, out, _, _ = broadcast(name, a, b)

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
    p, q = (getattr(part, "shape", ()) for part in (x, y))
    return record(
        "where",
        out.astype(tensors[0].dtype, copy=False),
        (x, lambda grad: sum_to(where(condition, grad, 0.0), p)),
        (y, lambda grad: sum_to(where(condition, 0.0, grad), q)),
    )


# -- comparison and logic: boolean tensors, without gradients --------------------------------------


def _compare(name: str, a: Operand, b: Operand) -> Tensor:
    x, y, out, _, _ = broadcast(name, a, b)
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
