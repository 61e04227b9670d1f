"""Gradient clipping, between ``backward`` and ``step``."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from tinynn.arguments import number
from tinynn.autograd import Tensor
from tinynn.backend import Array
from tinynn.errors import ArgumentError

__all__ = ["clip_grad_norm", "clip_grad_value"]


@np.errstate(under="ignore")
def clip_grad_norm(parameters: Any, max_norm: float) -> Tensor:
    """Scale all gradients by min(1, max_norm / ‖g‖), with the norm of all gradients together.

    With a ``LossScaler`` the gradients are still scaled: pass ``max_norm`` to its ``step`` instead.
    Pascanu, Mikolov and Bengio, "On the difficulty of training recurrent neural networks" (2013).

    Args:
        parameters: A module, a mapping from paths to tensors, or an iterable of tensors.
        max_norm: The largest Euclidean norm allowed.

    Returns:
        The norm before clipping, in float32, or in float64 for gradients in float64. Clipping does
        not wait for a GPU; reading the norm does.

    Raises:
        ArgumentError: If there is no gradient, or ``max_norm`` is not positive.
    """
    max_norm = number("clip_grad_norm: max_norm", max_norm, 0, ends="(]")
    tensors = _with_gradients(parameters)
    if not tensors:
        raise ArgumentError("clip_grad_norm found no gradients: call loss.backward() first")
    grads = [tensor.grad for tensor in tensors]
    backend = grads[0].backend
    xp = backend.xp
    norm = xp.sqrt(sum(backend.sum_of_squares(grad.data) for grad in grads))
    wide = max(np.dtype(np.float32), *(grad.dtype for grad in grads))
    scale = xp.minimum(max_norm / (norm + 1e-6), 1).astype(wide)
    for tensor, grad in zip(tensors, grads, strict=True):
        # a new array: tensors may share one gradient
        clipped = xp.multiply(grad.data, scale.astype(max(grad.dtype, np.dtype(np.float32))))
        _replace(tensor, xp.asarray(clipped).astype(grad.dtype, copy=False))
    return Tensor(xp.asarray(norm).astype(wide))


def clip_grad_value(parameters: Any, limit: float) -> None:
    """Clip every element of every gradient to [-limit, limit].

    Args:
        parameters: A module, a mapping from paths to tensors, or an iterable of tensors.
        limit: A finite number > 0.
    """
    limit = number("clip_grad_value: limit", limit, 0)
    for tensor in _with_gradients(parameters):
        xp = tensor.backend.xp
        _replace(tensor, xp.asarray(xp.clip(tensor.grad.data, -limit, limit)))


def _replace(tensor: Tensor, grad: Array) -> None:
    tensor.grad = Tensor(grad)
    tensor.grad.is_state = True


def _with_gradients(parameters: Any) -> list[Any]:
    """The tensors that have a gradient, of a module, an optimizer, a mapping or an iterable."""
    if hasattr(parameters, "parameters"):
        parameters = parameters.parameters
        parameters = parameters() if callable(parameters) else parameters
    if isinstance(parameters, Mapping):
        parameters = parameters.values()
    return [tensor for tensor in parameters if tensor.grad is not None]
