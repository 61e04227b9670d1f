"""Layer fusion: runs of layers in a ``Sequential`` that are faster as one function.

==========================================  ====================================================
layers                                      computed as
==========================================  ====================================================
Conv2d, ReLU, MaxPool2d                     one function that never stores the full-size result
Conv2d, BatchNorm2d in evaluation mode      a convolution with the normalization in its weights
BatchNorm2d, ReLU                           batch norm that clips its output at 0
==========================================  ====================================================

The first two combine. Users write ordinary layers, and the results are those of the layers one by
one, up to rounding. A layer with a forward hook runs by itself, so that the hook gets its output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
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

__all__ = ["constant_weights"]

_Folded = tuple[Tensor, Tensor]  # weight and bias of a convolution that also normalizes
_folds: ContextVar[dict[tuple[int, int], _Folded] | None] = ContextVar("folds", default=None)


class _Fused(NamedTuple):
    modules: tuple[Module, ...]
    compute: Callable[[Tensor], Tensor]


@contextmanager
def constant_weights() -> Iterator[None]:
    """Promise that no weight changes within the block: batch norm is then folded only once.

    In evaluation mode, a ``BatchNorm2d`` behind a ``Conv2d`` is folded into the weights of the
    convolution. Without the promise, that happens in every forward pass. The folded weights are
    dropped at the end of the block, so they cannot become stale afterwards. An inner block shares
    the folded weights of the outer one.

    Example:
        >>> with no_grad(), nn.constant_weights():
        ...     results = [model(image) for image in images]
    """
    kept = _folds.get()
    token = _folds.set({} if kept is None else kept)
    try:
        yield
    finally:
        _folds.reset(token)


def run(modules: Sequence[Module], x: Any) -> Any:
    """Call the modules one after the other, fused where possible."""
    position = 0
    while position < len(modules):
        fused = _recognize(modules, position) if isinstance(x, Tensor) else None
        if fused is None:
            x = modules[position](x)
        elif tracing.active is None:
            x = _run_fused(fused, x)
        else:
            x = tracing.active.call(fused.modules, _run_fused, fused, x)
        position += 1 if fused is None else len(fused.modules)
    return x


def _run_fused(fused: _Fused, x: Tensor) -> Any:
    try:
        out = fused.compute(x)
    except TinynnError:
        for module in fused.modules:  # fails again, this time in the layer that is to blame
            x = module(x)
        return x
    note_call(fused.modules, out)
    return out


def _recognize(modules: Sequence[Module], start: int) -> _Fused | None:
    """The fused function that begins with ``modules[start]``, or None."""
    first: Any = modules[start]
    if type(first) is Conv2d:
        length, compute = _from_convolution(first, modules[start + 1 : start + 4])
    elif type(first) is BatchNorm2d and _kinds(modules[start + 1 : start + 2]) == (ReLU,):
        length, compute = 2, partial(BatchNorm2d.forward, first, relu=True)
    else:
        return None
    members = tuple(modules[start : start + length])
    if length == 1 or any(module.is_observed for module in members):
        return None
    return _Fused(members, compute)


def _from_convolution(
    conv: Conv2d, following: Sequence[Any]
) -> tuple[int, Callable[[Tensor], Tensor]]:
    """How many layers run together from this convolution on, and the function that does it."""
    norm = following[0] if following and _folds_into(conv, following[0]) else None
    rest = following[:2] if norm is None else following[1:]
    length = 1 if norm is None else 2
    if conv.groups == 1 and _kinds(rest) == (ReLU, MaxPool2d):
        pool = rest[1]
        if pool.padding == 0 and pool.dilation == 1:
            return length + 2, partial(_convolve, conv, norm, pool)
    return length, partial(_convolve, conv, norm, None)


def _kinds(modules: Sequence[Module]) -> tuple[type[Module], ...]:
    return tuple(map(type, modules))


def _folds_into(conv: Conv2d, norm: Module) -> bool:
    if type(norm) is not BatchNorm2d or norm.training:
        return False
    return norm.running_mean.shape == conv.weight.shape[3:]


def _convolve(conv: Conv2d, norm: BatchNorm2d | None, pool: MaxPool2d | None, x: Tensor) -> Tensor:
    weight, bias = (conv.weight, conv.bias) if norm is None else _folded(conv, norm)
    geometry = (conv.stride, conv.padding, conv.dilation)
    if pool is None:
        return F.conv2d(x, weight, bias, *geometry, conv.groups)
    pooling = (pool.kernel_size, pool.stride, pool.ceil_mode)
    return F.conv2d_relu_max_pool2d(x, weight, bias, *geometry, *pooling)


def _folded(conv: Conv2d, norm: BatchNorm2d) -> _Folded:
    """weight · s and (bias - mean) · s + shift, where s = scale / √(variance + eps)."""
    kept = _folds.get()
    key = (id(conv), id(norm))
    if kept is not None and key in kept:
        return kept[key]
    scale = (norm.running_var + norm.eps) ** -0.5
    if norm.weight is not None:
        scale = scale * norm.weight
    shift = -norm.running_mean if conv.bias is None else conv.bias - norm.running_mean
    bias = shift * scale
    folded = conv.weight * scale, bias if norm.bias is None else bias + norm.bias
    if kept is not None:
        kept[key] = folded
    return folded
