"""tinynn: a small neural-network library, written from scratch on NumPy and CuPy arrays."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tinynn import autograd, creation, functional, memory, precision, profiler, random
from tinynn.autograd import *
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


__all__ = ["TinynnError", "functional", "memory"]
__all__ += [*autograd.__all__, *creation.__all__, *precision.__all__, *profiler.__all__]
__all__ += random.__all__
# settings of the backends
__all__ += ["default_device", "devices", "set_default_device"]
__all__ += ["get_conv2d_algorithm", "get_num_threads", "set_conv2d_algorithm", "set_num_threads"]
# imported on first access
__all__ += ["data", "nn", "optim", "training", "vision"]
__all__ += ["load", "load_extra", "save", "summary"]
