"""Optimizers compared with their textbook formulas, evaluated for one number at a time."""

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import tinynn
from tinynn import nn, optim
from tinynn.autograd import Tensor
from tinynn.errors import ArgumentError, FileFormatError, GradientError

STEPS = 6
Rule = Callable[[float, Iterator[float]], float]


def sgd(momentum: float = 0.0, nesterov: bool = False, decay: float = 0.0) -> Rule:
    def run(p: float, slopes: Iterator[float]) -> float:
        v = 0.0
        for slope in slopes:
            g = slope + decay * p
            v = momentum * v + g
            p -= 0.1 * (g + momentum * v if nesterov else v)
        return p

    return run


def adam(decay: float = 0.0, decoupled: bool = False, eps: float = 1e-8) -> Rule:
    def run(p: float, slopes: Iterator[float]) -> float:
        m = v = 0.0
        for t, slope in enumerate(slopes, start=1):
            if decoupled:
                p -= 0.1 * decay * p
            g = slope if decoupled else slope + decay * p
            m = 0.8 * m + 0.2 * g
            v = 0.95 * v + 0.05 * g * g
            p -= 0.1 * (m / (1 - 0.8**t)) / (math.sqrt(v / (1 - 0.95**t)) + eps)
        return p

    return run


def rmsprop(momentum: float = 0.0, decay: float = 0.0) -> Rule:
    def run(p: float, slopes: Iterator[float]) -> float:
        s = v = 0.0
        for slope in slopes:
            g = slope + decay * p
            s = 0.9 * s + 0.1 * g * g
            v = momentum * v + g / (math.sqrt(s) + 1e-8)
            p -= 0.1 * v
        return p

    return run


BETAS = (0.8, 0.95)
TABLE: dict[str, tuple[Callable[..., optim.Optimizer], dict[str, Any], Rule]] = {
    "sgd": (optim.SGD, {}, sgd()),
    "momentum": (optim.SGD, {"momentum": 0.9}, sgd(0.9)),
    "nesterov": (optim.SGD, {"momentum": 0.9, "nesterov": True}, sgd(0.9, True)),
    "sgd decay": (optim.SGD, {"momentum": 0.5, "weight_decay": 0.3}, sgd(0.5, decay=0.3)),
    "adam": (optim.Adam, {"betas": BETAS}, adam()),
    "adam decay": (optim.Adam, {"betas": BETAS, "weight_decay": 0.3}, adam(0.3)),
    "adam eps": (optim.Adam, {"betas": BETAS, "eps": 0.5}, adam(eps=0.5)),
    "adamw": (optim.AdamW, {"betas": BETAS, "weight_decay": 0.3}, adam(0.3, True)),
    "rmsprop": (optim.RMSprop, {"decay": 0.9}, rmsprop()),
    "rmsprop momentum": (
        optim.RMSprop,
        {"decay": 0.9, "momentum": 0.7, "weight_decay": 0.3},
        rmsprop(0.7, 0.3),
    ),
}
every_optimizer = pytest.mark.parametrize("name", TABLE)


def slopes(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(STEPS, 3))


def make(name: str, parameters: Any) -> optim.Optimizer:
    kind, options, _ = TABLE[name]
    return kind(parameters, learning_rate=0.1, **options)


def run(optimizer: optim.Optimizer, parameter: Tensor, gradients: np.ndarray) -> None:
    for gradient in gradients:
        parameter.grad = tinynn.tensor(gradient, parameter.dtype, parameter.device)
        optimizer.step()


@every_optimizer
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 1e-5)])
def test_formula(name: str, dtype: str, tolerance: float, device: str) -> None:
    start = np.array([1.0, -2.0, 0.5])
    parameter = tinynn.tensor(start, dtype, device, requires_grad=True)
    run(make(name, [parameter]), parameter, slopes(1))
    expected = [TABLE[name][2](p, iter(g)) for p, g in zip(start, slopes(1).T, strict=True)]
    assert parameter.dtype.name == dtype
    np.testing.assert_allclose(parameter.numpy(), expected, rtol=tolerance)


@every_optimizer
def test_a_restored_state_continues_exactly(name: str, device: str) -> None:
    gradients = slopes(2)
    straight, halted, resumed = (
        tinynn.tensor([1.0, -2.0, 0.5], device=device, requires_grad=True) for _ in range(3)
    )
    run(make(name, {"p": straight}), straight, gradients)
    first = make(name, {"p": halted})
    run(first, halted, gradients[:3])
    resumed.data[...] = halted.data
    second = make(name, {"p": resumed})
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    run(second, resumed, gradients[3:])
    assert second.steps == STEPS
    assert resumed.tolist() == straight.tolist()


@every_optimizer
def test_state_is_keyed_by_path(name: str, device: str) -> None:
    model = nn.Sequential(nn.Linear(2, 1, bias=False)).to(device)
    optimizer = make(name, model)
    model(tinynn.ones((1, 2), device=device)).sum().backward()
    optimizer.step()
    state = optimizer.state_dict()
    assert state["steps"] == 1
    assert all(key.startswith("0.weight.") for key in state["arrays"])
    assert all(isinstance(array, np.ndarray) for array in state["arrays"].values())


def test_a_saved_state_is_a_copy(device: str) -> None:
    parameter = tinynn.ones(3, device=device, requires_grad=True)
    optimizer = optim.SGD([parameter], 0.1, momentum=0.9)
    run(optimizer, parameter, slopes(3)[:1])
    state = optimizer.state_dict()
    before = state["arrays"]["0.velocity"].copy()
    run(optimizer, parameter, slopes(3)[1:])
    np.testing.assert_array_equal(state["arrays"]["0.velocity"], before)


class Normalized(optim.Optimizer):
    def apply_single(self, p: Any, g: Any, state: Any, learning_rate: float, t: int) -> None:
        p -= learning_rate * g / np.linalg.norm(g)


def test_a_formula_that_is_not_elementwise_is_an_error(device: str) -> None:
    p = tinynn.ones(3, device=device, requires_grad=True)
    p.sum().backward()
    with pytest.raises(ArgumentError, match="a formula cannot use norm"):
        Normalized([p], 0.1).step()
    assert p.tolist() == [1, 1, 1]


def test_a_schedule_may_return_an_array_without_axes(device: str) -> None:
    p = tinynn.ones(2, device=device, requires_grad=True)
    p.sum().backward()
    optim.Adam([p], lambda step: np.asarray(0.5)).step()
    np.testing.assert_allclose(p.numpy(), 0.5, rtol=1e-6)


class FourSums(optim.Optimizer):
    """Sums of the gradients, in as many arrays as a GPU can update."""

    arrays = 4

    def init_single(self, parameter: Tensor) -> dict[str, Any]:
        return {f"state{i}": tinynn.zeros_like(parameter).data for i in range(self.arrays)}

    def apply_single(
        self, p: Any, g: Any, state: dict[str, Any], learning_rate: float, step: int
    ) -> None:
        for array in state.values():
            array += g
        p -= learning_rate * array


class FiveSums(FourSums):
    arrays = 5


def test_state_arrays_beyond_the_kernel_arguments_of_a_gpu(device: str) -> None:
    parameter = tinynn.zeros(3, device=device, requires_grad=True)
    run(FourSums([parameter], 0.5), parameter, np.ones((2, 3)))
    np.testing.assert_allclose(parameter.numpy(), [-1.5] * 3)
    optimizer = FiveSums([parameter], 0.5)
    if device == "cpu":
        run(optimizer, parameter, np.ones((1, 3)))
        return
    with pytest.raises(ArgumentError, match=r"at most 4 state arrays per parameter, .* got 5"):
        run(optimizer, parameter, np.ones((1, 3)))


class TestState:
    def test_of_another_model_is_refused(self) -> None:
        optimizer = optim.SGD(nn.Linear(2, 1), 0.1, momentum=0.9)
        with pytest.raises(FileFormatError, match=r"'0\.weight\.velocity' fits no parameter"):
            optimizer.load_state_dict(
                {
                    "steps": 1,
                    "updates": {"weight": 1, "0": 1},
                    "arrays": {"0.weight.velocity": np.ones((2, 1))},
                }
            )
        with pytest.raises(FileFormatError, match=r"'weight\.velocity' fits no parameter"):
            optimizer.load_state_dict(
                {
                    "steps": 1,
                    "updates": {"weight": 1, "0": 1},
                    "arrays": {"weight.velocity": np.ones((3, 1))},
                }
            )

    def test_of_another_optimizer_is_refused(self) -> None:
        optimizer = optim.Adam(nn.Linear(2, 1))
        with pytest.raises(FileFormatError, match=r"'weight' holds \['velocity'\], Adam expects"):
            optimizer.load_state_dict(
                {
                    "steps": 1,
                    "updates": {"weight": 1, "0": 1},
                    "arrays": {"weight.velocity": np.ones((2, 1))},
                }
            )

    def test_takes_the_dtype_of_the_parameter(self) -> None:
        parameter = tinynn.ones(2, requires_grad=True)
        optimizer = optim.SGD([parameter], 0.1, momentum=0.9)
        optimizer.load_state_dict(
            {"steps": 1, "updates": {"weight": 1, "0": 1}, "arrays": {"0.velocity": np.ones(2)}}
        )
        assert optimizer.state["0"]["velocity"].dtype == np.float32


class TestLearningRate:
    def test_may_be_a_function_of_the_steps_taken(self, device: str) -> None:
        parameter = tinynn.zeros(1, device=device, requires_grad=True)
        optimizer = optim.SGD([parameter], learning_rate=lambda step: 10.0**-step)
        rates = []
        for _ in range(3):
            rates.append(optimizer.learning_rate)
            run(optimizer, parameter, np.ones((1, 1)))
        assert rates == [1, 0.1, 0.01]
        np.testing.assert_allclose(parameter.numpy(), [-1.11], rtol=1e-6)

    def test_a_wide_scalar_does_not_widen_the_model(self, device: str) -> None:
        parameter = tinynn.ones(2, device=device, requires_grad=True)
        optimizer = optim.Adam([parameter], learning_rate=lambda step: np.float64(0.1))
        run(optimizer, parameter, np.ones((2, 2)))
        assert parameter.dtype == np.float32

    def test_may_be_changed_between_steps(self) -> None:
        optimizer = optim.SGD([tinynn.ones(1, requires_grad=True)], 0.5)
        optimizer.learning_rate = 0.25
        assert optimizer.learning_rate == 0.25

    def test_a_pause_is_resumed(self) -> None:
        first, second = (optim.SGD([tinynn.ones(1, requires_grad=True)], 0.5) for _ in range(2))
        first.learning_rate = 0
        second.load_state_dict(first.state_dict())
        assert second.learning_rate == 0


class TestStepping:
    def test_zero_grad_clears_gradients(self, device: str) -> None:
        parameter = tinynn.ones(1, device=device, requires_grad=True)
        optimizer = optim.SGD([parameter], 0.1)
        (parameter * 2).sum().backward()
        optimizer.zero_grad()
        assert parameter.grad is None

    def test_parameters_without_a_gradient_stay(self, device: str) -> None:
        used, unused = (tinynn.ones(1, device=device, requires_grad=True) for _ in range(2))
        optimizer = optim.SGD([used, unused], 0.5, weight_decay=0.1)
        used.sum().backward()
        optimizer.step()
        assert (used.item(), unused.item()) == (pytest.approx(0.45), 1.0)

    def test_the_gradient_stays_unchanged(self, device: str) -> None:
        for name in TABLE:
            parameter = tinynn.ones(3, device=device, requires_grad=True)
            parameter.grad = tinynn.tensor([1.0, 2.0, 3.0], device=device)
            make(name, [parameter]).step()
            assert parameter.grad.tolist() == [1, 2, 3]

    def test_without_any_gradient_is_an_error(self) -> None:
        with pytest.raises(GradientError, match=r"no gradients: call loss\.backward\(\) first"):
            optim.SGD(nn.Linear(1, 1), 0.1).step()


class TestArguments:
    def test_parameters(self) -> None:
        with pytest.raises(ArgumentError, match="expects a model with parameters"):
            optim.SGD(nn.ReLU(), 0.1)
        with pytest.raises(ArgumentError, match="is not a leaf tensor"):
            optim.SGD([tinynn.ones(1, requires_grad=True) * 2], 0.1)

    @pytest.mark.parametrize("rate", [0, -1, math.nan, "0.1"])
    def test_learning_rate(self, rate: float) -> None:
        with pytest.raises(
            ArgumentError, match=r"the learning rate must be a number in \(0, inf\)"
        ):
            optim.SGD(nn.Linear(1, 1), rate)

    @pytest.mark.parametrize(
        ("kind", "options", "words"),
        [
            (optim.SGD, {"learning_rate": 0.1, "momentum": 1.0}, r"momentum .* \[0, 1\), got 1.0"),
            (
                optim.SGD,
                {"learning_rate": 0.1, "nesterov": True},
                "nesterov=True expects a momentum > 0",
            ),
            (optim.SGD, {"learning_rate": 0.1, "weight_decay": -1}, "weight_decay"),
            (optim.Adam, {"betas": (0.9, 1.0)}, "β₂"),
            (optim.RMSprop, {"decay": -0.1}, "decay"),
        ],
    )
    def test_ranges(self, kind: Any, options: dict[str, Any], words: str) -> None:
        with pytest.raises(ArgumentError, match=words):
            kind(nn.Linear(1, 1), **options)


def test_a_parameter_added_later_has_its_own_step_count(device: str) -> None:
    early, late = (tinynn.ones(1, device=device, requires_grad=True) for _ in range(2))
    optimizer = optim.Adam([early, late], learning_rate=0.1)
    for step in range(5):
        optimizer.zero_grad()
        (early * 3 if step < 4 else early * 3 + late * 3).sum().backward()
        optimizer.step()
    assert late.item() == pytest.approx(0.9)


@pytest.mark.parametrize(
    "wrong", [np.ones(2, "float32"), 1.0, np.ones(1, "float32"), np.ones((1, 2)), np.ones(2)]
)
def test_a_gradient_that_does_not_fit_is_refused(wrong: Any, device: str) -> None:
    """It would be broadcast or cast; nothing is changed then."""
    good, bad = (tinynn.ones(2, device=device, requires_grad=True) for _ in range(2))
    good.grad = tinynn.ones_like(good)
    first = isinstance(wrong, np.ndarray) and wrong.dtype == np.float32 and wrong.shape == (2,)
    is_array = isinstance(wrong, np.ndarray) and not first
    bad.grad = tinynn.tensor(wrong, device=device) if is_array else wrong
    with pytest.raises(GradientError, match=r"gradient of parameter '1' must be a tensor float32"):
        optim.SGD([good, bad], 0.5).step()
    assert good.tolist() == [1, 1]
