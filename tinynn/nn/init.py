"""Initializers: they write random or constant values into a tensor, in place.

Random values come from the sequence of ``tinynn.manual_seed`` and are the same on every device.

The fan-in of a weight is the number of inputs to one output, the fan-out the number of outputs that
one input contributes to: of a linear weight (in, out) they are in and out; of a convolution weight
(kh, kw, in, out) they are kh·kw·in and kh·kw·out.
"""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from tinynn.arguments import flag, number, sizes
from tinynn.autograd import Tensor
from tinynn.changes import note_change
from tinynn.creation import full
from tinynn.errors import ArgumentError, ShapeError
from tinynn.memory import allowance
from tinynn.nn.module import Parameter
from tinynn.random import default_generator


def skip_initialization(limit: int) -> AbstractContextManager[None]:
    """Skip the random initialization of layers whose weights are about to be loaded.

    Raises:
        FileFormatError: The parameters, buffers and new tensors take more than ``limit`` bytes
            together; raised before the memory for them is allocated.
    """
    return allowance.block(lambda before: [limit])


def new_parameter(layer: str, *shape: int, value: float = 0.0) -> Parameter:
    """A float32 parameter on the default device, filled with ``value``.

    Raises:
        ArgumentError: A size is not an integer >= 1.
    """
    return Parameter(full(sizes(f"{layer}: the sizes", shape, 1), value).data)


def new_bias(layer: str, size: int, wanted: bool | None) -> Parameter | None:
    """A parameter of zeros, or None if no bias is wanted."""
    if wanted is None or not flag(f"{layer}: bias", wanted):
        return None
    return new_parameter(layer, size)


def new_buffer(*shape: int, value: float = 0.0) -> Tensor:
    """A float32 tensor on the default device, filled with ``value``."""
    return full(shape, value)


def zeros_(tensor: Tensor) -> None:
    """Fill with 0."""
    constant_(tensor, 0)


def ones_(tensor: Tensor) -> None:
    """Fill with 1."""
    constant_(tensor, 1)


def constant_(tensor: Tensor, value: float) -> None:
    """Fill with ``value``."""
    tensor.backend.xp.copyto(tensor.data, number("constant_: value", value, ends="[]"))
    note_change(tensor)


def uniform_(tensor: Tensor, low: float = 0.0, high: float = 1.0) -> None:
    """Uniform distribution U(low, high)."""
    low = number("uniform_: low", low)
    width = number("uniform_: high", high, low, ends="[)") - low
    _fill(tensor, lambda: low + width * default_generator.uniform(tensor.shape))


def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0) -> None:
    """Normal distribution N(mean, std²)."""
    mean, std = _moments("normal_", mean, std)
    _fill(tensor, lambda: mean + std * default_generator.normal(tensor.shape))


def truncated_normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0) -> None:
    """Normal distribution without the tails: values beyond 2 std are drawn again."""
    mean, std = _moments("truncated_normal_", mean, std)

    def draw() -> np.ndarray[Any, Any]:
        values = default_generator.normal(tensor.shape)
        while (outside := np.abs(values) > 2).any():
            values[outside] = default_generator.normal((int(outside.sum()),))
        return mean + std * values

    _fill(tensor, draw)


def kaiming_uniform_(tensor: Tensor, gain: float = math.sqrt(2)) -> None:
    """U(-a, a) with a = gain · √(3 / fan_in); gain is √2 for ReLU.

    The standard deviation is gain / √fan_in, which keeps the variance of activations constant from
    layer to layer. He, Zhang, Ren and Sun, "Delving deep into rectifiers" (2015).
    """
    bound = _gain(gain) * math.sqrt(3 / fans(tensor)[0])
    uniform_(tensor, -bound, bound)


def kaiming_normal_(tensor: Tensor, gain: float = math.sqrt(2)) -> None:
    """N(0, std²) with std = gain / √fan_in; gain is √2 for ReLU. He et al. (2015)."""
    normal_(tensor, 0.0, _gain(gain) / math.sqrt(fans(tensor)[0]))


def xavier_uniform_(tensor: Tensor, gain: float = 1.0) -> None:
    """U(-a, a) with a = gain · √(6 / (fan_in + fan_out)).

    Glorot and Bengio, "Understanding the difficulty of training deep networks" (2010).
    """
    bound = _gain(gain) * math.sqrt(6 / sum(fans(tensor)))
    uniform_(tensor, -bound, bound)


def xavier_normal_(tensor: Tensor, gain: float = 1.0) -> None:
    """N(0, std²) with std = gain · √(2 / (fan_in + fan_out)). Glorot and Bengio (2010)."""
    normal_(tensor, 0.0, _gain(gain) * math.sqrt(2 / sum(fans(tensor))))


def orthogonal_(tensor: Tensor, gain: float = 1.0) -> None:
    """gain times a random matrix (fan_in, outputs) with orthonormal rows or columns.

    Saxe, McClelland and Ganguli, "Exact solutions to the nonlinear dynamics of learning" (2014).
    """
    if tensor.ndim < 2:
        raise ShapeError(f"orthogonal_ expects at least two axes, got shape {tensor.shape}")
    gain = _gain(gain)
    rows, columns = math.prod(tensor.shape[:-1]), tensor.shape[-1]

    def draw() -> np.ndarray[Any, Any]:
        values = default_generator.normal((max(rows, columns), min(rows, columns)))
        q, r = np.linalg.qr(values)
        q *= np.sign(np.diag(r))  # makes the distribution uniform (Mezzadri, 2007)
        return gain * (q if rows >= columns else q.T).reshape(tensor.shape)

    _fill(tensor, draw)


def fans(tensor: Tensor) -> tuple[int, int]:
    """The fan-in and fan-out of a weight (in, out) or (kh, kw, in, out)."""
    if tensor.ndim < 2 or tensor.size == 0:
        raise ArgumentError(f"a fan-in needs two or more axes, got shape {tensor.shape}")
    area = math.prod(tensor.shape[:-2])
    return area * tensor.shape[-2], area * tensor.shape[-1]


def _gain(gain: float) -> float:
    return number("gain", gain, 0, ends="[)")


def _moments(name: str, mean: float, std: float) -> tuple[float, float]:
    return number(f"{name}: mean", mean), number(f"{name}: std", std, 0, ends="[)")


def _fill(tensor: Tensor, draw: Callable[[], np.ndarray[Any, Any]]) -> None:
    """Write random values, unless initialization is skipped."""
    if allowance.get() is None:
        tensor.data[...] = tensor.backend.from_host(draw().astype(tensor.dtype))
        note_change(tensor)
