"""Softmax cross-entropy on a GPU: the forward and the backward pass in one launch each."""

from typing import Any

import numpy as np

from tinynn.backend.cuda.device import CudaDevice
from tinynn.backend.cuda.launch import KernelFile, accumulate, lanes_for
from tinynn.backend.cuda.tuning import BLOCKS_PER_MULTIPROCESSOR, THREADS
from tinynn.backend.reference import Array, label_error
from tinynn.errors import InvalidIndexError

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
    fault = _new_word(backend, classes, origin)
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
        _check(backend, labels, 0, classes, _new_word(backend, classes, origin))


def check_index(backend: CudaDevice, x: Array, index: Any) -> None:
    """Check indices as labels are checked; CuPy takes them modulo the length of their axis."""
    parts = index if isinstance(index, tuple) else (index,)
    if not any(isinstance(part, backend.xp.ndarray) for part in parts):
        return
    counts = [_axes_of(part) for part in parts]
    axis = 0
    for part, count in zip(parts, counts, strict=True):
        if getattr(part, "size", 0) and part.dtype.kind in "iu" and x.shape[axis] < 1 << 30:
            _check_axis(backend, part, x.shape[axis])
        axis += x.ndim - sum(counts) if part is Ellipsis else count


def _axes_of(part: Any) -> int:
    """The number of axes that a part of an index takes; 0 for an ellipsis, which takes the rest."""
    if part is None or part is Ellipsis or isinstance(part, bool):
        return 0
    return int(part.ndim) if getattr(part, "dtype", None) == np.bool_ else 1


def _check_axis(backend: CudaDevice, index: Array, length: int) -> None:
    def error(label: int, row: int) -> InvalidIndexError:
        return InvalidIndexError(
            f"index {label - length} is out of range for an axis of length {length}"
        )

    fault = backend.label_checks.new_word(backend.xp, error)
    _check(backend, index, length, 2 * length, fault)  # valid from -length to length - 1


def _new_word(backend: CudaDevice, classes: int, origin: str | None) -> int:
    return backend.label_checks.new_word(
        backend.xp, lambda label, row: label_error(classes, label, row, origin)
    )


def _check(backend: CudaDevice, labels: Array, offset: int, count: int, fault: int) -> None:
    """Check that labels + offset are in [0, count)."""
    labels = backend.contiguous(backend.xp.asarray(labels, dtype=np.int64))
    arguments = (labels, labels.size, offset, np.int32(count), fault)
    _kernels.for_each("check_labels", "float32", labels.size, *arguments)
