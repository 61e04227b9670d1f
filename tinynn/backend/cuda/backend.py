"""An NVIDIA GPU through CuPy.

The reference kernels of ``Backend`` run on CuPy's arrays as they are. Where one CUDA kernel does
the work of several, a class here overrides them: ``convolution.py`` has the calls and
``convolution.cu`` beside it the kernels, and so on.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

import numpy as np

from tinynn.backend import tracing
from tinynn.backend.cuda.convolution import Convolution
from tinynn.backend.cuda.elementwise import Elementwise
from tinynn.backend.cuda.errors import explaining
from tinynn.backend.cuda.metrics import Figures
from tinynn.backend.cuda.normalization import Normalization
from tinynn.backend.cuda.pooling import Pooling
from tinynn.backend.cuda.random import Random
from tinynn.backend.cuda.reduction import Reduction
from tinynn.backend.cuda.softmax import Softmax
from tinynn.backend.cuda.update import Update
from tinynn.backend.cuda.upload import Transfer
from tinynn.backend.reference import Array


class CupyBackend(
    Convolution,
    Normalization,
    Pooling,
    Reduction,
    Softmax,
    Elementwise,
    Random,
    Update,
    Figures,
    Transfer,
):
    """Kernels on one CUDA device."""

    def session(self) -> AbstractContextManager[None]:
        return explaining()

    def from_host(self, array: np.ndarray) -> Array:
        with explaining(), tracing.transfer("upload", array.nbytes):
            return self.xp.asarray(array)

    def synchronize(self) -> None:
        self.xp.cuda.get_current_stream().synchronize()

    def to_host(self, array: Array) -> np.ndarray:
        with explaining(), tracing.transfer("download", array.nbytes):
            host: np.ndarray = self.xp.asnumpy(array)
        self.raise_label_errors()
        return host


__all__ = ["CupyBackend"]
