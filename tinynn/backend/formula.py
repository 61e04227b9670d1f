"""Elementwise formulas, written once in NumPy's notation: NumPy computes them, CUDA compiles them.

A formula is a Python function of arrays of one shape. It may use operators (also in place, as in
``p -= g``), the functions of NumPy in the table below, ``erf``, and Python numbers. Called with
arrays, it computes. Called with a ``Symbol`` for each array, it writes C++ instead: NumPy passes
every operation on a ``Symbol`` to ``Symbol.__array_ufunc__``, which adds a statement.

    def silu(x):                          auto t0 = -x0;
        return x / (1 + np.exp(-x))       auto t1 = exp(t0);
                                          auto t2 = c0 + t1;
                                          auto t3 = x0 / t2;

A number becomes an argument of the kernel (``c0``), so a learning rate that changes with every step
does not change the code. A branch on a number, such as ``if momentum:``, is taken while tracing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from tinynn.errors import ArgumentError

Formula = Callable[..., Any]

_CPP = {  # NumPy's function: the C++ expression of its operands
    "add": "{} + {}",
    "subtract": "{} - {}",
    "multiply": "{} * {}",
    "divide": "{} / {}",
    "power": "pow({}, {})",
    "negative": "-{}",
    "square": "{0} * {0}",
    "absolute": "fabs({})",
    "sign": "{0} > 0 ? 1 : {0} < 0 ? -1 : {0}",  # 0 and NaN stay
    "less": "{} < {}",
    "less_equal": "{} <= {}",
    "greater": "{} > {}",
    "greater_equal": "{} >= {}",
    "maximum": "{0} > {1} || {0} != {0} ? {0} : {1}",  # NaN wins, as in NumPy
    "minimum": "{0} < {1} || {0} != {0} ? {0} : {1}",
    "clip": "{0} < {1} ? {1} : {0} > {2} ? {2} : {0}",
    "where": "{} ? {} : {}",
    "logaddexp": "({0} > {1} ? {0} : {1}) + log1p(exp(-fabs({0} - {1})))",
    **{
        f: f + "({})" for f in ("exp", "expm1", "log", "log1p", "sqrt", "sin", "cos", "tanh", "erf")
    },
}


class Trace:
    """The C++ statements of a formula of arrays ``x0``, ``x1``, … and constants ``c0``, ``c1``, ….

    Attributes:
        arrays: The number of arrays.
        numbers: The values of the constants.
        changed: The numbers of the arrays that the formula changes in place.
        result: The name of the variable that it returns, if it returns one.
    """

    def __init__(self, formula: Formula, arrays: int) -> None:
        self.arrays = arrays
        self.numbers: list[float] = []
        self._statements: list[str] = []
        result = formula(*(Symbol(self, f"x{i}") for i in range(arrays)))
        self.result = result.name if isinstance(result, Symbol) else None
        targets = {statement.partition(" =")[0] for statement in self._statements}
        self.changed = [i for i in range(arrays) if f"x{i}" in targets]

    @property
    def parameters(self) -> str:
        """The constants as the first parameters of a kernel."""
        return "".join(f"ACCUMULATE c{i}, " for i in range(len(self.numbers)))

    @property
    def body(self) -> str:
        """Loads element ``i`` of the arrays at ``a0``, ``a1``, … and computes."""
        loads = (f"ACCUMULATE x{i} = widen(a{i}[i]);" for i in range(self.arrays))
        return "\n        ".join((*loads, *self._statements))

    def emit(self, function: str, operands: Any, target: Symbol | None = None) -> Symbol:
        """Add ``target = function(operands)``; a new variable without a target."""
        if function not in _CPP:
            raise ArgumentError(
                f"a formula cannot use {function}: it may use operators, erf, and of NumPy "
                f"{', '.join(sorted(_CPP))}"
            )
        value = _CPP[function].format(*map(self._name, operands))
        if target is None:
            target = Symbol(self, f"t{len(self._statements)}")
            self._statements.append(f"auto {target.name} = {value};")
        else:
            self._statements.append(f"{target.name} = {value};")
        return target

    def _name(self, operand: Any) -> str:
        if isinstance(operand, Symbol):
            return operand.name
        if not isinstance(operand, (int, float, np.number)):
            raise ArgumentError(
                "a formula computes with its arrays and with Python numbers, got "
                f"{type(operand).__name__}"
            )
        self.numbers.append(float(operand))
        return f"c{len(self.numbers) - 1}"


class Symbol(NDArrayOperatorsMixin):
    """Stands for an array while a formula is traced: a C++ variable of that name."""

    def __init__(self, trace: Trace, name: str) -> None:
        self.trace, self.name = trace, name

    def __array_ufunc__(
        self, function: np.ufunc, method: str, *operands: Any, out: tuple[Symbol, ...] = ()
    ) -> Symbol:
        name = function.__name__ if method == "__call__" else f"{function.__name__}.{method}"
        return self.trace.emit(name, operands, *out)

    def __array_function__(
        self, function: Any, types: Any, operands: tuple[Any, ...], options: dict[str, Any]
    ) -> Symbol:
        return self.trace.emit(function.__name__, operands)

    def __bool__(self) -> bool:
        raise ArgumentError("a formula cannot branch on the elements of an array: use np.where")


def relu(x: Any) -> Any:
    """max(x, 0)."""
    return np.maximum(x, 0)


def relu_gradient(grad: Any, out: Any) -> Any:
    """The gradient of ``relu``, whose result is ``out``."""
    return grad * (out > 0)


def erf(x: Any) -> Any:
    """The error function, 2/√π ∫₀ˣ exp(-t²) dt, which NumPy lacks.

    A Chebyshev series in x², exact to rounding.
    """
    if isinstance(x, Symbol):
        return x.trace.emit("erf", (x,))
    clipped = np.clip(x, -_ERF_LIMIT, _ERF_LIMIT)
    t = clipped * clipped * (2 / _ERF_LIMIT**2) - 1
    previous, current = np.zeros_like(t), np.zeros_like(t)
    coefficients = _erf_coefficients()
    for coefficient in coefficients[:0:-1]:  # Clenshaw's recurrence
        previous, current = current, 2 * t * current - previous + coefficient
    series = clipped * (t * current - previous + coefficients[0])
    return np.where(clipped == x, series, np.sign(x))  # exactly ±1 beyond the limit


_ERF_LIMIT = 6.0  # erf(6) rounds to 1 in float64


@cache
def _erf_coefficients() -> list[float]:
    """Chebyshev coefficients of erf(x) / x over x² in [0, 36], from ``math.erf``."""
    from numpy.polynomial import chebyshev

    def even_part(t: Any) -> Any:
        x = np.sqrt((t + 1) / 2) * _ERF_LIMIT
        return np.array([math.erf(v) / v if v else 2 / math.sqrt(math.pi) for v in x.tolist()])

    return [float(c) for c in chebyshev.chebinterpolate(even_part, 48)]
