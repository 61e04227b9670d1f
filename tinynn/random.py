"""Counter-based random numbers: a function of (seed, position), the same on every device.

``manual_seed`` sets the library's own sequence, from which initial weights and dropout masks are
drawn. A run that resumes at a position continues the sequence exactly. Shuffling and augmentation
on the host use ``numpy_generator(seed, *position)``.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from numbers import Integral
from typing import Any

import numpy as np

from tinynn.arguments import integer
from tinynn.backend import Array, Backend, get_backend
from tinynn.backend.philox import WORDS_PER_BLOCK
from tinynn.errors import ArgumentError, FileFormatError
from tinynn.files import require_state

__all__ = ["Generator", "manual_seed"]


def _checked_seed(seed: int) -> int:
    return integer("a seed", seed, 0, 2**64 - 1)


class Generator:
    """A position in the random sequence of a seed, which every draw advances.

    Its whole state is ``state``: (seed, position).
    """

    def __init__(self, seed: int = 0) -> None:
        self.state = (_checked_seed(seed), 0)
        self._lock = threading.Lock()

    def take(self, count: int) -> tuple[int, int]:
        """Reserve ``count`` 32-bit words; returns the (seed, position) of the first."""
        with self._lock:
            seed, position = self.state
            self.state = (seed, position + -(-count // WORDS_PER_BLOCK))
        return seed, position

    def state_dict(self) -> dict[str, int]:
        """Seed and position."""
        seed, position = self.state
        return {"seed": seed, "position": position}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what ``state_dict`` returned."""
        require_state("a Generator", state, {"seed": Integral, "position": Integral})
        try:
            self.state = _checked_seed(state["seed"]), integer("position", state["position"], 0)
        except ArgumentError as error:
            raise FileFormatError(f"a Generator's state: {error}") from error

    def bits(self, backend: Backend, count: int) -> Array:
        """``count`` random 32-bit words on a device, the same on every device."""
        return backend.random_bits(*self.take(count), count)

    def uniform(self, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
        """float64 values in [0, 1), generated on the host."""
        words = self.bits(get_backend("cpu"), math.prod(shape))
        uniform: np.ndarray[Any, Any] = words.reshape(shape) * 2.0**-32
        return uniform

    def normal(self, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
        """float64 standard normal values, generated on the host (Box and Muller, 1958)."""
        count = math.prod(shape)
        pairs = -(-count // 2)
        words = self.bits(get_backend("cpu"), 2 * pairs).reshape(2, pairs)
        radius = np.sqrt(-2 * np.log((words[0] + 1.0) * 2.0**-32))
        angle = words[1] * (2 * math.pi * 2.0**-32)
        normal = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
        return normal[:count].reshape(shape)


default_generator = Generator()


def manual_seed(seed: int) -> None:
    """Restart the library's random sequence: initial weights, ``randn``, dropout masks."""
    default_generator.state = (_checked_seed(seed), 0)


def numpy_generator(seed: int, *position: int) -> np.random.Generator:
    """A NumPy generator determined by (seed, position), for randomness on the host."""
    key = [integer("a position", n, 0) for n in position]
    sequence = np.random.SeedSequence(_checked_seed(seed), spawn_key=key)
    return np.random.Generator(np.random.Philox(sequence))
