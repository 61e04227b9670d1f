"""Interfaces of data loaders, loss functions and metrics, and their checks."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from tinynn.autograd import Tensor
from tinynn.errors import ArgumentError, ShapeError
from tinynn.nn import Module
from tinynn.optim import Optimizer

LossFunction = Callable[[Any, Tensor], Tensor]
"""``loss_function(outputs, labels)`` returns the mean loss of a batch, a scalar tensor."""

Metric = Callable[[npt.NDArray[np.floating], npt.NDArray[Any]], float]
"""``metric(outputs, labels)`` takes all examples as NumPy arrays and returns a number."""


class Loader(Protocol):
    """Iterates over the batches of an epoch: a ``DataLoader``, or a list of (images, labels)."""

    def __len__(self) -> int:
        """The number of batches."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Each batch as (images, labels)."""


def check_run(model: Any, loader: Any, optimizer: Any, loss_function: Any) -> None:
    """ArgumentError unless the optimizer trains the model, with batches and a loss function."""
    if not isinstance(model, Module) or not isinstance(optimizer, Optimizer):
        kinds = f"{type(model).__name__} and {type(optimizer).__name__}"
        raise ArgumentError(f"expected a module and an optimizer, got {kinds}")
    if not set(map(id, model.parameters())) & set(map(id, optimizer.parameters.values())):
        raise ArgumentError(
            "the optimizer has no parameter of this model: create it with this model's parameters"
        )
    if not callable(loss_function):
        raise ArgumentError(f"the loss function must be a function, got {loss_function!r:.80}")
    check_loader("loader", loader)


def check_loader(name: str, loader: Any) -> None:
    """ArgumentError unless the loader has batches, and can be iterated over again and again."""
    try:
        count = len(loader) if hasattr(loader, "__iter__") else -1
    except TypeError:
        count = -1
    if count < 0:
        kind = type(loader).__name__
        raise ArgumentError(
            f"the {name} must be a DataLoader or a list of batches, with a length, got a {kind}"
        )
    if count == 0:
        raise ArgumentError(f"the {name} is empty: there must be at least one batch")


def check_loss(loss: Any) -> None:
    """ShapeError unless the loss is a tensor with one element."""
    if not isinstance(loss, Tensor) or loss.size != 1:
        got = f"shape {loss.shape}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
        raise ShapeError(f"expected the loss of the batch, a tensor with one element, got {got}")


def check_outputs(what: str, outputs: Any) -> None:
    """ArgumentError unless a model has returned a tensor."""
    if not isinstance(outputs, Tensor):
        kind = type(outputs).__name__
        raise ArgumentError(f"{what} expects a model that returns a tensor, got a {kind}")


def checked_metrics(metrics: Any) -> Mapping[str, Metric]:
    """The metrics, none for None; ArgumentError unless they are functions by name."""
    found: Mapping[str, Metric] = {} if metrics is None else metrics
    named = isinstance(found, Mapping) and all(isinstance(name, str) for name in found)
    if not named or not all(map(callable, found.values())):
        raise ArgumentError(f"metrics must be functions by name, a dict, got {metrics!r:.80}")
    if "loss" in found:
        raise ArgumentError("a metric cannot be named 'loss', which is the loss function's")
    return found
