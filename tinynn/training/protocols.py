"""Interfaces of data loaders, loss functions and metrics."""

from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tinynn.autograd import Tensor

LossFunction = Callable[[Tensor, Tensor], Tensor]
"""``loss_function(logits, labels)`` returns the mean loss of a batch, a scalar tensor."""

Metric = Callable[[npt.NDArray[np.floating], npt.NDArray[np.int64]], float]
"""``metric(logits, labels)`` takes all examples as NumPy arrays and returns a number."""


class Loader(Protocol):
    """Iterates over the batches of an epoch: a ``DataLoader``, or a list of (images, labels)."""

    def __len__(self) -> int:
        """The number of batches."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Each batch as (images, labels)."""
