"""Formulas: what NumPy computes and what the traced CUDA kernel computes are the same."""

import math
import re
from typing import Any

import numpy as np
import pytest

from tests.compile_kernels import generated
from tinynn import optim
from tinynn.backend import formula, get_backend
from tinynn.backend.formula import Symbol, Trace
from tinynn.errors import ArgumentError, ShapeError

X = np.array([-2.5, -1.0, -0.0, 0.0, 0.5, 1.0, 3.0, math.inf, -math.inf, math.nan])
Y = np.array([0.5, -1.0, 2.0, 0.0, 0.5, 3.0, -1.0, 2.0, math.inf, 1.0])


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", formula._CPP)
def test_function(name: str, device: str) -> None:
    function = getattr(np, name, None) or getattr(formula, name)

    def call(x: Any, y: Any) -> Any:
        if name == "where":
            return np.where(x > y, x, 1.5)
        if name == "clip":
            return np.clip(x, -1.5, 0.75)
        return function(*(x, y)[: getattr(function, "nin", 1)]) * 1.0  # comparisons give bools

    backend = get_backend(device)
    result = backend.evaluate(call, backend.from_host(X), backend.from_host(Y))
    np.testing.assert_allclose(backend.to_host(result), call(X, Y), rtol=1e-14)


@pytest.mark.parametrize("shape", [(), (0, 3), (7,), (3, 5, 2), (1 << 20,)])
def test_arrays_of_any_shape_and_order(shape: tuple[int, ...], device: str) -> None:
    backend = get_backend(device)
    x = np.random.default_rng(0).standard_normal(shape)
    result = backend.evaluate(lambda x: x * 2 + 1, backend.from_host(x).T)
    np.testing.assert_array_equal(backend.to_host(result), (x * 2 + 1).T)


def changed_in_place(x: Any) -> Any:
    x *= 2
    return x


NOT_ELEMENTWISE = {
    "x.mean": lambda x: x - x.mean(),
    "x.sum": lambda x: x / x.sum(),
    "x.size": lambda x: x / x.size,
    "x.shape": lambda x: x * x.shape[0],
    "len": lambda x: x * len(x),
    "x[::-1]": lambda x: x[::-1],
    "x[0]": lambda x: x - x[0],
    "max": lambda x: x - np.max(x),
    "norm": lambda x: x / np.linalg.norm(x),
    "cumsum": np.cumsum,
    "sort": np.sort,
    "roll": lambda x: np.roll(x, 1),
    "flip": lambda x: np.flip(x),
    "matmul": lambda x: x * (x @ x),
    "dot": lambda x: x * np.dot(x, x),
    "accumulate": np.add.accumulate,
    "gradient": np.gradient,
    "asarray": lambda x: np.asarray(x)[::-1],
    "loop": lambda x: sum(v for v in x),
    "math.exp": lambda x: math.exp(x),
    "branch": lambda x: x if x > 0 else -x,
    "array": lambda x: x + np.arange(3.0),
    "where=": lambda x: np.add(x, x, where=x > 0),
    "clip by name": lambda x: np.clip(x, a_min=0, a_max=1),
    "nothing": lambda x: None,
    "constant": lambda x: 1.0,
    "two results": lambda x: (x, x),
    "in place": changed_in_place,
    "out=": lambda x: np.exp(x, out=x),
}


@pytest.mark.parametrize("size", [3, 1 << 21])
@pytest.mark.parametrize("name", NOT_ELEMENTWISE)
def test_what_is_not_elementwise_is_refused(name: str, size: int, device: str) -> None:
    """For small and large arrays, which NumPy would evaluate in chunks, and on every device."""
    backend = get_backend(device)
    x = backend.xp.ones(size, "float32")
    with pytest.raises(ArgumentError, match="formula"):
        backend.evaluate(NOT_ELEMENTWISE[name], x)
    assert bool((x == 1).all())


def test_arrays_of_a_formula_have_one_shape_and_dtype(device: str) -> None:
    xp = get_backend(device).xp
    for other in (xp.ones(1), xp.ones((3, 1)), xp.ones(3, "float32")):
        with pytest.raises(ShapeError, match=r"one shape and dtype, got \['float64 \(3,\)', 'fl"):
            get_backend(device).evaluate(lambda x, y: x + y, xp.ones(3), other)


@pytest.mark.parametrize("size", [3, 1 << 21])
def test_results_are_new_arrays_of_the_same_dtype(size: int, device: str) -> None:
    backend = get_backend(device)
    x = backend.xp.ones(size, "float32")
    for function in (lambda x: x, lambda x: x > 0, lambda x: x * np.float64(1)):
        result = backend.evaluate(function, x)
        assert result is not x
        assert (result.dtype, float(result.sum())) == (x.dtype, size)


def test_a_closure_may_change_its_numbers(device: str) -> None:
    backend, numbers = get_backend(device), [2.0, 3.0]
    x = backend.xp.ones(3)

    def scaled(x: Any) -> Any:
        return x * numbers[0]

    assert float(backend.evaluate(scaled, x)[0]) == 2
    numbers.reverse()
    assert float(backend.evaluate(scaled, x)[0]) == 3


class TestTrace:
    def test_statements_follow_the_order_of_the_formula(self) -> None:
        def momentum(p: Any, g: Any, v: Any) -> None:
            v *= 0.9
            v += g
            p -= 0.1 * v

        trace = Trace(momentum, 3)
        program = trace.program
        assert [line.strip() for line in program.body.splitlines()] == [
            "ACCUMULATE x0 = widen(a0[i]);",
            "ACCUMULATE x1 = widen(a1[i]);",
            "ACCUMULATE x2 = widen(a2[i]);",
            "x2 = x2 * c0;",
            "x2 = x2 + x1;",
            "auto t2 = c1 * x2;",
            "x0 = x0 - t2;",
        ]
        assert (trace.numbers, program.changed, program.result) == ([0.9, 0.1], [0, 2], None)

    def test_numbers_do_not_change_the_program(self) -> None:
        programs = {Trace(lambda x, rate=rate: x * rate, 1).program for rate in (0.1, 0.2, 3)}
        assert len(programs) == 1

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (np.floor, r"cannot use floor: it may use operators, erf, and NumPy's absolute, add"),
            (np.add.reduce, r"cannot use add\.reduce"),
            (np.sum, "cannot use sum"),
            (lambda x: x * np.ones(3), "its arrays and numbers, got ndarray"),
            (lambda x: x if x > 0 else -x, r"cannot branch .* use np\.where"),
        ],
    )
    def test_what_a_formula_cannot_contain(self, call: Any, message: str) -> None:
        with pytest.raises(ArgumentError, match=message):
            Trace(call, 1)

    def test_a_symbol_is_named_after_its_variable(self) -> None:
        trace = Trace(lambda x: np.exp(-x), 1)
        assert trace.program.result == "t1"
        assert isinstance(Symbol(trace, "x0") + 1, Symbol)


def test_every_formula_is_compiled_for_all_gpus() -> None:
    kinds = (kind for kind in vars(optim).values() if isinstance(kind, type))
    optimizers = {kind.__name__ for kind in kinds if optim.Optimizer in kind.__mro__[1:]}
    activations = {"sigmoid", "softplus", "relu", "relu_gradient", "erf"}
    names = re.findall(r" void (?:evaluate|update)_(\w+)", "".join(generated().values()))
    wanted = optimizers | activations
    assert not [w for w in wanted if not any(f"{name}_".startswith(f"{w}_") for name in names)]
