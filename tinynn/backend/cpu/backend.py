"""The table of CPU kernels: which kernels of the reference have a faster form, and where it is."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np

from tinynn.backend.cpu import (
    buffers,
    elementwise,
    linalg,
    normalization,
    pooling,
    reduction,
    threads,
    update,
)
from tinynn.backend.cpu.convolution import kernels as convolution
from tinynn.backend.cpu.convolution import pooled
from tinynn.backend.cpu.elementwise import without_underflow
from tinynn.backend.cpu.system import available_memory
from tinynn.backend.reference import Array, Backend


class NumpyBackend(Backend):
    """NumPy, with cache-sized tiles on several threads.

    Each entry is a function whose first parameter is the backend. A kernel that is not listed is
    the reference's.
    """

    xp = np
    device = "cpu"

    session = threads.session

    conv2d = convolution.conv2d
    conv2d_input_gradient = convolution.conv2d_input_gradient
    conv2d_weight_gradient = convolution.conv2d_weight_gradient
    conv2d_gradients = convolution.conv2d_gradients
    conv2d_relu_pool = pooled.conv2d_relu_pool
    conv2d_relu_pool_gradients = pooled.conv2d_relu_pool_gradients

    max_pool2d = pooling.max_pool2d
    max_pool2d_scatter = pooling.max_pool2d_scatter
    sum_pool2d = pooling.sum_pool2d
    sum_pool2d_adjoint = pooling.sum_pool2d_adjoint

    batch_norm = normalization.batch_norm
    batch_norm_gradient = normalization.batch_norm_gradient

    evaluate = elementwise.evaluate
    relu = elementwise.relu
    relu_gradient = elementwise.relu_gradient
    elementwise = elementwise.elementwise  # last: it shadows the module

    matmul = linalg.matmul

    sum = reduction.total
    mean = reduction.mean
    sum_of_squares = reduction.sum_of_squares

    update = update.update  # last: it shadows the module

    def __init__(self) -> None:
        buffers.keep_freed_memory()

    def to_host(self, array: Array) -> np.ndarray:
        return np.asarray(array)

    def held_memory(self) -> dict[str, int]:
        return {"buffers": buffers.held_bytes()}

    def free_memory(self) -> None:
        buffers.free_buffers()

    def available_memory(self) -> int:
        return available_memory()

    def peek(self, array: Array) -> Any | None:
        return array.item()

    def scatter_add(self, shape: tuple[int, ...], index: Any, values: Array) -> Array:
        parts = index if isinstance(index, tuple) else (index,)
        if any(isinstance(part, np.ndarray) and part.dtype != np.bool_ for part in parts):
            return super().scatter_add(shape, index, values)
        out = np.zeros(shape, dtype=values.dtype)  # only integer arrays can select an element twice
        out[index] = values
        return out

    def random_bits(self, seed: int, position: int, count: int) -> Array:
        # NumPy's compiled generator increments its counter before it generates a block
        counter = (position - 1) % (1 << 256)
        generator = np.random.Philox(key=seed & ((1 << 64) - 1), counter=counter)
        return np.asarray(generator.random_raw(-(-count // 2))).view(np.uint32)[:count]


_IN_PLACE = {"batch_norm", "accumulate_metrics", "update", "unscale"}
_EXACT = {  # kernels without rounding to 0, or that allow for it themselves
    *("session", "meter", "peek", "uploads", "synchronize", "from_host", "to_host"),
    *("held_memory", "free_memory", "available_memory", "elementwise", "evaluate", "add_bias"),
    *(
        "check_index",
        "gather",
        "scatter_add",
        "pad_image",
        "max_pool2d",
        "relu",
        "relu_gradient",
        "random_bits",
    ),
    *("max_pool2d_scatter", "max_pool2d_gather", "relu_max_pool2d_gradient", "check_labels"),
}


def _allow_underflow(kernel: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(kernel)
    def call(*arguments: Any, **options: Any) -> Any:
        try:
            return kernel(*arguments, **options)
        except (FloatingPointError, RuntimeWarning):
            return without_underflow(kernel, *arguments, **options)

    return call


for _name, _kernel in vars(Backend).items():  # whatever numpy.seterr demands
    if callable(_kernel) and not _name.startswith("_") and _name not in _EXACT:
        guard = np.errstate(under="ignore") if _name in _IN_PLACE else _allow_underflow
        setattr(NumpyBackend, _name, guard(getattr(NumpyBackend, _name)))
