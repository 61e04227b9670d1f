"""The precision of computations: float16 for whole layers, TF32 within matrix products.

Both are off by default. ``autocast`` changes the dtype of arrays and works on every device;
``set_matmul_precision`` changes how the tensor cores of a GPU multiply float32 arrays.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import wraps
from typing import Any, TypeVar

import numpy as np

from tinynn.arguments import choice, flag
from tinynn.autograd import Tensor
from tinynn.backend import get_matmul_precision, set_matmul_precision
from tinynn.scoped import Scoped

__all__ = ["autocast", "get_matmul_precision", "set_matmul_precision"]


F = TypeVar("F", bound=Callable[..., Tensor])

_autocast: Scoped[np.dtype[Any] | None] = Scoped("autocast", None)


def autocast(dtype: str = "float16", enabled: bool = True) -> AbstractContextManager[None]:
    """A context in which convolutions, linear layers and matrix products compute in float16.

    Their float32 operands are converted and their results are float16; a GPU accumulates in
    float32. Normalization, softmax and losses convert back to float32. Parameters and their
    gradients stay float32; use ``optim.LossScaler`` so that small gradients do not underflow.
    Micikevicius et al., "Mixed precision training" (2018).

    It is faster on GPUs with tensor cores (compute capability 7.0 and up); on a CPU it is slow and
    useful for tests only.

    Args:
        dtype: The only choice is "float16".
        enabled: False switches autocasting off within the context.

    Example:
        >>> scaler = optim.LossScaler()
        >>> with tinynn.autocast():
        ...     loss = F.cross_entropy(model(images), labels)
        >>> scaler.scale(loss).backward()
        >>> scaler.step(optimizer)
    """
    choice("autocast: dtype", dtype, "float16")
    chosen = np.dtype(dtype) if flag("autocast: enabled", enabled) else None
    return _autocast.block(lambda before: chosen)


def is_autocast() -> bool:
    """Whether functions on this thread compute in float16."""
    return _autocast.get() is not None


def narrow(*operands: Tensor | None) -> Any:
    """The operands of a matrix product: float32 as float16 inside ``autocast``."""
    dtype = _autocast.innermost.get()[0]
    if dtype is None:
        return operands
    return [
        x.astype(dtype) if isinstance(x, Tensor) and x.dtype == np.float32 else x for x in operands
    ]


def widen(x: Tensor) -> Tensor:
    """The operand of a reduction: float16 as float32 inside ``autocast``."""
    dtype = _autocast.innermost.get()[0]
    return x if dtype is None or x.dtype != dtype else x.astype(np.float32)


def in_float32(function: F) -> F:
    """Decorator of a function that computes float16 operands in float32.

    A square or a product in float16 overflows beyond 65504, also where the sum or mean that it is
    part of would not. The result is float16 again, but float32 inside ``autocast``.
    """

    @wraps(function)
    def wrapper(*operands: Any, **options: Any) -> Tensor:
        first = operands[0] if operands else None
        if isinstance(first, Tensor) and first.data.dtype != np.float16:  # the common case
            return function(*operands, **options)
        floats = filter(_is_floating, (*operands, *options.values()))
        if {operand.dtype for operand in floats} != {np.dtype(np.float16)}:
            return function(*operands, **options)
        wide = {name: _to_float32(value) for name, value in options.items()}
        out = function(*map(_to_float32, operands), **wide)
        return out if is_autocast() else out.astype(np.float16)

    return wrapper  # type: ignore[return-value]


def _is_floating(operand: Any) -> bool:
    return isinstance(operand, (Tensor, np.ndarray)) and operand.dtype.kind == "f"


def _to_float32(operand: Any) -> Any:
    return operand.astype(np.float32) if _is_floating(operand) else operand
