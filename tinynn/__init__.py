"""tinynn: a small neural-network library, written from scratch on NumPy and CuPy arrays."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tinynn import creation, functional, memory, precision, profiler, random
from tinynn.autograd import Tensor, enable_grad, grad, is_grad_enabled, no_grad
from tinynn.backend import (
    default_device,
    devices,
    get_conv2d_algorithm,
    get_num_threads,
    set_conv2d_algorithm,
    set_default_device,
    set_num_threads,
)
from tinynn.creation import *
from tinynn.errors import TinynnError
from tinynn.precision import *
from tinynn.profiler import *
from tinynn.random import *

if TYPE_CHECKING:
    from tinynn import data, nn, optim, training, vision
    from tinynn.nn.serialization import load, load_extra, save
    from tinynn.nn.summary import summary

__version__ = "0.1.0"

_LAZY = {  # imported on first access, so that ``import tinynn`` stays fast
    **{name: f"tinynn.{name}" for name in ("data", "nn", "optim", "training", "vision")},
    **dict.fromkeys(("load", "load_extra", "save"), "tinynn.nn.serialization"),
    "summary": "tinynn.nn.summary",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'tinynn' has no attribute {name!r}")
    module = import_module(_LAZY[name])
    value = module if module.__name__ == f"tinynn.{name}" else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})


__all__ = [
    *creation.__all__,
    *precision.__all__,
    *profiler.__all__,
    *random.__all__,
    "Tensor",
    "TinynnError",
    "data",
    "default_device",
    "devices",
    "enable_grad",
    "functional",
    "get_conv2d_algorithm",
    "get_num_threads",
    "grad",
    "is_grad_enabled",
    "load",
    "load_extra",
    "memory",
    "nn",
    "no_grad",
    "optim",
    "save",
    "set_conv2d_algorithm",
    "set_default_device",
    "set_num_threads",
    "summary",
    "training",
    "vision",
]
