"""How exactly products are computed: float16 for whole layers, TF32 within matrix products.

Both are off unless asked for. ``autocast`` is about what arrays hold, and works everywhere;
``set_matmul_precision`` is about what a GPU's tensor cores make of float32 factors.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np

from tinynn.autograd import Tensor
from tinynn.backend import get_matmul_precision, set_matmul_precision
from tinynn.errors import ArgumentError

OptionalTensor = TypeVar("OptionalTensor", Tensor, Tensor | None)

__all__ = ["autocast", "get_matmul_precision", "set_matmul_precision"]


class _Mode(threading.local):
    dtype: np.dtype[Any] | None = None


_mode = _Mode()


@contextmanager
def autocast(dtype: str = "float16", enabled: bool = True) -> Iterator[None]:
    """A context in which convolutions, linear layers and matrix products compute in float16.

    float32 operands of those functions are converted, their results are float16, and sums are made
    in float32 on a GPU. Normalization, softmax and losses convert back to float32. Parameters stay
    float32, and so do their gradients; use ``optim.LossScaler`` so that small ones do not become 0.
    Micikevicius and others, "Mixed precision training" (2018).

    Worth its while on GPUs with tensor cores (compute capability 7.0 and up); on a CPU it is slow
    and good for tests only. ``enabled=False`` switches it off within.

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


def narrowed(x: OptionalTensor) -> OptionalTensor:
    """An operand of a product: float32 as float16 inside ``autocast``."""
    if _mode.dtype is None or not isinstance(x, Tensor) or x.dtype != np.float32:
        return x
    return x.astype(_mode.dtype)


def widened(x: Tensor) -> Tensor:
    """An operand of a sum: float16 as float32 inside ``autocast``."""
    return x if _mode.dtype is None or x.dtype != _mode.dtype else x.astype(np.float32)
