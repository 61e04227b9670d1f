"""``tinynn.memory``: what the library keeps for the next step, and how to give it back.

>>> tinynn.memory.held("cpu")
{'buffers': 25165824}
>>> tinynn.memory.free("cpu")
"""

from __future__ import annotations

from tinynn.backend import default_device, get_backend, set_buffer_limit
from tinynn.errors import ArgumentError


def held(device: str | None = None) -> dict[str, int]:
    """Bytes by kind on a device (default: the default device).

    On a CPU "buffers": the work space of the kernels on all threads; arrays of tensors are Python
    objects and not counted. On a GPU "arrays" that are in use, "free" memory that CuPy's pool keeps
    for the next arrays, and the number of "pinned" blocks of uploads that are free.
    """
    return get_backend(default_device() if device is None else device).held_memory()


def free(device: str | None = None) -> None:
    """Give back what is kept on a device and not in use. The next step allocates it again."""
    get_backend(default_device() if device is None else device).free_memory()


def set_limit(size: int) -> None:
    """Keep buffers of at most ``size`` bytes on each CPU thread (default: 256 MiB).

    What a kernel needs beyond that is allocated for the call and freed behind it.
    """
    if isinstance(size, bool) or not isinstance(size, int) or size < 0:
        raise ArgumentError(f"memory.set_limit expects a number of bytes >= 0, got {size!r}")
    set_buffer_limit(size)


__all__ = ["free", "held", "set_limit"]
