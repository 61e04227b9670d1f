"""Large batches in small pieces: the gradient is the same, the memory is that of a piece."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from tinynn.autograd import Tensor
from tinynn.errors import DeviceMemoryError
from tinynn.nn import Module
from tinynn.nn.summary import summary
from tinynn.random import default_generator

if TYPE_CHECKING:
    from tinynn.training.loop import LossFunction

_SHARE = 0.8  # of the memory that is there: others want some too


def pieces(images: Tensor, labels: Tensor, size: int | None) -> Iterator[tuple[Tensor, Tensor]]:
    """The batch in order, at most ``size`` examples at a time; None: all at once."""
    if size is None or size >= len(labels):
        yield images, labels
        return
    for start in range(0, len(labels), size):
        some = labels[start : start + size]
        some.origin = labels.origin
        yield images[start : start + size], some


def largest_micro_batch(
    model: Module, loss_function: LossFunction, images: Tensor, labels: Tensor
) -> int:
    """How many of these examples fit into memory in one training step, found by trying.

    The whole batch first, then halves of it; what ``summary`` estimates to be too much for the
    memory there is is not even tried. Nothing is changed: not the parameters, not running
    statistics, not the random sequence. DeviceMemoryError if not even one example fits.
    """
    size = len(labels)
    while True:
        try:
            if size == 1 or _is_worth_trying(model, images[:size]):
                _try(model, loss_function, images[:size], labels[:size])
                return size
        except MemoryError as error:
            if size == 1:
                raise DeviceMemoryError(
                    f"not even one example fits: {error}; use smaller images or a smaller model"
                ) from error
        size = -(-size // 2)


def _is_worth_trying(model: Module, images: Tensor) -> bool:
    """On a CPU the system ends a process rather than say that memory is short."""
    images.backend.free_memory()
    one = summary(model, images.shape[1:])
    more = (len(images) - 1) * 2 * one.activation_bytes
    return one.training_bytes + more <= _SHARE * images.backend.available_memory()


def _try(model: Module, loss_function: LossFunction, images: Tensor, labels: Tensor) -> None:
    """One step without an update, and everything as it was before."""
    state = {path: np.array(tensor.numpy()) for path, tensor in model.state_dict().items()}
    random, gradients = default_generator.state, [(p, p.grad) for p in model.parameters()]
    try:
        with model.in_mode(training=True):
            # what an optimizer will keep must fit as well
            held = [p.backend.xp.empty((2, *p.shape), p.dtype) for p in model.parameters()]
            loss_function(model(images), labels).backward()
            del held
    finally:
        default_generator.state = random
        for parameter, grad in gradients:
            parameter.grad = grad
        model.load_state_dict(state)


def with_advice(error: MemoryError, find: Callable[[], int]) -> MemoryError:
    """The error, with the micro-batch that fits."""
    try:
        fits = find()
    except MemoryError:
        return error
    return type(error)(
        f"{error}; pieces of {fits} examples fit: micro_batch={fits} gives the same gradient"
    )
