"""Every function: its value, its gradients of both orders, its dtype, its memory."""

import gc
import weakref
from collections.abc import Iterator

import numpy as np
import pytest

import tinynn
from tests.functional.cases import CASES, DIFFERENTIABLE, evaluate, expected, variables
from tests.gradients import check_gradients
from tinynn import functional as F
from tinynn.autograd import Tensor
from tinynn.gpucheck.cases import FUNCTIONS, Case

TOLERANCE = {"float16": 2e-2, "float32": 2e-5, "float64": 1e-10}

every_case = pytest.mark.parametrize("case", CASES, ids=str)
every_differentiable_case = pytest.mark.parametrize("case", DIFFERENTIABLE, ids=str)


def total(outputs: list[Tensor]) -> Tensor:
    return sum((out.sum() for out in outputs[1:]), outputs[0].sum())


def test_no_function_is_forgotten() -> None:
    assert {case.name for case in FUNCTIONS} == set(F.__all__)


@every_case
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_value_is_that_of_the_definition(case: Case, dtype: str, device: str) -> None:
    inputs = variables(case, dtype, device)
    values = expected(case, [x.numpy().astype(np.float64) for x in inputs])
    outputs = evaluate(case, inputs, device)
    assert len(outputs) == len(values)
    for output, value in zip(outputs, values, strict=True):
        assert output.shape == np.shape(value)
        np.testing.assert_allclose(
            output.numpy(), value, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype]
        )


@every_differentiable_case
def test_gradients_agree_with_differences(case: Case, device: str) -> None:
    arrays = [array.astype(np.float64) for array in case.variables]
    check_gradients(lambda *inputs: tuple(evaluate(case, inputs, device)), arrays, device)


@every_differentiable_case
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_dtype_is_kept(case: Case, dtype: str, device: str) -> None:
    inputs = variables(case, dtype, device)
    outputs = evaluate(case, inputs, device)
    assert {output.dtype.name for output in outputs} == {dtype}
    total(outputs).backward()
    assert {x.grad.dtype.name for x in inputs if x.grad is not None} == {dtype}
    assert all(x.grad.shape == x.shape for x in inputs if x.grad is not None)


@pytest.fixture
def without_garbage_collector() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@every_differentiable_case
@pytest.mark.usefixtures("without_garbage_collector")
def test_a_dropped_graph_frees_its_tensors(case: Case, device: str) -> None:
    inputs = variables(case, "float32", device)
    watched = [weakref.ref(x) for x in inputs]
    graph = total(evaluate(case, inputs, device))
    gradients = tinynn.grad(graph, inputs, create_graph=True, allow_unused=True)
    watched += [weakref.ref(graph), *(weakref.ref(g) for g in gradients if g is not None)]
    del inputs, graph, gradients
    assert [ref() for ref in watched] == [None] * len(watched)


@every_case
def test_without_recording_there_is_no_graph(case: Case, device: str) -> None:
    with tinynn.no_grad():
        outputs = evaluate(case, variables(case, "float32", device), device)
    assert all(output.is_leaf or not output.requires_grad for output in outputs)
