"""What all optimizers share: the parameters by path, the step count, the learning rate."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from numbers import Real
from typing import Any

import numpy as np

from tinynn.autograd import Tensor
from tinynn.backend import Array, Backend, tracing
from tinynn.errors import ArgumentError, FileFormatError, GradientError
from tinynn.files import read_only

__all__ = ["Optimizer", "Schedule"]

Schedule = Callable[[int], float]
LearningRate = float | Schedule


class Optimizer:
    """Changes parameters in place by their gradients.

    ``parameters`` is a module, a mapping from paths to tensors, or an iterable of tensors.
    ``learning_rate`` is a number, or a function of the number of steps taken so far. A subclass
    gives its arrays in ``init_single`` and its formula in ``update``.
    """

    def __init__(self, parameters: Any, learning_rate: LearningRate) -> None:
        if hasattr(parameters, "named_parameters"):
            parameters = dict(parameters.named_parameters())
        elif isinstance(parameters, Iterable) and not isinstance(parameters, Mapping):
            parameters = {str(i): parameter for i, parameter in enumerate(parameters)}
        if not isinstance(parameters, Mapping) or not parameters:
            raise ArgumentError(
                "an optimizer expects a model with parameters, or tensors, and got none"
            )
        for path, parameter in parameters.items():
            if not isinstance(parameter, Tensor) or not parameter.is_leaf:
                raise ArgumentError(f"parameter {path!r} is no leaf tensor: {parameter!r:.80}")
        if len({id(parameter) for parameter in parameters.values()}) < len(parameters):
            raise ArgumentError("an optimizer expects each parameter once, got one of them twice")
        if not callable(learning_rate) and not _is_positive(learning_rate):
            raise ArgumentError(f"a learning rate is a number > 0, got {learning_rate!r}")
        self.parameters: dict[str, Tensor] = dict(parameters)
        self.schedule = learning_rate
        self.steps = 0
        self.state: dict[str, dict[str, Array]] = {}
        self.updates: dict[str, int] = {}  # by path: a parameter may join or pause

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step."""
        return self.schedule(self.steps) if callable(self.schedule) else self.schedule

    @learning_rate.setter
    def learning_rate(self, value: LearningRate) -> None:
        self.schedule = value

    def zero_grad(self) -> None:
        """Forget the gradients of all parameters."""
        for parameter in self.parameters.values():
            parameter.grad = None

    def step(self, skip: Array | None = None) -> None:
        """Update every parameter that has a gradient.

        ``skip``, an array of one bool, leaves parameters as they are if it is true; a GPU looks at
        it by itself.
        """
        rate = self.learning_rate
        alike: dict[tuple[Any, ...], list[str]] = {}  # paths that one call of the formula serves
        for path, parameter in self.parameters.items():
            if parameter.grad is None or not parameter.requires_grad:
                continue
            if path not in self.state:
                self.state[path] = self.init_single(parameter)
            self.updates[path] = count = self.updates.get(path, 0) + 1
            alike.setdefault((parameter.backend, parameter.dtype, count), []).append(path)
        if not alike:
            raise GradientError("optimizer.step() found no gradients: call loss.backward() first")
        for (backend, _, count), paths in alike.items():
            tensors = [self.parameters[path] for path in paths]
            grads = [tensor.grad.data for tensor in tensors if tensor.grad is not None]
            state = {
                name: [self.state[path][name] for path in paths] for name in self.state[paths[0]]
            }
            with tracing.span(f"{type(self).__name__} step"):
                self.update(backend, [t.data for t in tensors], grads, state, rate, count, skip)
        self.steps += 1

    def init_single(self, parameter: Tensor) -> dict[str, Array]:
        """The arrays that the formula keeps for one parameter."""
        return {}

    def update(
        self,
        backend: Backend,
        parameters: list[Array],
        grads: list[Array],
        state: dict[str, list[Array]],
        learning_rate: float,
        count: int,
        skip: Array | None,
    ) -> None:
        """Apply the formula to parameters, in place; ``count`` is 1 for their first update."""
        raise NotImplementedError

    # -- state --------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The numbers of steps and updates and, by path and name, the arrays on the host."""
        arrays = {
            f"{path}.{name}": read_only(self.parameters[path].backend.to_host(array))
            for path, entry in self.state.items()
            for name, array in entry.items()
        }
        return {"steps": self.steps, "updates": dict(self.updates), "arrays": arrays}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what ``state_dict`` returned; FileFormatError where it does not fit."""
        if not {"steps", "updates", "arrays"} <= set(state):
            raise FileFormatError(
                f"an optimizer's state has steps, updates and arrays, got {sorted(state)}"
            )
        restored: dict[str, dict[str, Array]] = {}
        for key, array in state["arrays"].items():
            path, _, name = key.rpartition(".")
            parameter = self.parameters.get(path)
            if parameter is None or np.shape(array) != parameter.shape:
                raise FileFormatError(f"optimizer state {key!r} fits no parameter of this model")
            own = np.array(array, dtype=parameter.dtype)
            restored.setdefault(path, {})[name] = parameter.backend.from_host(own)
        for path, entry in restored.items():
            expected = self.init_single(self.parameters[path]).keys()
            if entry.keys() != expected:
                raise FileFormatError(
                    f"optimizer state of {path!r} holds {sorted(entry)}, "
                    f"{type(self).__name__} expects {sorted(expected)}"
                )
        self.state, self.steps = restored, int(state["steps"])
        counts = state["updates"].items()
        self.updates = {path: int(n) for path, n in counts if path in self.parameters}


def _is_positive(value: Any) -> bool:
    return isinstance(value, Real) and float(value) > 0


def check_range(name: str, value: float, low: float, high: float) -> float:
    """The value, or ArgumentError unless low <= value < high."""
    if not low <= value < high:
        raise ArgumentError(f"{name} is expected in [{low}, {high}), got {value}")
    return value
