"""Arguments: numbers of NumPy count as the numbers that they are, and all others are refused."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinynn
from tests.functional.cases import FUNCTIONS, as_list
from tinynn import functional as F
from tinynn.autograd import Tensor
from tinynn.gpucheck.cases import Case, is_variable

KINDS: dict[str, tuple[Callable[[int], Any], Callable[[float], Any]]] = {
    "int64": (np.int64, np.float64),
    "int8": (np.int8, np.float32),
    "no axes": (np.array, np.array),
    "tensor": (tinynn.tensor, np.float16),
}
WRONG = [True, np.True_, 2.5, -3, math.nan, math.inf, 10**30, "1", None, 1j, b"1", [[1]], object()]


def converted(value: Any, kind: str) -> Any:
    """The value with its Python numbers as numbers of a kind."""
    if isinstance(value, (tuple, list)):
        return type(value)(converted(part, kind) for part in value)
    if type(value) is dict:
        return {key: converted(part, kind) for key, part in value.items()}
    if type(value) in (int, float):
        return KINDS[kind][type(value) is float](value)
    return value


# -- functions -------------------------------------------------------------------------------------


def outputs_and_gradients(case: Case, device: str) -> list[np.ndarray]:
    leaves: list[Tensor] = []

    def tensor(array: np.ndarray) -> Any:
        if not array.ndim:  # a converted number
            return array
        if not is_variable(array):
            return tinynn.tensor(array, device=device)
        leaves.append(tinynn.tensor(array, "float32", device, requires_grad=True))
        return leaves[-1]

    outputs = as_list(case.call(getattr(F, case.name), tensor))
    for output in outputs:
        if output.requires_grad:
            output.sum().backward()
    grads = [leaf.grad for leaf in leaves if leaf.grad is not None]
    return [tensor.numpy() for tensor in (*outputs, *grads)]


NUMERIC = [case for case in FUNCTIONS if any(np.ndim(a) == 0 for a in case.inputs) or case.options]


@pytest.mark.parametrize("kind", KINDS)
def test_functions_take_the_numbers_of_numpy(kind: str, device: str) -> None:
    for case in NUMERIC:
        options, inputs = converted(case.options, kind), converted(case.inputs, kind)
        expected = outputs_and_gradients(case, device)
        actual = outputs_and_gradients(case._replace(options=options, inputs=inputs), device)
        for a, b in zip(actual, expected, strict=True):
            assert a.dtype == b.dtype, case
            np.testing.assert_allclose(a, b, 1e-2 if kind == "tensor" else 1e-5, 1e-5, err_msg=case)
