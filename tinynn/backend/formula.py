"""Elementwise formulas, written once in NumPy's notation: NumPy computes them, CUDA compiles them.

A formula is a Python function of arrays of one shape. It may use operators (also in place, as in
``p -= g``), the functions of NumPy in the table below, ``erf``, ``erfc``, and Python numbers.
Called with arrays, it computes. Called with a ``Symbol`` for each array, it generates C++ instead:
NumPy passes every operation on a ``Symbol`` to ``Symbol.__array_ufunc__``, which adds a statement.

    def silu(x):                          auto t0 = -x0;
        return x / (1 + np.exp(-x))       auto t1 = exp(t0);
                                          auto t2 = c0 + t1;
                                          auto t3 = x0 / t2;

A number becomes an argument of the kernel (``c0``), so a learning rate that changes with every step
does not change the code. A branch on a number, such as ``if momentum:``, is taken while tracing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from types import FunctionType
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from tinynn.backend.special import bell, erf, erfc
from tinynn.errors import ArgumentError, ShapeError

__all__ = ["Formula", "Symbol", "Trace", "bell", "erf", "erfc", "relu", "relu_gradient", "traced"]

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
    "sign": "{0} > 0 ? 1 : {0} < 0 ? -1 : {0}",  # 0 and NaN are unchanged
    "less": "{} < {}",
    "less_equal": "{} <= {}",
    "greater": "{} > {}",
    "greater_equal": "{} >= {}",
    "maximum": "{0} > {1} || {0} != {0} ? {0} : {1}",  # NaN propagates, as in NumPy
    "minimum": "{0} < {1} || {0} != {0} ? {0} : {1}",
    "clip": "{0} < {1} ? {1} : {0} > {2} ? {2} : {0}",
    "where": "{} ? {} : {}",
    "logaddexp": "({0} > {1} ? {0} : {1}) + log1p(exp(-fabs({0} - {1})))",
    **{
        f: f + "({})"
        for f in ("exp", "expm1", "log", "log1p", "sqrt", "sin", "cos", "tanh", "erf", "erfc")
    },
}


class Program(NamedTuple):
    """A traced formula: statements on arrays ``x0``, ``x1``, … and constants ``c0``, ``c1``, …."""

    arrays: int
    constants: int
    statements: tuple[tuple[str, ...], ...]  # (target, function, operands): t2 = add(x0, t1)
    result: str | None  # the variable that the formula returns, if it returns one

    @property
    def changed(self) -> list[int]:
        """The indices of the arrays that the formula changes in place."""
        targets = {statement[0] for statement in self.statements}
        return [i for i in range(self.arrays) if f"x{i}" in targets]

    @property
    def parameters(self) -> str:
        """The constants as the first parameters of a kernel."""
        return "".join(f"ACCUMULATE c{i}, " for i in range(self.constants))

    @property
    def body(self) -> str:
        """C++ that loads element ``i`` of the arrays at ``a0``, ``a1``, … and computes."""
        lines = [f"ACCUMULATE x{i} = widen(a{i}[i]);" for i in range(self.arrays)]
        for target, function, *operands in self.statements:
            declaration = "auto " if target == f"t{len(lines) - self.arrays}" else ""
            lines.append(f"{declaration}{target} = {_CPP[function].format(*operands)};")
        return "\n        ".join(lines)


class Trace:
    """Runs a formula of ``arrays`` arrays with symbols.

    Attributes:
        program: What the formula computes. It is the same for other values of the constants, so it
            serves as the key of a compiled kernel.
        numbers: The values of the constants.
    """

    def __init__(self, formula: Formula, arrays: int) -> None:
        self.numbers: list[float] = []
        self._statements: list[tuple[str, ...]] = []
        try:
            returned = formula(*(Symbol(self, f"x{i}") for i in range(arrays)))
        except (
            AttributeError,
            IndexError,
            TypeError,
        ) as error:  # x.mean(), x[0], len(x), math.exp(x)
            raise ArgumentError(f"a formula must be elementwise: {error}") from error
        result = returned.name if isinstance(returned, Symbol) else None
        self.program = Program(arrays, len(self.numbers), tuple(self._statements), result)

    def emit(self, function: str, operands: Any, target: Symbol | None = None) -> Symbol:
        """Add ``target = function(operands)``; a new variable without a target."""
        if function not in _CPP:
            raise ArgumentError(
                f"a formula cannot use {function}: it may use operators, erf, and NumPy's "
                f"{', '.join(sorted(_CPP))}"
            )
        if target is None:
            target = Symbol(self, f"t{len(self._statements)}")
        names = [x.name if type(x) is Symbol else self._constant(x) for x in operands]
        try:
            _CPP[function].format(*names)
        except IndexError:
            text = f"a formula must pass all operands of {function} by position"
            raise ArgumentError(text) from None
        self._statements.append((target.name, function, *names))
        return target

    def _constant(self, operand: Any) -> str:
        if not isinstance(operand, (int, float, np.number, np.ndarray)) or np.ndim(operand):
            kind = type(operand).__name__
            raise ArgumentError(f"a formula computes with its arrays and numbers, got {kind}")
        self.numbers.append(float(operand))
        return f"c{len(self.numbers) - 1}"


def traced(formula: Formula, arrays: Sequence[Any]) -> Trace:
    """The trace of a formula that returns a function of ``arrays``, element by element.

    Raises:
        ArgumentError: If it does anything else: NumPy runs it on parts of the arrays.
        ShapeError: If the arrays differ in shape or dtype.
    """
    first = arrays[0]
    if any(array.shape != first.shape or array.dtype != first.dtype for array in arrays[1:]):
        kinds = [f"{array.dtype} {array.shape}" for array in arrays]
        raise ShapeError(f"a formula expects arrays of one shape and dtype, got {kinds}")
    constant = isinstance(formula, FunctionType) and not formula.__closure__
    return (_cached_trace if constant else _trace_of_result)(formula, len(arrays))


def _trace_of_result(formula: Formula, arrays: int) -> Trace:
    trace = Trace(formula, arrays)
    if trace.program.result is None or trace.program.changed:
        raise ArgumentError(
            "a formula must return its result and leave its arrays unchanged: use x * 2, not x *= 2"
        )
    return trace


_cached_trace = lru_cache(maxsize=256)(_trace_of_result)  # of those whose numbers cannot change


class Symbol(NDArrayOperatorsMixin):
    """Stands for an array while a formula is traced: a C++ variable of that name."""

    def __init__(self, trace: Trace, name: str) -> None:
        self.trace, self.name = trace, name

    def emit(self, function: str) -> Symbol:
        """The function of this symbol alone."""
        return self.trace.emit(function, (self,))

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


def _define_operators(name: str, function: str) -> None:
    """Operators that bypass NumPy's dispatch: an optimizer is traced at every step."""

    def binary(self: Symbol, other: Any) -> Symbol:
        return self.trace.emit(function, (self, other))

    def reflected(self: Symbol, other: Any) -> Symbol:
        return self.trace.emit(function, (other, self))

    def in_place(self: Symbol, other: Any) -> Symbol:
        return self.trace.emit(function, (self, other), self)

    for prefix, operator in (("", binary), ("r", reflected), ("i", in_place)):
        setattr(Symbol, f"__{prefix}{name}__", operator)


_define_operators("add", "add")
_define_operators("sub", "subtract")
_define_operators("mul", "multiply")
_define_operators("truediv", "divide")


def relu(x: Any) -> Any:
    """max(x, 0)."""
    return np.maximum(x, 0)


def relu_gradient(grad: Any, out: Any) -> Any:
    """The gradient of ``relu``, whose result is ``out``."""
    return grad * (out > 0)
