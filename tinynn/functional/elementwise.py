"""Functions of one tensor, element by element; the activations among them.

Each is a formula, which ``backend.evaluate`` runs in chunks on a CPU and as one kernel on a GPU
(``tinynn.backend.formula``), and its VJP.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinynn.arguments import choice, exact_number, number
from tinynn.autograd import VJP, Operand, Tensor, record, record_with_output
from tinynn.backend import Array, formula
from tinynn.backend.formula import Formula
from tinynn.errors import ArgumentError
from tinynn.functional.arithmetic import where
from tinynn.functional.operands import as_tensor

__all__ = ["abs", "absolute", "clip", "cos", "erf", "exp", "expm1", "log", "sin", "sqrt", "square"]
__all__ += ["elu", "gelu", "leaky_relu", "log_sigmoid", "relu"]
__all__ += ["sigmoid", "silu", "softplus", "tanh"]


def floating(name: str, x: Operand) -> Tensor:
    """The operand as a floating-point tensor; integers become float32."""
    x = as_tensor(name, x)
    return x if x.dtype.kind == "f" else x.astype("float32")


def _with_input(name: str, formula: Formula, x: Operand, vjp: VJP) -> Tensor:
    """formula(x), whose VJP is vjp(grad, x)."""
    x = floating(name, x)
    return record(name, x.backend.evaluate(formula, x.data), (x, lambda grad: vjp(grad, x)))


def _with_output(name: str, formula: Formula, x: Operand, vjp: VJP) -> Tensor:
    """formula(x), whose VJP is vjp(grad, formula(x)); x need not be kept."""
    x = floating(name, x)
    return record_with_output(name, x.backend.evaluate(formula, x.data), (x, vjp))


def exp(x: Operand) -> Tensor:
    """e to the power x."""
    return _with_output("exp", np.exp, x, lambda grad, out: grad * out)


def expm1(x: Operand) -> Tensor:
    """exp(x) - 1, also precise near 0."""
    return _with_input("expm1", np.expm1, x, lambda grad, x: grad * exp(x))


def log(x: Operand) -> Tensor:
    """The natural logarithm of x."""
    return _with_input("log", np.log, x, lambda grad, x: grad / x)


def sqrt(x: Operand) -> Tensor:
    """√x; the gradient at 0 is infinite."""
    return _with_output("sqrt", np.sqrt, x, lambda grad, out: grad * 0.5 / out)


def square(x: Operand) -> Tensor:
    """x²."""
    x = as_tensor("square", x)
    out = x.backend.evaluate(np.square, x.data)
    return record("square", out, (x, lambda grad: grad * (x * 2)))


def absolute(x: Operand) -> Tensor:
    """|x|; the gradient at 0 is 0."""
    x = as_tensor("absolute", x)
    out = x.backend.evaluate(np.absolute, x.data)
    return record("absolute", out, (x, lambda grad: grad * x.backend.xp.sign(x.data)))


abs = absolute


def sin(x: Operand) -> Tensor:
    """The sine of x in radians."""
    return _with_input("sin", np.sin, x, lambda grad, x: grad * cos(x))


def cos(x: Operand) -> Tensor:
    """The cosine of x in radians."""
    return _with_input("cos", np.cos, x, lambda grad, x: -grad * sin(x))


def erf(x: Operand) -> Tensor:
    """The error function, 2/√π ∫₀ˣ exp(-t²) dt."""
    scale = 2 / math.sqrt(math.pi)
    return _with_input("erf", formula.erf, x, lambda grad, x: grad * (scale * _bell(x)))


def _bell(x: Tensor) -> Tensor:
    """exp(-x²)."""
    return _with_input("bell", formula.bell, x, lambda grad, x: grad * (x * _bell(x) * -2))


def clip(x: Operand, low: float | None = None, high: float | None = None) -> Tensor:
    """min(max(x, low), high); the gradient is 0 outside [low, high]."""
    x = as_tensor("clip", x)
    if low is None and high is None:
        raise ArgumentError("clip expects low, high or both")
    low = None if low is None else exact_number("clip: low", low)
    high = None if high is None else exact_number("clip: high", high)
    if not (-math.inf if low is None else low) <= (math.inf if high is None else high):
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
    x, slope = floating("leaky_relu", x), number("leaky_relu: negative_slope", negative_slope)
    return where(x > 0, x, x * slope)


def elu(x: Operand, alpha: float = 1.0) -> Tensor:
    """x for x > 0, else alpha · (exp(x) - 1).

    Clevert, Unterthiner and Hochreiter, "Fast and accurate deep network learning by exponential
    linear units" (2016).
    """
    x, alpha = floating("elu", x), number("elu: alpha", alpha)
    positive = x > 0
    return where(positive, x, expm1(where(positive, 0.0, x)) * alpha)


def _sigmoid(x: Any) -> Any:
    power = np.exp(np.clip(x, -math.inf, _SURE))  # NumPy's minimum of a number takes longer
    power /= 1 + power
    return power


_SURE = 60.0  # σ(60) is 1 in float64; exp(60) is finite in float32


def sigmoid(x: Operand) -> Tensor:
    """σ(x) = 1 / (1 + exp(-x)), without overflow."""
    x = floating("sigmoid", x)
    out = x.backend.evaluate(_sigmoid, x.data)
    return record("sigmoid", out, (x, lambda grad: _sigmoid_gradient(grad, x, out)))


def _sigmoid_vjp(grad: Any, x: Any, out: Any) -> Any:
    with np.errstate(over="ignore"):
        power = np.exp(x)
    power += 1
    return grad * (out / power)


def _sigmoid_gradient(grad: Tensor, x: Tensor, out: Array) -> Tensor:
    """The VJP σ'(x) = σ(x)·σ(-x); from σ(x) alone it would lose all digits for large x."""

    def vjp(upstream: Tensor) -> Tensor:
        return upstream * grad * (-_sigmoid_slope(x) * tanh(x * 0.5))

    data = x.backend.evaluate(_sigmoid_vjp, grad.data, x.data, out)
    return record(
        "sigmoid_gradient", data, (grad, lambda u: _sigmoid_gradient(u, x, out)), (x, vjp)
    )


def _sigmoid_slope(x: Tensor) -> Tensor:
    """σ'(x)."""
    return sigmoid(x) * sigmoid(-x)


def tanh(x: Operand) -> Tensor:
    """The hyperbolic tangent of x."""
    return _with_input("tanh", np.tanh, x, lambda grad, x: grad * _tanh_slope(x))


def _squared_sech(x: Any) -> Any:
    with np.errstate(over="ignore", divide="ignore"):
        power = np.exp(x)
        power += 1 / power
    return np.square(2 / power)


def _tanh_slope(x: Tensor) -> Tensor:
    """1 - tanh²(x), without its cancellation."""

    def vjp(grad: Tensor, x: Tensor) -> Tensor:
        return grad * (_tanh_slope(x) * tanh(x) * -2)

    return _with_input("tanh_slope", _squared_sech, x, vjp)


def _softplus(x: Any) -> Any:
    return np.maximum(x, 0) + np.log1p(np.exp(-np.absolute(x)))


def softplus(x: Operand) -> Tensor:
    """log(1 + exp(x)), without overflow."""
    return _with_input("softplus", _softplus, x, lambda grad, x: grad * sigmoid(x))


def log_sigmoid(x: Operand) -> Tensor:
    """log(1 / (1 + exp(-x))), without overflow."""
    return -softplus(-floating("log_sigmoid", x))


def _silu(x: Any) -> Any:
    return x * _sigmoid(x)


def _silu_vjp(grad: Any, x: Any) -> Any:
    s = _sigmoid(x)
    return grad * (s * (1 + x * (1 - s)))


def silu(x: Operand) -> Tensor:
    """x · sigmoid(x), also called swish.

    Hendrycks and Gimpel, "Gaussian error linear units" (2016).
    """
    return _with_input("silu", _silu, x, _silu_gradient)


def _silu_gradient(grad: Tensor, x: Tensor) -> Tensor:
    """The VJP of ``silu`` in one kernel, and for higher orders the VJPs of this VJP."""

    def vjp(upstream: Tensor) -> Tensor:
        return upstream * grad * (_sigmoid_slope(x) * (2 - x * tanh(x * 0.5)))

    data = x.backend.evaluate(_silu_vjp, grad.data, x.data)
    return record("silu_gradient", data, (grad, lambda u: _silu_gradient(u, x)), (x, vjp))


def gelu(x: Operand, approximate: str = "none") -> Tensor:
    """x · Φ(x), with the cumulative distribution function Φ of the standard normal distribution.

    Hendrycks and Gimpel, "Gaussian error linear units" (2016).

    Args:
        x: A tensor.
        approximate: "none", or "tanh" for the approximation of the paper, with an error of about
            1e-3.
    """
    x = floating("gelu", x)
    if choice("gelu: approximate", approximate, "none", "tanh") == "none":
        return x * _normal_cdf(x)
    # (1 + tanh(u)) / 2 = σ(2u), which is 0 or 1 beyond the limits
    inner = clip(x, -22, 22)
    cubic = inner + 0.044715 * (inner * inner * inner)
    return x * sigmoid(2 * math.sqrt(2 / math.pi) * cubic)


def _cdf(x: Any) -> Any:
    return formula.erfc(x * -math.sqrt(0.5)) * 0.5


def _normal_cdf(x: Tensor) -> Tensor:
    """Φ(x), also precise where it is close to 0."""
    scale = math.sqrt(0.5)

    def vjp(grad: Tensor, x: Tensor) -> Tensor:
        return grad * (_bell(x * scale) * (scale / math.sqrt(math.pi)))

    return _with_input("normal_cdf", _cdf, x, vjp)
