"""tinynn: a small neural-network library, written from scratch on NumPy and CuPy arrays."""

from tinynn import functional, nn, optim
from tinynn.autograd import Tensor, enable_grad, grad, is_grad_enabled, no_grad
from tinynn.backend import get_num_threads, set_num_threads
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
from tinynn.nn.storage import load, load_extra, save
from tinynn.nn.summary import summary
from tinynn.random import Generator, manual_seed

__version__ = "0.1.0"

__all__ = [
    "Generator",
    "Tensor",
    "TinynnError",
    "arange",
    "enable_grad",
    "eye",
    "from_dlpack",
    "from_numpy",
    "full",
    "functional",
    "get_num_threads",
    "grad",
    "is_grad_enabled",
    "linspace",
    "load",
    "load_extra",
    "manual_seed",
    "nn",
    "no_grad",
    "ones",
    "ones_like",
    "optim",
    "rand",
    "randn",
    "save",
    "set_num_threads",
    "summary",
    "tensor",
    "zeros",
    "zeros_like",
]
