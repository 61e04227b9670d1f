"""Level 0: devices, their arrays, and every numeric kernel.

``Backend`` is the readable reference of all kernels; ``NumpyBackend`` and ``CupyBackend`` override
the ones that their hardware runs faster. Upper levels use ``tensor.backend`` without checking which
one it is, and import from here only: device settings are re-exported below.
"""

from tinynn.backend.cpu.buffers import set_buffer_limit
from tinynn.backend.cpu.convolution.choice import get_conv2d_algorithm, set_conv2d_algorithm
from tinynn.backend.cpu.system import usable_cores
from tinynn.backend.cpu.threads import get_num_threads, set_num_threads
from tinynn.backend.cuda.precision import get_matmul_precision, set_matmul_precision
from tinynn.backend.inventory import Device, Devices, devices
from tinynn.backend.reference import Array, Backend, BatchNorm, NeedsGrad, Normalized, PooledGrad
from tinynn.backend.registry import (
    backend_of,
    default_backend,
    default_device,
    get_backend,
    set_default_device,
)
from tinynn.backend.window import Window, same_padding

__all__ = ["Array", "Backend", "Window", "backend_of", "same_padding"]
__all__ += ["BatchNorm", "NeedsGrad", "Normalized", "PooledGrad"]
__all__ += ["Device", "Devices", "default_backend", "default_device", "devices", "get_backend"]
# settings
__all__ += ["get_conv2d_algorithm", "get_matmul_precision", "get_num_threads", "set_buffer_limit"]
__all__ += ["set_conv2d_algorithm", "set_default_device", "set_matmul_precision", "set_num_threads"]
__all__ += ["usable_cores"]
