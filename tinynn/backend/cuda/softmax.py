"""Softmax cross-entropy on a GPU: the forward and the backward pass in one launch each."""

from typing import Any

import numpy as np

from tinynn.backend.cuda.device import CudaDevice
from tinynn.backend.cuda.launch import KernelFile, accumulate, lanes_for
from tinynn.backend.cuda.tuning import BLOCKS_PER_MULTIPROCESSOR, THREADS
from tinynn.backend.reference import Array

_kernels = KernelFile("softmax")


def cross_entropy(
    backend: CudaDevice, logits: Array, labels: Array, origin: str | None
) -> tuple[Any, Any]:
    """The mean loss; for each row its maximum and log(sum(exp(logits - maximum)))."""
    logits, labels = backend.contiguous(logits), backend.contiguous(labels)
    rows, classes = logits.shape
    lanes = lanes_for(classes)
    most = BLOCKS_PER_MULTIPROCESSOR * backend.multiprocessors
    blocks = min(most, -(-rows * lanes // THREADS))
    kept = backend.xp.empty((rows, 2), accumulate(logits))
    partial = backend.xp.empty(blocks, np.float64)
    loss = backend.xp.empty((), logits.dtype)
    fault = backend.label_checks.new_word(backend.xp, classes, origin)
    sizes = (rows, np.int32(classes), np.int32(lanes))
    arguments = (logits, labels, *sizes, kept, partial, backend.tickets(1), fault, loss)
    _kernels.launch("cross_entropy", logits.dtype, (blocks,), *arguments)
    return loss, kept


def cross_entropy_gradient(
    backend: CudaDevice, grad: Array, logits: Array, kept: Array, labels: Array
) -> Array:
    """(softmax - one-hot) * grad / rows."""
    logits, labels = backend.contiguous(logits), backend.contiguous(labels)
    rows, classes = logits.shape
    out = backend.xp.empty_like(logits)
    arguments = (grad, logits, kept, labels, rows, np.int32(classes), out)
    _kernels.for_each("cross_entropy_gradient", logits.dtype, out.size, *arguments)
    return out


def check_labels(backend: CudaDevice, labels: Array, classes: int, origin: str | None) -> None:
    """Check labels without synchronizing; the next ``to_host`` raises the error."""
    if labels.size:
        labels = backend.contiguous(backend.xp.asarray(labels, dtype=backend.xp.int64))
        fault = backend.label_checks.new_word(backend.xp, classes, origin)
        arguments = (labels, labels.size, np.int32(classes), fault)
        _kernels.for_each("check_labels", "float32", labels.size, *arguments)
