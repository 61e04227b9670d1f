"""Initial values of parameters, written in place; drawn from the sequence of ``manual_seed``.

For a linear weight (in, out) and a convolution weight (kh, kw, in, out) the fan-in is the number of
inputs to one output, the fan-out the number of outputs that one input reaches.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np

from tinynn.autograd import Tensor
from tinynn.errors import ArgumentError, FileFormatError, ShapeError
from tinynn.random import default_generator


class _Allowance:
    """How many numbers new parameters and buffers may still hold."""

    def __init__(self, numbers: int) -> None:
        self.numbers = numbers


_skipped: ContextVar[_Allowance | None] = ContextVar("skipped", default=None)


@contextmanager
def skip_initialization(limit: int) -> Iterator[None]:
    """Draw no initial values: for a model whose values are about to be loaded.

    Layers that hold more than ``limit`` numbers together raise FileFormatError before they take
    the memory for them.
    """
    token = _skipped.set(_Allowance(limit))
    try:
        yield
    finally:
        _skipped.reset(token)


def new_array(shape: tuple[int, ...], value: float = 0.0) -> np.ndarray[Any, Any]:
    """A float32 array for a new parameter or buffer, the same value everywhere."""
    allowance = _skipped.get()
    if allowance is not None:
        allowance.numbers -= math.prod(shape)
        if allowance.numbers < 0:
            raise FileFormatError(f"an array of shape {shape} is more than the file holds")
    return np.full(shape, value, dtype=np.float32)


def zeros_(tensor: Tensor) -> None:
    """All zeros."""
    constant_(tensor, 0)


def ones_(tensor: Tensor) -> None:
    """All ones."""
    constant_(tensor, 1)


def constant_(tensor: Tensor, value: float) -> None:
    """The same value everywhere."""
    tensor.backend.xp.copyto(tensor.data, value)


def uniform_(tensor: Tensor, low: float = 0.0, high: float = 1.0) -> None:
    """Uniform between low and high."""
    if not _skipped.get():
        _write(tensor, low + (high - low) * default_generator.uniform(tensor.shape))


def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0) -> None:
    """Normal with this mean and standard deviation."""
    if not _skipped.get():
        _write(tensor, mean + std * default_generator.normal(tensor.shape))


def truncated_normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0) -> None:
    """Normal, with values beyond two standard deviations drawn again."""
    if _skipped.get():
        return
    values = default_generator.normal(tensor.shape)
    while (outside := np.abs(values) > 2).any():
        values[outside] = default_generator.normal((int(outside.sum()),))
    _write(tensor, mean + std * values)


def kaiming_uniform_(tensor: Tensor, gain: float = math.sqrt(2)) -> None:
    """Uniform with standard deviation gain / √fan-in, gain √2 for ReLU.

    He, Zhang, Ren and Sun, "Delving deep into rectifiers" (2015).
    """
    bound = gain * math.sqrt(3 / fans(tensor)[0])
    uniform_(tensor, -bound, bound)


def kaiming_normal_(tensor: Tensor, gain: float = math.sqrt(2)) -> None:
    """Normal with standard deviation gain / √fan-in, gain √2 for ReLU. He and others (2015)."""
    normal_(tensor, 0.0, gain / math.sqrt(fans(tensor)[0]))


def xavier_uniform_(tensor: Tensor, gain: float = 1.0) -> None:
    """Uniform with standard deviation gain · √(2 / (fan-in + fan-out)).

    Glorot and Bengio, "Understanding the difficulty of training deep networks" (2010).
    """
    bound = gain * math.sqrt(6 / sum(fans(tensor)))
    uniform_(tensor, -bound, bound)


def xavier_normal_(tensor: Tensor, gain: float = 1.0) -> None:
    """Normal with standard deviation gain · √(2 / (fan-in + fan-out)). Glorot and Bengio (2010)."""
    normal_(tensor, 0.0, gain * math.sqrt(2 / sum(fans(tensor))))


def orthogonal_(tensor: Tensor, gain: float = 1.0) -> None:
    """A random matrix (fan-in, outputs) with orthonormal rows or columns, times gain.

    Saxe, McClelland and Ganguli, "Exact solutions to the nonlinear dynamics of learning" (2014).
    """
    if tensor.ndim < 2:
        raise ShapeError(f"orthogonal_ expects at least two axes, got shape {tensor.shape}")
    if _skipped.get():
        return
    rows, columns = math.prod(tensor.shape[:-1]), tensor.shape[-1]
    values = default_generator.normal((max(rows, columns), min(rows, columns)))
    q, r = np.linalg.qr(values)
    q *= np.sign(np.diag(r))  # uniform over all rotations (Mezzadri, 2007)
    _write(tensor, gain * (q if rows >= columns else q.T).reshape(tensor.shape))


def fans(tensor: Tensor) -> tuple[int, int]:
    """Fan-in and fan-out of a weight (in, out) or (kh, kw, in, out)."""
    if tensor.ndim < 2 or tensor.size == 0:
        raise ArgumentError(f"a fan-in needs a weight with two axes or more, got {tensor.shape}")
    taps = math.prod(tensor.shape[:-2])
    return taps * tensor.shape[-2], taps * tensor.shape[-1]


def _write(tensor: Tensor, values: np.ndarray[Any, Any]) -> None:
    tensor.data[...] = tensor.backend.from_host(values.astype(tensor.dtype))
