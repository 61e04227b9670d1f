"""Gradients held within bounds, between ``backward`` and ``step``."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from tinynn.autograd import Tensor
from tinynn.errors import ArgumentError

__all__ = ["clip_grad_norm", "clip_grad_value"]


def clip_grad_norm(parameters: Any, max_norm: float) -> Tensor:
    """Scale all gradients together so that their joint Euclidean norm is at most ``max_norm``.

    Takes a module, a mapping or tensors. With a ``LossScaler``, whose gradients are scaled, hand
    ``max_norm`` to its ``step`` instead. Returns the norm before, as a tensor: reading it waits for
    a GPU, scaling does not. Pascanu, Mikolov and Bengio (2013).
    """
    if not max_norm > 0:
        raise ArgumentError(f"clip_grad_norm expects max_norm > 0, got {max_norm}")
    grads = _gradients(parameters)
    if not grads:
        raise ArgumentError("clip_grad_norm found no gradients: call loss.backward() first")
    backend = grads[0][1].backend
    xp, total = backend.xp, 0
    for _, grad in grads:
        total = total + backend.sum(xp.square(grad.data), tuple(range(grad.ndim)))
    norm = xp.sqrt(total)
    scale = xp.minimum(max_norm / (norm + 1e-6), 1).astype(grads[0][1].dtype)
    for tensor, grad in grads:
        tensor.grad = Tensor(xp.asarray(xp.multiply(grad.data, scale)))
    return Tensor(xp.asarray(norm))


def clip_grad_value(parameters: Any, limit: float) -> None:
    """Hold every element of every gradient within [-limit, limit]."""
    if not 0 < limit < math.inf:
        raise ArgumentError(f"clip_grad_value expects a limit > 0, got {limit}")
    for tensor, grad in _gradients(parameters):
        xp = grad.backend.xp
        tensor.grad = Tensor(xp.asarray(xp.clip(grad.data, -limit, limit)))


def _gradients(parameters: Any) -> list[tuple[Tensor, Tensor]]:
    """Each tensor that has a gradient, and the gradient, which another tensor may share."""
    if hasattr(parameters, "parameters"):
        parameters = parameters.parameters
        parameters = parameters() if callable(parameters) else parameters
    if isinstance(parameters, Mapping):
        parameters = parameters.values()
    tensors: Iterable[Tensor] = parameters
    return [(tensor, tensor.grad) for tensor in tensors if tensor.grad is not None]
