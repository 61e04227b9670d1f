"""Copies of weights, and temporary training that is undone."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy.typing as npt

from tinynn.files import read_only
from tinynn.nn import Module
from tinynn.random import default_generator


def copy_weights(model: Module) -> dict[str, npt.NDArray[Any]]:
    """Read-only copies of all parameters and buffers by path, in host memory."""
    return {path: read_only(tensor.numpy()) for path, tensor in model.state_dict().items()}


def remember(model: Module) -> Callable[[], None]:
    """A function that undoes what forward passes change: the buffers and the random sequence."""
    buffers = [(buffer.data, buffer.data.copy()) for _, buffer in model.named_buffers()]
    state = default_generator.state

    def undo() -> None:
        for data, before in buffers:
            data[...] = before
        default_generator.state = state

    return undo


@contextmanager
def restored(model: Module, *parts: Any) -> Iterator[None]:
    """Restore the state of training at the end of the block.

    This covers the parameters, gradients and buffers of ``model``, the random sequence, and
    ``parts``, which have ``state_dict()`` and ``load_state_dict()``. The model is in training mode
    in the block.
    """
    weights = copy_weights(model)
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    states = [(part, part.state_dict()) for part in (default_generator, *parts)]
    try:
        with model.in_mode(training=True):
            yield
    finally:
        model.load_state_dict(weights)
        for parameter, grad in gradients:
            parameter.grad = grad
        for part, state in states:
            part.load_state_dict(state)
