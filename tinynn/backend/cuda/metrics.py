"""The metrics of an epoch on a GPU."""

from __future__ import annotations

import numpy as np

from tinynn.backend.cuda.launch import THREADS, CudaKernels, accumulate, kernel
from tinynn.backend.reference import Array


class Figures(CudaKernels):
    """Loss and accuracy so far, in one launch a batch."""

    def accumulate_metrics(
        self, totals: Array, failed: Array, loss: Array, logits: Array, labels: Array
    ) -> None:
        rows, classes = logits.shape
        loss = loss.astype(accumulate(logits), copy=False)
        labels = self.contiguous(labels.astype(np.int64, copy=False))
        launch = kernel("metrics", "accumulate_metrics", logits.dtype.name)
        sizes = (rows, np.int32(classes))
        launch((1,), (THREADS,), (loss, self.contiguous(logits), labels, *sizes, totals, failed))
