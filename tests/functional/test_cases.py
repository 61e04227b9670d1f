"""What holds for every function: its value, its gradients of both orders, its dtype, its memory."""

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import tinynn
from tests.functional.cases import CASES, Case
from tests.gradients import check_gradients
from tinynn import functional as F
from tinynn.autograd import Tensor

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
TOLERANCE = {"float16": 2e-2, "float32": 2e-5, "float64": 1e-10}

every_case = pytest.mark.parametrize("case", CASES, ids=str)


def outputs_of(result: Any) -> list[Any]:
    return list(result) if isinstance(result, (list, tuple)) else [result]


def tensors(case: Case, dtype: str, device: str) -> list[Tensor]:
    return [tinynn.tensor(array, dtype, device, requires_grad=True) for array in case.arrays]


def total(outputs: list[Tensor]) -> Tensor:
    return sum((out.sum() for out in outputs[1:]), outputs[0].sum())


def test_no_function_is_forgotten() -> None:
    assert {case.name for case in CASES} == set(F.__all__) - WITHOUT_GRADIENT


@every_case
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_value_is_that_of_the_definition(case: Case, dtype: str, device: str) -> None:
    inputs = tensors(case, dtype, device)
    expected = outputs_of(case.reference(*(x.numpy().astype(np.float64) for x in inputs)))
    results = outputs_of(case.function(*inputs))
    assert len(results) == len(expected)
    for result, value in zip(results, expected, strict=True):
        assert result.shape == np.shape(value)
        np.testing.assert_allclose(
            result.numpy(), value, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype]
        )


@every_case
def test_gradients_agree_with_differences(case: Case, device: str) -> None:
    check_gradients(case.function, case.arrays, device)


@every_case
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_dtype_is_kept(case: Case, dtype: str, device: str) -> None:
    inputs = tensors(case, dtype, device)
    results = outputs_of(case.function(*inputs))
    assert {result.dtype.name for result in results} == {dtype}
    total(results).backward()
    assert {x.grad.dtype.name for x in inputs if x.grad is not None} == {dtype}
    assert all(x.grad.shape == x.shape for x in inputs if x.grad is not None)


@pytest.fixture
def without_garbage_collector() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@every_case
@pytest.mark.usefixtures("without_garbage_collector")
def test_a_dropped_graph_frees_its_tensors(case: Case, device: str) -> None:
    inputs = tensors(case, "float32", device)
    watched = [weakref.ref(x) for x in inputs]
    graph = total(outputs_of(case.function(*inputs)))
    gradients = tinynn.grad(graph, inputs, create_graph=True, allow_unused=True)
    watched += [weakref.ref(graph), *(weakref.ref(g) for g in gradients if g is not None)]
    del inputs, graph, gradients
    assert [ref() for ref in watched] == [None] * len(watched)


@every_case
def test_without_recording_there_is_no_graph(case: Case, device: str) -> None:
    with tinynn.no_grad():
        results = outputs_of(case.function(*tensors(case, "float32", device)))
    for result in results:
        assert result.is_leaf or result.requires_grad is False
