"""The one place that recognizes layers which are faster together.

``Sequential`` runs its layers through ``run``. Users write ordinary layers, and the results are
those of the layers one by one, up to rounding: layers are joined only if nobody looks in between.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from tinynn import functional as F
from tinynn.autograd import Tensor
from tinynn.backend import tracing
from tinynn.errors import TinynnError
from tinynn.nn.activation import ReLU
from tinynn.nn.convolution import Conv2d
from tinynn.nn.module import Module, note_call
from tinynn.nn.normalization import BatchNorm2d
from tinynn.nn.pooling import MaxPool2d


class _Joined(NamedTuple):
    """A convolution and what can be computed with it; at least one of the others is there."""

    conv: Conv2d
    norm: BatchNorm2d | None
    pool: MaxPool2d | None
    modules: tuple[Module, ...]


def run(modules: Sequence[Module], x: Any) -> Any:
    """The modules one after the other, joined where they can be."""
    position = 0
    while position < len(modules):
        joined = _recognize(modules, position) if isinstance(x, Tensor) else None
        if joined is None:
            x = modules[position](x)
        elif tracing.active is None:
            x = _run_joined(joined, x)
        else:
            x = tracing.active.call(joined.modules, _run_joined, joined, x)
        position += 1 if joined is None else len(joined.modules)
    return x


def _run_joined(joined: _Joined | _NormAndReLU, x: Tensor) -> Any:
    try:
        out = _compute(joined, x) if isinstance(joined, _Joined) else _norm_relu(joined, x)
    except TinynnError:
        for module in joined.modules:  # raises again, and names the layer
            x = module(x)
        return x
    note_call(joined.modules, out)
    return out


class _NormAndReLU(NamedTuple):
    """Batch norm in training with the ReLU behind it."""

    modules: tuple[Module, ...]


def _recognize(modules: Sequence[Module], start: int) -> _Joined | _NormAndReLU | None:
    """A convolution and what follows it, or batch norm and ReLU."""
    if type(modules[start]) is Conv2d:
        return _from_convolution(modules, start)
    if type(modules[start]) is not BatchNorm2d:
        return None
    members = tuple(modules[start : start + 2])
    if type(members[-1]) is not ReLU or any(module.is_observed for module in members):
        return None
    return _NormAndReLU(members)


def _from_convolution(modules: Sequence[Module], start: int) -> _Joined | None:
    """Convolution, then batch norm in evaluation, ReLU with max-pooling, or both."""
    conv: Any = modules[start]
    stop = start + 1
    norm = pool = None
    if stop < len(modules) and _is_folding(conv, modules[stop]):
        norm, stop = modules[stop], stop + 1
    relu_and_pool = tuple(map(type, modules[stop : stop + 2])) == (ReLU, MaxPool2d)
    if relu_and_pool and conv.groups == 1 and _is_plain(modules[stop + 1]):
        pool, stop = modules[stop + 1], stop + 2
    members = tuple(modules[start:stop])
    if len(members) == 1 or any(module.is_observed for module in members):
        return None
    return _Joined(conv, norm, pool, members)  # type: ignore[arg-type]


def _is_folding(conv: Conv2d, norm: Module) -> bool:
    if type(norm) is not BatchNorm2d or norm.training:
        return False
    return norm.running_mean.shape == conv.weight.shape[3:]


def _is_plain(pool: Any) -> bool:
    return bool(pool.padding == 0 and pool.dilation == 1)


def _compute(joined: _Joined, x: Tensor) -> Any:
    conv, pool = joined.conv, joined.pool
    weight, bias = (conv.weight, conv.bias) if joined.norm is None else _folded(joined)
    place = (conv.stride, conv.padding, conv.dilation)
    if pool is None:
        return F.conv2d(x, weight, bias, *place, conv.groups)
    pooling = (pool.kernel_size, pool.stride, pool.ceil_mode)
    return F.conv2d_relu_max_pool2d(x, weight, bias, *place, *pooling)


def _norm_relu(joined: _NormAndReLU, x: Tensor) -> Tensor:
    norm: Any = joined.modules[0]
    return BatchNorm2d.forward(norm, x, relu=True)


def _folded(joined: _Joined) -> tuple[Tensor, Tensor]:
    """Weight and bias of the convolution with which the normalization is already done."""
    conv, norm = joined.conv, joined.norm
    assert norm is not None
    scale = (norm.running_var + norm.eps) ** -0.5
    if norm.weight is not None:
        scale = scale * norm.weight
    shift = -norm.running_mean if conv.bias is None else conv.bias - norm.running_mean
    bias = shift * scale
    return conv.weight * scale, bias if norm.bias is None else bias + norm.bias
