"""The precision of computations: float16 for whole layers, TF32 within matrix products.

Both are off by default. ``autocast`` changes the dtype of arrays and works on every device;
``set_matmul_precision`` changes how the tensor cores of a GPU multiply float32 arrays.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from tinynn.autograd import Tensor
from tinynn.backend import get_matmul_precision, set_matmul_precision
from tinynn.errors import ArgumentError

__all__ = ["autocast", "get_matmul_precision", "set_matmul_precision"]


class _Mode(threading.local):
    dtype: np.dtype[Any] | None = None


_mode = _Mode()


@contextmanager
def autocast(dtype: str = "float16", enabled: bool = True) -> Iterator[None]:
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
    if dtype != "float16":
        raise ArgumentError(f'autocast expects dtype="float16", got {dtype!r}')
    previous = _mode.dtype
    _mode.dtype = np.dtype(dtype) if enabled else None
    try:
        yield
    finally:
        _mode.dtype = previous


def is_autocast() -> bool:
    """Whether functions on this thread compute in float16."""
    return _mode.dtype is not None


def narrow(*operands: Tensor | None) -> Any:
    """The operands of a matrix product: float32 as float16 inside ``autocast``."""
    if _mode.dtype is None:
        return operands
    return [
        x.astype(_mode.dtype) if isinstance(x, Tensor) and x.dtype == np.float32 else x
        for x in operands
    ]


def widen(x: Tensor) -> Tensor:
    """The operand of a reduction: float16 as float32 inside ``autocast``."""
    return x if _mode.dtype is None or x.dtype != _mode.dtype else x.astype(np.float32)
