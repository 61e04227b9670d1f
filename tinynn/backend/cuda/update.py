"""Optimizer steps on a GPU: all parameters of one dtype in one launch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate as running_sum
from typing import Any

import numpy as np

from tinynn.backend.cuda.device import CudaDevice
from tinynn.backend.cuda.launch import THREADS, kernel, scalar
from tinynn.backend.reference import Array

_MOST = 64  # parameters of a launch: MOST in update.cu
_EACH = 4096  # elements of a block: EACH there
_TABLE = np.dtype(  # the struct Table there
    [(name, np.uint64, _MOST) for name in ("parameter", "grad", "first", "second")]
    + [("size", np.int64, _MOST), ("end", np.int32, _MOST), ("count", np.int32)],
    align=True,
)

Arrays = Sequence[Array]


def sgd_update(
    backend: CudaDevice,
    parameters: Arrays,
    grads: Arrays,
    velocities: Arrays | None,
    learning_rate: float,
    momentum: float,
    nesterov: bool,
    weight_decay: float,
    skip: Array | None = None,
) -> None:
    """SGD."""
    if velocities is None:
        momentum = 0
    numbers = (learning_rate, momentum, np.int32(nesterov), weight_decay)
    _update(backend, "sgd", (parameters, grads, velocities or ()), numbers, skip)


def adam_update(
    backend: CudaDevice,
    parameters: Arrays,
    grads: Arrays,
    firsts: Arrays,
    seconds: Arrays,
    step: int,
    learning_rate: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    decoupled: bool,
    skip: Array | None = None,
) -> None:
    """Adam and AdamW."""
    numbers = (
        learning_rate / (1 - betas[0] ** step),
        betas[0],
        1 - betas[0],
        betas[1],
        1 - betas[1],
        1 / math.sqrt(1 - betas[1] ** step),
        eps,
        0 if decoupled else weight_decay,
        1 - learning_rate * weight_decay if decoupled else 1,
    )
    _update(backend, "adam", (parameters, grads, firsts, seconds), numbers, skip)


def rmsprop_update(
    backend: CudaDevice,
    parameters: Arrays,
    grads: Arrays,
    squares: Arrays,
    velocities: Arrays | None,
    learning_rate: float,
    decay: float,
    eps: float,
    momentum: float,
    weight_decay: float,
    skip: Array | None = None,
) -> None:
    """RMSprop."""
    if velocities is None:
        momentum = 0
    numbers = (learning_rate, decay, 1 - decay, eps, momentum, weight_decay)
    _update(backend, "rmsprop", (parameters, grads, squares, velocities or ()), numbers, skip)


def unscale(backend: CudaDevice, grads: Arrays, factor: Array, found: Array) -> None:
    """Every gradient times the factor, in place; ``found`` becomes true if one overflowed."""
    factor = backend.xp.asarray(factor, dtype="float64" if grads[0].itemsize == 8 else "float32")
    launch = kernel("update", "unscale", grads[0].dtype.name)
    copies = [backend.contiguous(grad) for grad in grads]
    for table, blocks in _tables((copies, copies)):
        launch((blocks,), (THREADS,), (table, factor, found))
    _put_back((grads,), [copies])


def _update(
    backend: CudaDevice,
    name: str,
    columns: tuple[Arrays, ...],
    numbers: tuple[Any, ...],
    skip: Array | None,
) -> None:
    parameters = columns[0]
    launch = kernel("update", name, parameters[0].dtype.name)
    plain = [n if isinstance(n, np.int32) else scalar(n, parameters[0]) for n in numbers]
    copies = [[backend.contiguous(array) for array in column] for column in columns]
    for table, blocks in _tables(tuple(copies)):
        launch((blocks,), (THREADS,), (table, *plain, 0 if skip is None else skip))
    _put_back(columns, copies)


def _put_back(columns: tuple[Arrays, ...], copies: list[list[Array]]) -> None:
    """What was computed in a copy, because its elements do not lie side by side in order."""
    for column, computed in zip(columns, copies, strict=True):
        for array, copy in zip(column, computed, strict=True):
            if copy is not array:
                array[...] = copy


def _tables(columns: tuple[Arrays, ...]) -> Any:
    """The addresses and sizes of up to _MOST parameters at a time, and how many blocks they need.

    Parameters are contiguous, and so is what belongs to them.
    """
    for start in range(0, len(columns[0]), _MOST):
        part = [column[start : start + _MOST] for column in columns]
        table = np.zeros((), _TABLE)
        for name, arrays in zip(("parameter", "grad", "first", "second"), part, strict=False):
            table[name][: len(arrays)] = [array.data.ptr for array in arrays]
        sizes = [array.size for array in part[0]]
        ends = list(running_sum(-(-size // _EACH) for size in sizes))
        table["size"][: len(sizes)] = sizes
        table["end"][: len(sizes)] = ends
        table["count"] = len(sizes)
        if ends[-1]:
            yield table, ends[-1]
