"""An NVIDIA GPU through CuPy.

The reference kernels of ``Backend`` run on CuPy's arrays as they are. Where one CUDA kernel does
the work of several, a class here overrides them: ``convolution.py`` has the calls and
``convolution.cu`` beside it the kernels, and so on.
"""

from __future__ import annotations

import numpy as np

from tinynn.backend.base import Array
from tinynn.backend.cuda.convolution import Convolution
from tinynn.backend.cuda.elementwise import Elementwise
from tinynn.backend.cuda.pooling import Pooling
from tinynn.backend.cuda.random import Random
from tinynn.backend.cuda.reduction import Reduction
from tinynn.backend.cuda.softmax import Softmax
from tinynn.backend.cuda.update import Update


class CupyBackend(Convolution, Pooling, Reduction, Softmax, Elementwise, Random, Update):
    """Kernels on one CUDA device."""

    def to_host(self, array: Array) -> np.ndarray:
        host: np.ndarray = self.xp.asnumpy(array)
        self.raise_label_errors()
        return host


__all__ = ["CupyBackend"]
