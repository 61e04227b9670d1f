"""``Optimizer``: parameters and state by path, the step count, the learning rate."""

from collections.abc import Callable, Iterable, Mapping
from numbers import Integral, Real
from operator import attrgetter
from typing import Any

import numpy as np

from tinynn.arguments import number
from tinynn.autograd import Tensor
from tinynn.backend import Array, Backend, tracing
from tinynn.backend.formula import Trace
from tinynn.changes import note_change
from tinynn.errors import ArgumentError, FileFormatError, GradientError, ShapeError
from tinynn.files import read_only, require_state

__all__ = ["Optimizer", "Schedule"]

Schedule = Callable[[int], float]
LearningRate = float | Schedule
State = dict[str, Array]


class Optimizer:
    """Base of all optimizers: updates parameters in place by their gradients.

    Where a model moves to another device or dtype, the state follows with the next step.

    A subclass writes its formula in ``apply_single`` and, if it keeps arrays from step to step,
    creates them in ``init_single``. NumPy and CUDA run the same formula, and the state is saved and
    restored by name.

    >>> class SignSGD(optim.Optimizer):
    ...     def apply_single(self, p, g, state, learning_rate, t):
    ...         p -= learning_rate * np.sign(g)

    Args:
        parameters: A module, a mapping from paths to tensors, or an iterable of tensors.
        learning_rate: A number, or a schedule: a function of the number of steps taken so far.
    """

    def __init__(self, parameters: Any, learning_rate: LearningRate) -> None:
        if hasattr(parameters, "named_parameters"):
            parameters = dict(parameters.named_parameters())
        elif isinstance(parameters, Iterable) and not isinstance(parameters, (Mapping, Tensor)):
            parameters = {str(i): parameter for i, parameter in enumerate(parameters)}
        if not isinstance(parameters, Mapping) or not parameters:
            got = "none" if isinstance(parameters, Mapping) else f"{parameters!r:.80}"
            text = f"an optimizer expects a model with parameters or tensors, got {got}"
            raise ArgumentError(text)
        for path, parameter in parameters.items():
            if not isinstance(parameter, Tensor) or not parameter.is_leaf:
                raise ArgumentError(f"parameter {path!r} is not a leaf tensor: {parameter!r:.80}")
            if not getattr(parameter.data.flags, "writeable", True):
                raise ArgumentError(f"parameter {path!r} holds a read-only array: copy it first")
        if len({id(parameter) for parameter in parameters.values()}) < len(parameters):
            raise ArgumentError("an optimizer expects each parameter once, got one of them twice")
        self.parameters: dict[str, Tensor] = dict(parameters)
        self.schedule = _checked(learning_rate, "()")
        self._first_rate = self.schedule
        self.steps = 0
        self.state: dict[str, State] = {}
        self._settled: dict[str, Array] = {}  # by path: the parameter's array that the state fits
        self.updates: dict[str, int] = {}  # by path: a parameter may start later, or skip steps

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step."""
        if not callable(self.schedule):
            return self.schedule
        what = f"the learning rate of the schedule at step {self.steps}"
        return number(what, self.schedule(self.steps), 0, ends="[)")

    @learning_rate.setter
    def learning_rate(self, value: LearningRate) -> None:
        self.schedule = _checked(value, "[)")  # 0 pauses the training

    def zero_grad(self) -> None:
        """Clear the gradients of all parameters."""
        for parameter in self.parameters.values():
            parameter.grad = None

    def step(self, skip: Array | None = None) -> None:
        """Update every parameter that has a gradient.

        Args:
            skip: An array of one bool on the parameters' device. Where it is true, parameters and
                state stay unchanged; a GPU decides without a synchronization.

        Raises:
            GradientError: If no parameter has a gradient, or one that does not fit.
            ArgumentError: If the formula is not elementwise.
        """
        rate = self.learning_rate
        groups: dict[tuple[Backend, np.dtype[Any], int], list[str]] = {}  # one kernel call each
        due = {p: x for p, x in self.parameters.items() if x.grad is not None and x.requires_grad}
        for path, parameter in due.items():
            grad: Any = parameter.grad
            data = parameter.data
            fits = isinstance(grad, Tensor) and grad.backend is parameter.backend
            if not fits or (grad.data.shape, grad.data.dtype) != (data.shape, data.dtype):
                raise _misfit(path, parameter, grad)
        for path, parameter in due.items():
            if path not in self._settled or self._settled[path] is not parameter.data:
                self._settle(path, parameter)
            self.updates[path] = step = self.updates.get(path, 0) + 1
            groups.setdefault((parameter.backend, parameter.data.dtype, step), []).append(path)
        if not groups:
            raise GradientError("optimizer.step() found no gradients: call loss.backward() first")
        for (backend, _, step), paths in groups.items():
            with tracing.span(f"{type(self).__name__} step"):
                self._apply(backend, paths, rate, step, skip)
        self.steps += 1

    def _settle(self, path: str, parameter: Tensor) -> None:
        """Create the state arrays of a parameter, or move them to where the model has moved."""
        if path not in self.state:
            self.state[path] = self.init_single(parameter)
        for name, array in self.state[path].items():
            if array.shape != parameter.shape:
                raise ShapeError(
                    f"parameter {path!r} was {array.shape} and is now {parameter.shape}: create a "
                    "new optimizer after changing a model"
                )
            moved = Tensor(array).to(parameter.device).astype(parameter.dtype)
            self.state[path][name] = moved.data
        self._settled[path] = parameter.data

    def _apply(
        self, backend: Backend, paths: list[str], rate: float, step: int, skip: Array | None
    ) -> None:
        """Apply the formula to parameters of one device, dtype and number of updates."""
        names = list(self.state[paths[0]])

        def formula(p: Array, g: Array, *state: Array) -> None:
            self.apply_single(p, g, dict(zip(names, state, strict=True)), rate, step)

        if step == 1:  # an error if it is not elementwise: it runs on parts of the arrays
            Trace(formula, 2 + len(names))
        tensors = list(map(self.parameters.__getitem__, paths))
        columns = [list(map(attrgetter(name), tensors)) for name in ("data", "grad.data")]
        columns += [[self.state[path][name] for path in paths] for name in names]
        backend.update(formula, columns, skip)
        note_change(*tensors)

    def init_single(self, parameter: Tensor) -> State:
        """The arrays by name that the formula keeps for one parameter: none, unless overridden.

        On a GPU there can be at most four.
        """
        return {}

    def apply_single(self, p: Array, g: Array, state: State, learning_rate: float, t: int) -> None:
        """Update one parameter and its state in place, elementwise.

        Args:
            p: The parameter, or a part of it. Only operations that ``tinynn.backend.formula``
                lists: on a GPU they become one kernel.
            g: Its gradient, which must stay unchanged.
            state: The arrays of ``init_single``.
            learning_rate: The learning rate of this step.
            t: The number of this update: 1 for the first one of this parameter.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no apply_single()")

    # -- state --------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Step counts and, by path and name, the state arrays on the host, read-only."""
        arrays = {
            f"{path}.{name}": read_only(Tensor(array).numpy())
            for path, entry in self.state.items()
            for name, array in entry.items()
        }
        return {
            "optimizer": type(self).__name__,
            "steps": self.steps,
            "updates": dict(self.updates),
            "arrays": arrays,
            "rates": [_number(rate) for rate in (self._first_rate, self.schedule)],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what ``state_dict`` returned.

        A learning rate that was changed during the run is restored, unless this optimizer was
        created with another one than that of the run.

        Raises:
            FileFormatError: If the state is of another model or another kind of optimizer.
        """
        kinds = {"steps": Integral, "updates": Mapping, "arrays": Mapping}
        kinds |= {"optimizer": str, "rates": list}
        require_state("an optimizer", state, kinds, "optimizer", "rates")
        own, updates, rates = type(self).__name__, state["updates"], state.get("rates", [])
        if (kind := state.get("optimizer", own)) != own:
            raise FileFormatError(f"this is an {own}, the state is of {kind}: start a new run")
        if not all(rate is None or (isinstance(rate, Real) and float(rate) >= 0) for rate in rates):
            raise FileFormatError(f"the state of an optimizer is damaged: rates are {rates!r:.80}")
        unknown = sorted(map(str, set(updates) - set(self.parameters)))
        if unknown and (len(unknown) == len(updates) or "optimizer" in state):
            raise FileFormatError(f"the optimizer state is of a model with {unknown[:3]}")
        self.state = self._restored(state["arrays"], updates)
        self.steps, self._settled = int(state["steps"]), {}
        self.updates = {path: int(n) for path, n in updates.items() if path in self.parameters}
        if rates[:1] == [_number(self._first_rate)] and rates[-1] is not None:
            self.learning_rate = rates[-1]

    def _restored(self, arrays: Mapping[str, Any], updates: Mapping[str, Any]) -> dict[str, State]:
        """The state arrays by path and name; FileFormatError if they do not fit."""
        require_state("an optimizer", updates, dict.fromkeys(updates, Integral))
        restored: dict[str, State] = {path: {} for path in updates if path in self.parameters}
        for key, array in arrays.items():
            path, _, name = str(key).rpartition(".")
            fits = path in restored and isinstance(array, np.ndarray) and array.dtype.kind == "f"
            if not fits or array.shape != self.parameters[path].shape:
                raise FileFormatError(f"optimizer state {key!r} fits no parameter of this model")
            own = np.array(array, dtype=self.parameters[path].dtype)
            restored[path][name] = self.parameters[path].backend.from_host(own)
        for path, entry in restored.items():
            expected = self.init_single(self.parameters[path]).keys()
            if entry.keys() != expected:
                raise FileFormatError(
                    f"optimizer state of {path!r} holds {sorted(entry)}, {type(self).__name__} "
                    f"expects {sorted(expected)}"
                )
        return restored


def _number(rate: LearningRate) -> float | None:
    """The learning rate; None for a schedule."""
    return None if callable(rate) else float(rate)


def _checked(rate: LearningRate, ends: str) -> LearningRate:
    """A schedule, or a learning rate as a float."""
    return rate if callable(rate) else number("the learning rate", rate, 0, ends=ends)


def _misfit(path: str, parameter: Tensor, grad: Any) -> GradientError:
    """The error for a ``grad`` that was assigned and would be broadcast or cast."""
    got = f"{grad.dtype} {grad.shape} on {grad.device}" if isinstance(grad, Tensor) else type(grad)
    return GradientError(
        f"the gradient of parameter {path!r} must be a tensor {parameter.dtype} {parameter.shape} "
        f"on {parameter.device}, got {got}"
    )
