"""Parity: run a case of the tables on a device and compare it with its float64 reference.

Kernels are compared with the reference backend on NumPy arrays, functions and their gradients with
the CPU.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from tinynn import functional as F
from tinynn import optim
from tinynn.autograd import Tensor
from tinynn.backend import Array, Backend, default_device, get_backend
from tinynn.gpucheck import cases
from tinynn.gpucheck.cases import CHAINED, Case, flatten, is_variable
from tinynn.random import manual_seed
from tinynn.vision.models import face_cnn

TOLERANCE = {"float16": 1e-2, "float32": 1e-4, "float64": 1e-10}
"""The largest error of a result in each dtype, see ``error``."""

TRAINING_TOLERANCE = dict.fromkeys(TOLERANCE, 1e-2)
"""The same after some training steps: where rounding decides which pixel is the maximum or whether
a ReLU is active, the gradients of two devices differ by far more than rounding."""


class Reference(Backend):
    """The reference kernels on NumPy arrays, without any override."""

    xp = np
    device = "cpu"

    def to_host(self, array: Array) -> np.ndarray:
        return np.asarray(array)


REFERENCE = Reference()


def run_kernel(case: Case, backend: Backend, dtype: str) -> list[np.ndarray]:
    """The result of a kernel and its inputs afterwards: some kernels work in place."""
    chained = CHAINED.get(case.name)
    kernel = getattr(backend, case.name) if chained is None else partial(chained, backend)
    result, inputs = _call(case, kernel, backend, dtype, lambda array, is_variable: array)
    return [backend.to_host(array) for array in flatten([result, inputs])]


def run_function(case: Case, backend: Backend, dtype: str) -> list[np.ndarray]:
    """The outputs of a function and the gradients of its variables, for random output gradients."""
    outputs, inputs = _call(case, getattr(F, case.name), backend, dtype, Tensor)
    outputs, rng = list(flatten(outputs)), np.random.default_rng(0)
    for output in outputs:
        if output.requires_grad:
            grad = np.asarray(np.float16(rng.standard_normal(output.shape)))
            output.backward(Tensor(backend.from_host(grad.astype(dtype))), retain_graph=True)
    return [x.numpy() for x in flatten([outputs, [x.grad for x in inputs]])]


def run_optimizer(case: Case, backend: Backend, dtype: str) -> list[np.ndarray]:
    """The parameters and the optimizer state after three steps."""

    def train(parameters: list[Tensor], grads: list[Tensor], **options: Any) -> Any:
        optimizer = getattr(optim, case.name)(parameters, 0.1, **options)
        for factor in (1.0, -0.5, 2.0):
            for parameter, grad in zip(parameters, grads, strict=True):
                parameter.grad = grad.detach() * factor
            optimizer.step()
        return [list(state.values()) for state in optimizer.state.values()]

    state, inputs = _call(case, train, backend, dtype, Tensor)
    return [backend.to_host(array) for array in flatten([state, [x.data for x in inputs]])]


def _call(
    case: Case, function: Any, backend: Backend, dtype: str, wrap: Callable[[Array, bool], Any]
) -> tuple[Any, list[Any]]:
    """The result of a case, and its inputs: ``wrap(array on the device, is it a variable)``."""
    inputs: list[Any] = []

    def convert(array: np.ndarray) -> Any:
        wide = np.promote_types(array.dtype, dtype) if is_variable(array) else array.dtype
        inputs.append(wrap(backend.from_host(array.astype(wide)), is_variable(array)))
        return inputs[-1]

    return case.call(function, convert), inputs


def run_training(case: Case, backend: Backend, dtype: str) -> list[np.ndarray]:
    """The losses, the gradients of the first step and the weights after the last one."""
    manual_seed(0)
    with default_device("cpu"):  # also if TINYNN_DEVICE names another one
        model = face_cnn()
    model = model.astype(dtype).to(backend.device)
    optimizer = optim.SGD(model, 0.002, momentum=0.9)
    pixels = np.random.default_rng(1).random((8, 48, 48, 3))
    images = Tensor(backend.from_host(pixels.astype(dtype)))
    labels = Tensor(backend.from_host(np.arange(8) % 2))
    losses: list[Tensor] = []
    first: list[np.ndarray] = []
    for _ in range(case.options["steps"]):
        optimizer.zero_grad()
        losses.append(F.cross_entropy(model(images), labels))
        losses[-1].backward()
        first = first or [p.grad.numpy().copy() for p in model.parameters() if p.grad is not None]
        optimizer.step()
    return [*(x.numpy() for x in (*losses, *model.parameters())), *first]


def error(results: Sequence[np.ndarray], reference: Sequence[np.ndarray]) -> float:
    """The largest absolute difference relative to the largest value of its array (at least 1).

    Integers and booleans must be equal; a wrong shape, a wrong integer or a NaN is infinite.
    """
    worst = 0.0
    for result, expected in zip(results, reference, strict=True):
        if result.shape != expected.shape:
            return math.inf
        if result.dtype.kind != "f":
            worst = max(worst, 0.0 if np.array_equal(result, expected) else math.inf)
        elif result.size:
            difference = np.zeros(result.shape)
            np.subtract(result, expected, out=difference, where=result != expected)
            scale = np.abs(expected).max(where=np.isfinite(expected), initial=1.0)
            largest = float(np.abs(difference).max() / scale)
            worst = max(worst, largest if np.isfinite(largest) else math.inf)
    return worst


class Table(NamedTuple):
    """Cases, how to run one, the backend of the float64 reference, and what to check."""

    title: str
    cases: list[Case]
    run: Callable[[Case, Backend, str], list[np.ndarray]]
    reference: Backend
    dtypes: tuple[str, ...]
    tolerance: dict[str, float] = TOLERANCE

    def error(self, case: Case, backend: Backend, dtype: str) -> float:
        """The error of a case; ArithmeticError if two runs differ in any bit."""
        results, repeated = (self.run(case, backend, dtype) for _ in range(2))
        if any(a.tobytes() != b.tobytes() for a, b in zip(results, repeated, strict=True)):
            raise ArithmeticError(f"two runs of {case} differ")
        return error(results, self.run(case, self.reference, "float64"))


_CPU = get_backend("cpu")
_DTYPES = ("float32", "float64", "float16")
_TRAINING = [Case("face CNN, 20 steps of SGD", (), {"steps": 20})]
TABLES = {
    "kernels": Table("kernel", cases.KERNELS, run_kernel, REFERENCE, _DTYPES),
    "functions": Table("function, gradients", cases.FUNCTIONS, run_function, _CPU, _DTYPES[:1]),
    "optimizers": Table("optimizer", cases.OPTIMIZERS, run_optimizer, _CPU, _DTYPES),
    "training": Table("training", _TRAINING, run_training, _CPU, _DTYPES[:1], TRAINING_TOLERANCE),
}
