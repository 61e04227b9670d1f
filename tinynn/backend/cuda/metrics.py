"""The running metrics of an epoch on a GPU."""

import numpy as np

from tinynn.backend.cuda.device import CudaDevice
from tinynn.backend.cuda.launch import KernelFile, accumulate
from tinynn.backend.reference import NO_CLASSIFIER, Array

_kernels = KernelFile("metrics")


def accumulate_metrics(
    backend: CudaDevice,
    totals: Array,
    failed: Array,
    loss: Array,
    examples: int,
    logits: Array,
    labels: Array,
) -> None:
    """Add a batch to the running loss and accuracy, in one launch."""
    rows, classes = logits.shape
    loss = loss.astype(accumulate(logits), copy=False)
    logits = backend.contiguous(logits)
    labels = backend.contiguous(labels.astype(np.int64, copy=False))
    scores = (logits, labels, rows, np.int32(classes), NO_CLASSIFIER)
    arguments = (loss, examples, *scores, totals, failed)
    _kernels.launch("accumulate_metrics", logits.dtype, (1,), *arguments)
