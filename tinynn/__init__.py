"""tinynn: a small neural-network library, written from scratch on NumPy and CuPy arrays."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tinynn import functional, memory
from tinynn.autograd import Tensor, enable_grad, grad, is_grad_enabled, no_grad
from tinynn.backend import (
    default_device,
    get_conv2d_algorithm,
    get_num_threads,
    set_conv2d_algorithm,
    set_default_device,
    set_num_threads,
)
from tinynn.backend.inventory import devices
from tinynn.creation import (
    arange,
    eye,
    from_dlpack,
    from_numpy,
    full,
    linspace,
    ones,
    ones_like,
    rand,
    randn,
    tensor,
    zeros,
    zeros_like,
)
from tinynn.errors import TinynnError
from tinynn.precision import autocast, get_matmul_precision, set_matmul_precision
from tinynn.profiler import Trace, trace
from tinynn.random import Generator, manual_seed

if TYPE_CHECKING:
    from tinynn import data, nn, optim, training, vision
    from tinynn.nn.serialization import load, load_extra, save
    from tinynn.nn.summary import summary

__version__ = "0.1.0"

_UPPER_FLOORS = {
    **dict.fromkeys(("data", "nn", "optim", "training", "vision"), ""),
    **dict.fromkeys(("load", "load_extra", "save"), "nn.serialization"),
    "summary": "nn.summary",
}


def __getattr__(name: str) -> Any:
    """What lies above the functions is imported when it is first asked for."""
    if name not in _UPPER_FLOORS:
        raise AttributeError(f"module 'tinynn' has no attribute {name!r}")
    place = _UPPER_FLOORS[name]
    value = (
        getattr(import_module(f"tinynn.{place}"), name)
        if place
        else import_module(f"tinynn.{name}")
    )
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_UPPER_FLOORS})


__all__ = [
    "Generator",
    "Tensor",
    "TinynnError",
    "Trace",
    "arange",
    "autocast",
    "data",
    "default_device",
    "devices",
    "enable_grad",
    "eye",
    "from_dlpack",
    "from_numpy",
    "full",
    "functional",
    "get_conv2d_algorithm",
    "get_matmul_precision",
    "get_num_threads",
    "grad",
    "is_grad_enabled",
    "linspace",
    "load",
    "load_extra",
    "manual_seed",
    "memory",
    "nn",
    "no_grad",
    "ones",
    "ones_like",
    "optim",
    "rand",
    "randn",
    "save",
    "set_conv2d_algorithm",
    "set_default_device",
    "set_matmul_precision",
    "set_num_threads",
    "summary",
    "tensor",
    "trace",
    "training",
    "vision",
    "zeros",
    "zeros_like",
]
