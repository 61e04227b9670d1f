"""The base class itself on NumPy arrays: what every backend is compared with."""

import numpy as np

from tinynn.backend import Backend


class Reference(Backend):
    """The reference kernels, without anything faster."""

    xp = np
    array_type = np.ndarray
    device = "cpu"


PLAIN = Reference()
