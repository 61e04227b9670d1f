"""Interfaces of data loaders, loss functions and metrics."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import count, repeat
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from tinynn.autograd import Tensor
from tinynn.data import DataLoader
from tinynn.errors import ArgumentError

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


def check_loader(name: str, loader: Any) -> None:
    """ArgumentError unless the loader has batches, and can be iterated over again and again."""
    if not hasattr(loader, "__len__") or not hasattr(loader, "__iter__"):
        raise ArgumentError(
            f"the {name} must be a DataLoader or a list of batches, got a {type(loader).__name__}"
        )
    if len(loader) == 0:
        raise ArgumentError(f"the {name} is empty: there must be at least one batch")


def passes(loader: Any) -> Iterator[Iterable[tuple[Tensor, Tensor]]]:
    """Passes over the data without end. The position of a ``DataLoader`` stays as it is."""
    if hasattr(loader, "batches"):
        return (loader.batches(epoch) for epoch in count(loader.epoch))
    return repeat(loader)


@contextmanager
def counted_steps(loader: Any) -> Iterator[None]:
    """A block in which only the training loop moves the position of a ``DataLoader``."""
    before = getattr(loader, "steps_are_counted", None)
    if before is not None:
        loader.steps_are_counted = True
    try:
        yield
    finally:
        if before is not None:
            loader.steps_are_counted = before


@contextmanager
def unmoved(loader: Any) -> Iterator[None]:
    """Restore the position of a ``DataLoader`` at the end; loops in the block are whole epochs."""
    before = loader.state_dict() if isinstance(loader, DataLoader) else None
    if before is not None:
        loader.epoch = loader.epoch
    yield
    if before is not None:
        loader.load_state_dict(before)
