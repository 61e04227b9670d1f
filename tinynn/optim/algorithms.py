"""The optimizers: each is its hyperparameters, its state and its formula.

The formula, ``apply_single``, is written for one parameter and works in place, elementwise.
NumPy runs it in chunks that stay in the cache, CUDA as one generated kernel for all parameters.
``tinynn.backend.formula`` lists the operations that it may contain.
"""

import math
from typing import Any

import numpy as np

from tinynn.arguments import flag, is_sequence, number
from tinynn.autograd import Tensor
from tinynn.backend import Array
from tinynn.creation import zeros_like
from tinynn.errors import ArgumentError
from tinynn.optim.optimizer import LearningRate, Optimizer, State

__all__ = ["SGD", "Adam", "AdamW", "RMSprop"]


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum and Nesterov's momentum.

        g = g + weight_decay · p
        v = momentum · v + g
        p = p - learning_rate · v                  (nesterov: learning_rate · (g + momentum · v))

    Polyak (1964) and Nesterov (1983), in the form of Sutskever et al., "On the importance of
    initialization and momentum in deep learning" (2013).

    Args:
        parameters: A module, a mapping from paths to tensors, or an iterable of tensors.
        learning_rate: A number, or a schedule: a function of the number of steps taken so far.
        momentum: 0 keeps no momentum buffer.
        nesterov: Whether to look ahead along the momentum; needs momentum > 0.
        weight_decay: The factor of the L2 penalty.
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
        self.momentum = number("momentum", momentum, 0, 1, "[)")
        self.weight_decay = number("weight_decay", weight_decay, 0, ends="[)")
        self.nesterov = flag("nesterov", nesterov)
        if self.nesterov and not self.momentum:
            raise ArgumentError("SGD with nesterov=True expects a momentum > 0, got 0")

    def init_single(self, parameter: Tensor) -> State:
        return {"velocity": zeros_like(parameter).data} if self.momentum else {}

    def apply_single(self, p: Array, g: Array, state: State, learning_rate: float, t: int) -> None:
        if self.weight_decay:
            g = g + self.weight_decay * p
        if self.momentum:
            v = state["velocity"]
            v *= self.momentum
            v += g
            g = g + self.momentum * v if self.nesterov else v
        p -= learning_rate * g


class Adam(Optimizer):
    """Adaptive moment estimation.

        g = g + weight_decay · p
        m = β₁ · m + (1 - β₁) · g
        v = β₂ · v + (1 - β₂) · g²
        p = p - learning_rate · m̂ / (√v̂ + eps)    with m̂ = m / (1 - β₁ᵗ), v̂ = v / (1 - β₂ᵗ)

    Kingma and Ba, "Adam: a method for stochastic optimization" (2015).

    Args:
        parameters: A module, a mapping from paths to tensors, or an iterable of tensors.
        learning_rate: A number, or a schedule: a function of the number of steps taken so far.
        betas: β₁ and β₂.
        eps: Added to the denominator.
        weight_decay: The factor of the L2 penalty; ``AdamW`` decouples it from the gradient.
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
        if not is_sequence(betas) or len(betas) != 2:
            raise ArgumentError(f"{type(self).__name__} expects two betas, got {betas!r:.80}")
        self.betas = number("β₁", betas[0], 0, 1, "[)"), number("β₂", betas[1], 0, 1, "[)")
        self.eps = number("eps", eps, 0, ends="[)")
        self.weight_decay = number("weight_decay", weight_decay, 0, ends="[)")

    def init_single(self, parameter: Tensor) -> State:
        return {"first": zeros_like(parameter).data, "second": zeros_like(parameter).data}

    def apply_single(self, p: Array, g: Array, state: State, learning_rate: float, t: int) -> None:
        if self.weight_decay and self.decoupled:
            p *= 1 - learning_rate * self.weight_decay
        elif self.weight_decay:
            g = g + self.weight_decay * p
        (beta1, beta2), m, v = self.betas, state["first"], state["second"]
        m *= beta1
        m += (1 - beta1) * g
        v *= beta2
        v += (1 - beta2) * (g * g)
        denominator = np.sqrt(v)
        denominator *= 1 / math.sqrt(1 - beta2**t)
        denominator += self.eps
        p -= (learning_rate / (1 - beta1**t)) * m / denominator


class AdamW(Adam):
    """Adam with decoupled weight decay.

        p = p - learning_rate · weight_decay · p, then Adam without weight decay

    Loshchilov and Hutter, "Decoupled weight decay regularization" (2019). The arguments are those
    of ``Adam``.
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


class RMSprop(Optimizer):
    """Divides the gradient by its running root mean square.

        g = g + weight_decay · p
        s = decay · s + (1 - decay) · g²
        v = momentum · v + g / (√s + eps)
        p = p - learning_rate · v

    Tieleman and Hinton, lecture 6.5 of "Neural networks for machine learning" (2012).

    Args:
        parameters: A module, a mapping from paths to tensors, or an iterable of tensors.
        learning_rate: A number, or a schedule: a function of the number of steps taken so far.
        decay: The factor of the running mean of the squared gradient.
        eps: Added to the denominator.
        momentum: 0 keeps no momentum buffer.
        weight_decay: The factor of the L2 penalty.
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
        self.decay = number("decay", decay, 0, 1, "[)")
        self.eps = number("eps", eps, 0, ends="[)")
        self.momentum = number("momentum", momentum, 0, 1, "[)")
        self.weight_decay = number("weight_decay", weight_decay, 0, ends="[)")

    def init_single(self, parameter: Tensor) -> State:
        names = ("square", "velocity") if self.momentum else ("square",)
        return {name: zeros_like(parameter).data for name in names}

    def apply_single(self, p: Array, g: Array, state: State, learning_rate: float, t: int) -> None:
        if self.weight_decay:
            g = g + self.weight_decay * p
        s = state["square"]
        s *= self.decay
        s += (1 - self.decay) * (g * g)
        g = g / (np.sqrt(s) + self.eps)
        if self.momentum:
            v = state["velocity"]
            v *= self.momentum
            v += g
            g = v
        p -= learning_rate * g
