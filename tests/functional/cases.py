"""The cases of ``tinynn.gpucheck.cases``, and how a test evaluates one with tensors and with NumPy.

Operators and methods are tested by expressions that mean the same for a tensor and an array.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

import tinynn
from tests.functional.references import REFERENCES
from tinynn import functional as F
from tinynn.autograd import Tensor
from tinynn.gpucheck.cases import FUNCTIONS, Case, cases, is_variable, nonzero, positive

WITHOUT_GRADIENT = {
    "argmax",
    "argmin",
    "equal",
    "greater",
    "greater_equal",
    "less",
    "less_equal",
    "logical_and",
    "logical_not",
    "logical_or",
    "logical_xor",
    "not_equal",
}
EXPRESSIONS: dict[str, Callable[[Any, Any], Any]] = {
    "x+2.5": lambda m, x: x + 2.5,
    "2-x": lambda m, x: 2 - x,
    "float64(1.5)*x": lambda m, x: np.float64(1.5) * x,
    "x/3": lambda m, x: x / 3,
    "3/x": lambda m, x: 3 / x,
    "x**3": lambda m, x: x**3,
    "x**-0.5": lambda m, x: x**-0.5,
    "x**0": lambda m, x: x**0,
    "x**1": lambda m, x: x**1,
    "2**x": lambda m, x: 2**x,
    "x@x.T": lambda m, x: x @ x.T,
    "-abs(x)": lambda m, x: -abs(x),
    "x.reshape(4,-1)": lambda m, x: x.reshape(4, -1),
    "x.sum(0)": lambda m, x: x.sum(0),
    "x[::2,1:0:-1]": lambda m, x: x[::2, 1:0:-1],
    "x[[2,0]]": lambda m, x: x[[2, 0]],
    "concat([x,x])": lambda m, x: m.concat([x, x]),
}

CASES = [
    *FUNCTIONS,
    *(
        case
        for name in EXPRESSIONS
        for case in cases(name, (3, 4), sample=positive if name == "x**-0.5" else nonzero)
    ),
]
DIFFERENTIABLE = [case for case in CASES if case.name not in WITHOUT_GRADIENT]


def evaluate(case: Case, inputs: Sequence[Tensor], device: str) -> list[Tensor]:
    """The outputs of the function under test; ``inputs`` stand for the case's variables."""
    expression, remaining = EXPRESSIONS.get(case.name), iter(inputs)
    function = partial(expression, F) if expression else getattr(F, case.name)
    return as_list(
        case.call(
            function,
            lambda x: next(remaining) if is_variable(x) else tinynn.tensor(x, device=device),
        )
    )


def expected(case: Case, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The outputs of the independent reference."""
    expression, remaining = EXPRESSIONS.get(case.name), iter(arrays)
    reference = REFERENCES.get(case.name) or getattr(np, case.name, None)
    function = partial(expression, np) if expression else reference
    return as_list(case.call(function, lambda x: next(remaining) if is_variable(x) else x.copy()))


def variables(case: Case, dtype: str, device: str) -> list[Tensor]:
    """The case's variables as leaf tensors that require gradients."""
    return [tinynn.tensor(array, dtype, device, requires_grad=True) for array in case.variables]


def as_list(outputs: Any) -> list[Any]:
    return list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]
