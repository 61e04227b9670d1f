"""Floor 0: devices, their arrays, and every numeric kernel.

``Backend`` is the readable reference of all kernels; ``NumpyBackend`` and ``CupyBackend`` override
what their machine does faster. Upper floors ask a tensor for its backend, never which one it is.
"""

from tinynn.backend.cpu.threads import (
    get_num_threads,
    set_num_threads,
    single_threaded_blas,
)
from tinynn.backend.inventory import Device, Devices
from tinynn.backend.reference import Array, Backend, Wanted
from tinynn.backend.registry import (
    backend_of,
    default_backend,
    default_device,
    get_backend,
    set_default_device,
)
from tinynn.backend.window import Window, same_padding

__all__ = [
    "Array",
    "Backend",
    "Device",
    "Devices",
    "Wanted",
    "Window",
    "backend_of",
    "default_backend",
    "default_device",
    "get_backend",
    "get_num_threads",
    "same_padding",
    "set_default_device",
    "set_num_threads",
    "single_threaded_blas",
]
