"""Loops over a loader, and the position of a ``DataLoader`` during them."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import count, repeat
from typing import Any

from tinynn.autograd import Tensor
from tinynn.data import DataLoader
from tinynn.errors import ArgumentError


def pairs(batches: Iterable[Any]) -> Iterator[tuple[Any, Tensor]]:
    """The batches; ArgumentError for one that is not (images, labels)."""
    for batch in batches:
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise ArgumentError(f"expected batches (images, labels), got {batch!r:.80}")
        if not isinstance(batch[1], Tensor):
            kind = f"{type(batch[1]).__module__}.{type(batch[1]).__name__}"
            raise ArgumentError(f"the labels of a batch must be a tinynn.Tensor, got a {kind}")
        yield batch[0], batch[1]


def passes(loader: Any) -> Iterator[Iterable[tuple[Tensor, Tensor]]]:
    """Passes over the data without end. The position of a ``DataLoader`` stays as it is."""
    # a subclass or a wrapper may change the batches in its own __iter__
    if isinstance(loader, DataLoader) and type(loader).__iter__ is DataLoader.__iter__:
        return (pairs(loader.batches(epoch)) for epoch in count(loader.epoch))
    return (pairs(batches) for batches in repeat(loader))


@contextmanager
def counted_steps(loader: Any) -> Iterator[None]:
    """A block in which only the training loop moves the position of a ``DataLoader``."""
    if not isinstance(loader, DataLoader):
        yield
        return
    before, loader.steps_are_counted = loader.steps_are_counted, True
    try:
        yield
    finally:
        loader.steps_are_counted = before


@contextmanager
def unmoved(loader: Any) -> Iterator[None]:
    """Restore the position of a ``DataLoader`` at the end; loops in the block are whole epochs.

    A position that is set in the block stays.
    """
    if not isinstance(loader, DataLoader):
        yield
        return
    epoch, position = loader.epoch, loader.position
    loader.position = 0
    loops = loader._running  # another list once a position is set
    yield
    if loader._running is loops:
        loader.epoch, loader.position = epoch, position
