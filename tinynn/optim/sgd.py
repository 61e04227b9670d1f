"""Stochastic gradient descent."""

from __future__ import annotations

import math
from typing import Any

from tinynn.autograd import Tensor
from tinynn.backend import Array, Backend
from tinynn.errors import ArgumentError
from tinynn.optim.optimizer import LearningRate, Optimizer, check_range

__all__ = ["SGD"]


class SGD(Optimizer):
    """g += weight_decay · p;  v = momentum · v + g;  p -= learning_rate · v.

    With ``nesterov`` p -= learning_rate · (g + momentum · v). Polyak (1964), Nesterov (1983), in
    the form of Sutskever, Martens, Dahl and Hinton (2013).
    """

    def __init__(
        self,
        parameters: Any,
        learning_rate: LearningRate,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(parameters, learning_rate)
        self.momentum = check_range("momentum", momentum, 0, 1)
        self.weight_decay = check_range("weight_decay", weight_decay, 0, math.inf)
        if nesterov and not momentum:
            raise ArgumentError("Nesterov's update needs a momentum > 0")
        self.nesterov = nesterov

    def init_single(self, parameter: Tensor) -> dict[str, Array]:
        """The velocity, if there is momentum."""
        if not self.momentum:
            return {}
        return {"velocity": parameter.backend.xp.zeros_like(parameter.data)}

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
        """One step."""
        backend.sgd_update(
            parameters,
            grads,
            state.get("velocity"),
            learning_rate,
            self.momentum,
            self.nesterov,
            self.weight_decay,
            skip,
        )
