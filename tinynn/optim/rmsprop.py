"""RMSprop."""

from __future__ import annotations

import math
from typing import Any

from tinynn.autograd import Tensor
from tinynn.backend import Array, Backend
from tinynn.optim.optimizer import LearningRate, Optimizer, check_range

__all__ = ["RMSprop"]


class RMSprop(Optimizer):
    """s = decay · s + (1 - decay)g²;  v = momentum · v + g / (√s + eps);  p -= learning_rate · v.

    Tieleman and Hinton, lecture 6.5 of "Neural networks for machine learning" (2012).
    """

    def __init__(
        self,
        parameters: Any,
        learning_rate: LearningRate = 0.01,
        decay: float = 0.99,
        eps: float = 1e-8,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(parameters, learning_rate)
        self.decay = check_range("decay", decay, 0, 1)
        self.eps = check_range("eps", eps, 0, math.inf)
        self.momentum = check_range("momentum", momentum, 0, 1)
        self.weight_decay = check_range("weight_decay", weight_decay, 0, math.inf)

    def init_single(self, parameter: Tensor) -> dict[str, Array]:
        """The running mean of the squared gradient and, with momentum, the velocity."""
        names = ("square", "velocity") if self.momentum else ("square",)
        return {name: parameter.backend.xp.zeros_like(parameter.data) for name in names}

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
        backend.rmsprop_update(
            parameters,
            grads,
            state["square"],
            state.get("velocity"),
            learning_rate,
            self.decay,
            self.eps,
            self.momentum,
            self.weight_decay,
            skip,
        )
