"""Layer fusion: runs of layers in a ``Sequential`` that are faster as one function.

==========================================  ====================================================
layers                                      computed as
==========================================  ====================================================
Conv2d, ReLU, MaxPool2d                     one function that never stores the full-size result
Conv2d, BatchNorm2d in evaluation mode      a convolution with the normalization in its weights
BatchNorm2d, ReLU                           batch norm that clips its output at 0
==========================================  ====================================================

The first two combine. Users write ordinary layers, and the results equal those of the separate
layers up to rounding. A layer with a forward hook, or with a ``forward`` of its own in place of its
class's, runs by itself.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from tinynn import functional as F
from tinynn.autograd import Tensor, is_grad_enabled
from tinynn.backend import tracing
from tinynn.errors import TinynnError
from tinynn.functional.operands import array_of
from tinynn.nn.activation import ReLU
from tinynn.nn.convolution import Conv2d
from tinynn.nn.module import Module, note_call
from tinynn.nn.normalization import BatchNorm2d
from tinynn.nn.pooling import MaxPool2d
from tinynn.scoped import Scoped

__all__ = ["constant_weights"]

_Layers = tuple[Module, ...]
_Compute = Callable[[Tensor], Tensor]
_Folded = tuple[Tensor, Tensor]  # weight and bias of a convolution that also normalizes
_PLAIN: dict[type[Module], Any] = {
    kind: kind.forward for kind in (Conv2d, BatchNorm2d, ReLU, MaxPool2d)
}
_CALL = Module.__call__
_folds: Scoped[dict[_Layers, _Folded] | None] = Scoped("folds", None)


def constant_weights() -> AbstractContextManager[None]:
    """Promise that no weight changes within the block: batch norm is then folded only once.

    In evaluation mode, a ``BatchNorm2d`` after a ``Conv2d`` is folded into the weights of the
    convolution. Without the promise, or while gradients are recorded, that happens in every forward
    pass. The folded weights are dropped at the end of the block, so they cannot become stale
    afterwards. An inner block shares the folded weights of the outer one.

    Example:
        >>> with no_grad(), nn.constant_weights():
        ...     results = [model(image) for image in images]
    """
    return _folds.block(lambda kept: {} if kept is None else kept)


def run(modules: Sequence[Module], x: Any) -> Any:
    """Call the modules one after the other, fused where possible."""
    position = 0
    while position < len(modules):
        fused = None
        if type(modules[position]) in (Conv2d, BatchNorm2d) and isinstance(x, Tensor):
            fused = _recognize(modules[position : position + 4])
        if fused is None:
            x = modules[position](x)
            position += 1
            continue
        layers, compute = fused
        tracer = tracing.active
        if tracer is None:
            x = _run_fused(layers, compute, x)
        else:
            x = tracer.call(layers, _run_fused, layers, compute, x)
        position += len(layers)
    return x


def _run_fused(layers: _Layers, compute: _Compute, x: Tensor) -> Any:
    try:
        out = compute(x)
    except TinynnError:
        for layer in layers:  # fails again, now in the layer at fault
            x = layer(x)
        return x
    note_call(layers, out)
    return out


def _recognize(modules: Sequence[Any]) -> tuple[_Layers, _Compute] | None:
    """The first modules that run as one function, and the function; None if the first runs alone.

    At most four run together: convolution, batch norm, ReLU and max pooling.
    """
    first, kinds = modules[0], tuple(map(type, modules))
    norm = pool = None
    length = 1
    if kinds[:2] == (BatchNorm2d, ReLU):
        length = 2
    elif kinds[0] is Conv2d:
        if len(kinds) > 1 and _folds_into(first, modules[1]):
            norm, length = modules[1], 2
        if kinds[length : length + 2] == (ReLU, MaxPool2d) and first.groups == 1:
            candidate = modules[length + 1]
            if candidate.padding == 0 and candidate.dilation == 1:
                pool, length = candidate, length + 2
    layers = tuple(modules[:length])
    if length == 1 or not all(map(_is_plain, layers)):
        return None
    if kinds[0] is BatchNorm2d:
        return layers, partial(BatchNorm2d.forward, first, relu=True)
    return layers, partial(_convolve, first, norm, pool)


def _is_plain(layer: Module) -> bool:
    """Whether calling the layer does what this module expects of its class, and nothing else."""
    kind = type(layer)
    replaced = "forward" in vars(layer) or kind.forward is not _PLAIN[kind]
    return not replaced and kind.__call__ is _CALL and not layer.is_observed


def _folds_into(conv: Conv2d, norm: Module) -> bool:
    if type(norm) is not BatchNorm2d or norm.training or norm.running_mean is None:
        return False
    mean, weight = norm.running_mean, conv.weight
    return mean.shape == weight.shape[3:] and mean.backend is weight.backend


def _convolve(conv: Conv2d, norm: BatchNorm2d | None, pool: MaxPool2d | None, x: Tensor) -> Tensor:
    weight, bias = (conv.weight, conv.bias) if norm is None else _folded(conv, norm)
    geometry = (conv.stride, conv.padding, conv.dilation)
    if pool is None:
        return F.conv2d(x, weight, bias, *geometry, conv.groups)
    pooling = (pool.kernel_size, pool.stride, pool.ceil_mode)
    return F.conv2d_relu_max_pool2d(x, weight, bias, *geometry, *pooling)


def _folded(conv: Conv2d, norm: BatchNorm2d) -> _Folded:
    """Weight and bias of the convolution that also normalizes."""
    statistics = norm.running_mean, norm.running_var
    operands = (conv.weight, conv.bias, *statistics, norm.weight, norm.bias)
    if is_grad_enabled():
        return _fold(norm.eps, *operands)
    kept = _folds.get()  # kept tensors have no graph
    if kept is not None and (conv, norm) in kept:
        return kept[conv, norm]
    weight, bias = _fold(norm.eps, *map(array_of, operands))  # arrays: less overhead
    folded = Tensor(weight), Tensor(bias)
    if kept is not None:
        kept[conv, norm] = folded
    return folded


def _fold(
    eps: float, weight: Any, bias: Any, mean: Any, variance: Any, scale: Any, shift: Any
) -> tuple[Any, Any]:
    """weight · s and (bias - mean) · s + shift, where s = scale / √(variance + eps).

    Of tensors or of arrays; without a bias, scale or shift they are 0, 1 and 0.
    """
    s = (variance + eps) ** -0.5
    if scale is not None:
        s = s * scale
    centered = -mean if bias is None else bias - mean
    return weight * s, centered * s if shift is None else centered * s + shift
