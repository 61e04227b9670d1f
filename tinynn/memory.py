"""``tinynn.memory``: memory that the library caches for the next step, and how to release it.

Example:
    >>> tinynn.memory.held("cpu")
    {'buffers': 25165824}
    >>> tinynn.memory.free("cpu")
"""

from __future__ import annotations

import math

from tinynn.arguments import integer
from tinynn.backend import default_device, get_backend, set_buffer_limit
from tinynn.errors import FileFormatError
from tinynn.scoped import Scoped

__all__ = ["free", "held", "set_limit"]


# [bytes that new tensors may still take] while a file describes what is constructed; None: no limit
allowance: Scoped[list[int] | None] = Scoped("allowance", None)


def take_from_allowance(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Count a new float32 array of this shape, before it is allocated.

    Raises:
        FileFormatError: It is larger than what is left.
    """
    rest = allowance.get()
    if rest is not None:
        rest[0] -= 4 * math.prod(shape)
        if rest[0] < 0:
            raise FileFormatError(f"an array of shape {shape} is larger than the file")
    return shape


def held(device: str | None = None) -> dict[str, int]:
    """Bytes by kind on a device (default: the default device).

    On a CPU, "buffers" are the scratch buffers of the kernels on all threads; arrays of tensors are
    Python objects and not counted. On a GPU, "arrays" are in use, "free" is cached by CuPy's memory
    pool for the next arrays, and "pinned" is the number of free blocks for uploads.
    """
    return get_backend(default_device() if device is None else device).held_memory()


def free(device: str | None = None) -> None:
    """Release cached memory that is not in use; the next step allocates it again."""
    get_backend(default_device() if device is None else device).free_memory()


def set_limit(size: int) -> None:
    """Cache scratch buffers of at most ``size`` bytes per CPU thread (default: 256 MiB).

    Larger buffers are allocated for one call and freed after it.
    """
    set_buffer_limit(integer("memory.set_limit: the bytes", size, 0))
