"""Functions of one tensor, element by element; the activations among them.

An activation that should be one kernel is a formula, such as ``_sigmoid``, and its VJP.
``backend.evaluate`` runs the formula: in chunks on a CPU, as one generated kernel on a GPU.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinynn.autograd import Operand, Tensor, record, record_with_output
from tinynn.backend import Array, formula
from tinynn.errors import ArgumentError
from tinynn.functional.arithmetic import where
from tinynn.functional.operands import as_tensor

__all__ = [
    "abs",
    "absolute",
    "clip",
    "cos",
    "elu",
    "erf",
    "exp",
    "gelu",
    "leaky_relu",
    "log",
    "log_sigmoid",
    "relu",
    "sigmoid",
    "silu",
    "sin",
    "softplus",
    "sqrt",
    "square",
    "tanh",
]


def _floating(name: str, x: Operand) -> Tensor:
    """The operand as a floating-point tensor; integers become float32."""
    x = as_tensor(name, x)
    return x if x.dtype.kind == "f" else x.astype("float32")


def exp(x: Operand) -> Tensor:
    """e to the power x."""
    x = _floating("exp", x)
    return record_with_output(
        "exp", x.backend.elementwise("exp", x.data), (x, lambda grad, out: grad * out)
    )


def log(x: Operand) -> Tensor:
    """The natural logarithm of x."""
    x = _floating("log", x)
    return record("log", x.backend.elementwise("log", x.data), (x, lambda grad: grad / x))


def sqrt(x: Operand) -> Tensor:
    """√x; the gradient at 0 is infinite."""
    x = _floating("sqrt", x)
    out = x.backend.elementwise("sqrt", x.data)
    return record_with_output("sqrt", out, (x, lambda grad, out: grad * 0.5 / out))


def square(x: Operand) -> Tensor:
    """x²."""
    x = as_tensor("square", x)
    return record(
        "square", x.backend.elementwise("square", x.data), (x, lambda grad: grad * (x * 2))
    )


def absolute(x: Operand) -> Tensor:
    """|x|; the gradient at 0 is 0."""
    x = as_tensor("absolute", x)
    out = x.backend.elementwise("absolute", x.data)
    return record("absolute", out, (x, lambda grad: grad * x.backend.xp.sign(x.data)))


abs = absolute


def sin(x: Operand) -> Tensor:
    """The sine of x in radians."""
    x = _floating("sin", x)
    return record("sin", x.backend.elementwise("sin", x.data), (x, lambda grad: grad * cos(x)))


def cos(x: Operand) -> Tensor:
    """The cosine of x in radians."""
    x = _floating("cos", x)
    return record("cos", x.backend.elementwise("cos", x.data), (x, lambda grad: -grad * sin(x)))


def erf(x: Operand) -> Tensor:
    """The error function, 2/√π ∫₀ˣ exp(-t²) dt."""
    x = _floating("erf", x)
    scale = 2 / math.sqrt(math.pi)
    return record(
        "erf",
        x.backend.evaluate(formula.erf, x.data),
        (x, lambda grad: grad * (scale * exp(-square(x)))),
    )


def clip(x: Operand, low: float | None = None, high: float | None = None) -> Tensor:
    """min(max(x, low), high); the gradient is 0 outside [low, high]."""
    x = as_tensor("clip", x)
    if low is None and high is None:
        raise ArgumentError("clip expects low, high or both")
    if low is not None and high is not None and low > high:
        raise ArgumentError(f"clip expects low <= high, got {low} > {high}")

    def vjp(grad: Tensor) -> Tensor:
        inside = x.data == x.data  # also false for NaN
        if low is not None:
            inside &= x.data >= low
        if high is not None:
            inside &= x.data <= high
        return grad * as_tensor("clip", inside)

    return record("clip", x.backend.xp.clip(x.data, low, high), (x, vjp))


# -- activations ----------------------------------------------------------------------------------


def relu(x: Operand) -> Tensor:
    """max(x, 0); the gradient at 0 is 0.

    Nair and Hinton, "Rectified linear units improve restricted Boltzmann machines" (2010).
    """
    x = as_tensor("relu", x)
    out = x.backend.relu(x.data)
    return record("relu", out, (x, lambda grad: relu_gradient(grad, out)))


def relu_gradient(grad_out: Tensor, out: Array) -> Tensor:
    """The VJP of ``relu``, whose result is ``out``: linear in the gradient, so its own VJP."""
    data = grad_out.backend.relu_gradient(grad_out.data, out)
    return record("relu_gradient", data, (grad_out, lambda grad: relu_gradient(grad, out)))


def leaky_relu(x: Operand, negative_slope: float = 0.01) -> Tensor:
    """x for x > 0, else negative_slope · x.

    Maas, Hannun and Ng, "Rectifier nonlinearities improve neural network acoustic models" (2013).
    """
    x = _floating("leaky_relu", x)
    return where(x > 0, x, x * negative_slope)


def elu(x: Operand, alpha: float = 1.0) -> Tensor:
    """x for x > 0, else alpha · (exp(x) - 1).

    Clevert, Unterthiner and Hochreiter, "Fast and accurate deep network learning by exponential
    linear units" (2016).
    """
    x = _floating("elu", x)
    positive = x > 0
    return where(positive, x, (exp(where(positive, 0.0, x)) - 1) * alpha)


def _sigmoid(x: Any) -> Any:
    return np.tanh(x * 0.5) * 0.5 + 0.5


def sigmoid(x: Operand) -> Tensor:
    """1 / (1 + exp(-x)), computed as (tanh(x / 2) + 1) / 2, which cannot overflow."""
    x = _floating("sigmoid", x)
    return record_with_output(
        "sigmoid",
        x.backend.evaluate(_sigmoid, x.data),
        (x, lambda grad, out: grad * (out * (1 - out))),
    )


def tanh(x: Operand) -> Tensor:
    """The hyperbolic tangent."""
    x = _floating("tanh", x)
    return record_with_output(
        "tanh", x.backend.elementwise("tanh", x.data), (x, lambda grad, out: grad * (1 - out * out))
    )


def _softplus(x: Any) -> Any:
    return np.logaddexp(x, 0)


def softplus(x: Operand) -> Tensor:
    """log(1 + exp(x)), without overflow."""
    x = _floating("softplus", x)
    return record(
        "softplus", x.backend.evaluate(_softplus, x.data), (x, lambda grad: grad * sigmoid(x))
    )


def log_sigmoid(x: Operand) -> Tensor:
    """log(1 / (1 + exp(-x))), without overflow."""
    return -softplus(-_floating("log_sigmoid", x))


def silu(x: Operand) -> Tensor:
    """x · sigmoid(x), also called swish.

    Hendrycks and Gimpel, "Gaussian error linear units" (2016).
    """
    x = _floating("silu", x)
    return x * sigmoid(x)


def gelu(x: Operand, approximate: str = "none") -> Tensor:
    """x · Φ(x), with the cumulative distribution function Φ of the standard normal distribution.

    Hendrycks and Gimpel, "Gaussian error linear units" (2016).

    Args:
        x: A tensor.
        approximate: "none", or "tanh" for the approximation of the paper, with an error of about
            1e-3.
    """
    x = _floating("gelu", x)
    if approximate == "none":
        return x * (0.5 * (1 + erf(x * math.sqrt(0.5))))
    if approximate == "tanh":
        return x * (0.5 * (1 + tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * (x * x * x)))))
    raise ArgumentError(f'gelu expects approximate="none" or "tanh", got {approximate!r}')
