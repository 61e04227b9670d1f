"""Adam and AdamW."""

from __future__ import annotations

import math
from typing import Any

from tinynn.autograd import Tensor
from tinynn.backend import Array, Backend
from tinynn.optim.optimizer import LearningRate, Optimizer, check_range

__all__ = ["Adam", "AdamW"]


class Adam(Optimizer):
    """m = β₁m + (1 - β₁)g;  v = β₂v + (1 - β₂)g²;  p -= learning_rate · m̂ / (√v̂ + eps).

    m̂ and v̂ are divided by 1 - βᵗ. ``weight_decay`` is added to the gradient (L2). Kingma and Ba
    (2015).
    """

    decoupled = False

    def __init__(
        self,
        parameters: Any,
        learning_rate: LearningRate = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(parameters, learning_rate)
        self.betas = (check_range("β₁", betas[0], 0, 1), check_range("β₂", betas[1], 0, 1))
        self.eps = check_range("eps", eps, 0, math.inf)
        self.weight_decay = check_range("weight_decay", weight_decay, 0, math.inf)

    def init_single(self, parameter: Tensor) -> dict[str, Array]:
        """The running means of the gradient and of its square."""
        zeros_like = parameter.backend.xp.zeros_like
        return {"first": zeros_like(parameter.data), "second": zeros_like(parameter.data)}

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
        backend.adam_update(
            parameters,
            grads,
            state["first"],
            state["second"],
            count,
            learning_rate,
            self.betas,
            self.eps,
            self.weight_decay,
            self.decoupled,
            skip,
        )


class AdamW(Adam):
    """Adam whose weight decay shrinks the parameter itself: p -= learning_rate · weight_decay · p.

    Loshchilov and Hutter, "Decoupled weight decay regularization" (2019).
    """

    decoupled = True

    def __init__(
        self,
        parameters: Any,
        learning_rate: LearningRate = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(parameters, learning_rate, betas, eps, weight_decay)
