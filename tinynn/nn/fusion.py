"""The one place that recognises layers which are faster together.

``Sequential`` runs its layers through ``run``. Users write ordinary layers, and the results are
those of the layers one by one: a run of layers is fused only if nobody looks in between.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeGuard

from tinynn import functional as F
from tinynn.autograd import Tensor
from tinynn.errors import TinynnError
from tinynn.nn.activation import ReLU
from tinynn.nn.convolution import Conv2d
from tinynn.nn.module import Module, note_call
from tinynn.nn.pooling import MaxPool2d


def run(modules: Sequence[Module], x: Any) -> Any:
    """The modules one after the other, fused where they can be."""
    position = 0
    while position < len(modules):
        three = tuple(modules[position : position + 3])
        if isinstance(x, Tensor) and _is_conv_relu_pool(three):
            x = _conv_relu_pool(*three, x)
            position += 3
        else:
            x = modules[position](x)
            position += 1
    return x


def _is_conv_relu_pool(
    modules: tuple[Module, ...],
) -> TypeGuard[tuple[Conv2d, ReLU, MaxPool2d]]:
    if tuple(map(type, modules)) != (Conv2d, ReLU, MaxPool2d):
        return False
    conv, _, pool = modules
    assert isinstance(conv, Conv2d)
    assert isinstance(pool, MaxPool2d)
    plain = conv.groups == 1 and pool.padding == 0 and pool.dilation == 1
    return plain and not any(module.is_observed for module in modules)


def _conv_relu_pool(conv: Conv2d, relu: ReLU, pool: MaxPool2d, x: Tensor) -> Any:
    try:
        out = F.conv2d_relu_max_pool2d(
            x,
            conv.weight,
            conv.bias,
            conv.stride,
            conv.padding,
            conv.dilation,
            pool.kernel_size,
            pool.stride,
            pool.ceil_mode,
        )
    except TinynnError:
        return pool(relu(conv(x)))  # raises again, and names the layer
    note_call((conv, relu, pool), out)
    return out
