"""Every kernel of a backend and every differentiable function, next to float64 on the CPU.

The tables are small on purpose: one odd shape for each. What they compare with is the reference
class itself for kernels, and the CPU in float64 for functions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from tinynn import functional as F
from tinynn import nn, optim
from tinynn.autograd import Tensor
from tinynn.backend import (
    Array,
    Backend,
    NeedsGrad,
    Window,
    default_device,
    get_backend,
)
from tinynn.random import Generator

TOLERANCE = {"float16": 1e-2, "float32": 1e-4, "float64": 1e-10}
"""How far the largest difference may be, relative to the largest number (at least 1)."""

TRAINING_TOLERANCE = 1e-2
"""The same for a network that trains: where rounding decides which pixel of a window is largest, or
whether a ReLU is open, the gradient goes another way, on any two machines."""

Put = Callable[[np.ndarray], Array]


class Reference(Backend):
    """The reference kernels on NumPy arrays, without anything faster."""

    xp = np
    device = "cpu"

    def to_host(self, array: Array) -> np.ndarray:
        return np.asarray(array)


REFERENCE = Reference()


class Kernel(NamedTuple):
    """A method of ``Backend`` and a call of it: ``run(backend, put)`` with ``put(array)``."""

    name: str
    run: Callable[[Backend, Put], Any]


def normal(*shape: int) -> np.ndarray:
    """Standard normal numbers that float16 holds exactly: every dtype gets the same ones."""
    numbers = np.random.default_rng(shape).standard_normal(shape)
    return np.asarray(numbers.astype(np.float16), dtype=np.float64)


def positive(*shape: int) -> np.ndarray:
    """Numbers from 0.5 up."""
    return np.asarray(np.abs(normal(*shape)) + 0.5)


_LABELS = np.array([2, 0, 1, 2, 2])
_ROWS = (np.array([0, 2, 0]), np.array([1, 3, 1]))
_WINDOW = Window((3, 3), padding=((1, 1), (1, 1)))
_STRIDED = Window((3, 2), (2, 1), ((0, 2), (1, 0)), (1, 2))
_POOL = Window((3, 2), (2, 2), ((1, 1), (0, 1)))
_HALVING = Window((2, 2), (2, 2))
_IMAGES = (2, 9, 8, 3)


def kernels() -> list[Kernel]:
    """At least one call of each kernel."""
    return [
        Kernel("elementwise", lambda b, put: b.elementwise("add", put(normal(3, 5)), 2.0)),
        Kernel("relu", lambda b, put: b.relu(put(normal(3, 5)))),
        Kernel(
            "relu_gradient", lambda b, put: b.relu_gradient(put(normal(3, 5)), put(normal(5, 3).T))
        ),
        Kernel("sigmoid", lambda b, put: b.sigmoid(put(normal(3, 5)))),
        Kernel("softplus", lambda b, put: b.softplus(put(normal(3, 5)))),
        Kernel("erf", lambda b, put: b.erf(put(normal(3, 5)))),
        Kernel("matmul", lambda b, put: b.matmul(put(normal(7, 9)), put(normal(9, 4)))),
        Kernel("add_bias", lambda b, put: b.add_bias(put(normal(3, 5)), put(normal(5)))),
        Kernel("sum", lambda b, put: b.sum(put(normal(5, 40, 7)), (0, 1))),
        Kernel("sum", lambda b, put: b.sum(put(normal(5, 40, 7)), (0, 2), keepdims=True)),
        Kernel("mean", lambda b, put: b.mean(put(normal(5, 4000)), (1,))),
        Kernel("log_softmax", lambda b, put: b.log_softmax(put(normal(4, 7)), 1)),
        Kernel("softmax", lambda b, put: b.softmax(put(normal(4, 7)), 0)),
        Kernel("cross_entropy", _cross_entropy),
        Kernel("cross_entropy_gradient", _cross_entropy_gradient),
        Kernel("check_labels", lambda b, put: b.check_labels(put(_LABELS), 3, None)),
        Kernel("gather", lambda b, put: b.gather(put(normal(4, 5)), tuple(map(put, _ROWS)))),
        Kernel(
            "scatter_add",
            lambda b, put: b.scatter_add((4, 5), tuple(map(put, _ROWS)), put(normal(3))),
        ),
        Kernel("normalize", lambda b, put: b.normalize(put(normal(6, 3, 50)), (1, 2), 1e-5)),
        Kernel("normalize", lambda b, put: b.normalize(put(normal(6, 3, 5)), (0, 2), 1e-5)),
        Kernel("normalize_gradient", lambda b, put: _normalize_gradient(b, put, (1, 2))),
        Kernel("normalize_gradient", lambda b, put: _normalize_gradient(b, put, (0, 2))),
        Kernel("batch_norm", _batch_norm),
        Kernel("batch_norm_gradient", _batch_norm_gradient),
        Kernel("pad_image", lambda b, put: b.pad_image(put(normal(*_IMAGES)), _POOL, 2.0)),
        *_convolutions(),
        Kernel("conv2d_gradients", _conv2d_gradients),
        Kernel("conv2d_relu_pool", _conv2d_relu_pool),
        Kernel("conv2d_relu_pool_gradients", _conv2d_relu_pool_gradients),
        Kernel("max_pool2d", lambda b, put: b.max_pool2d(put(normal(*_IMAGES)), _POOL)),
        Kernel("max_pool2d_scatter", _max_pool2d_scatter),
        Kernel("relu_max_pool2d_gradient", _relu_max_pool2d_gradient),
        Kernel("max_pool2d_gather", _max_pool2d_gather),
        Kernel("sum_pool2d", lambda b, put: b.sum_pool2d(put(normal(*_IMAGES)), _POOL)),
        Kernel("sum_pool2d_adjoint", _sum_pool2d_adjoint),
        Kernel("random_bits", lambda b, put: b.random_bits(2**63 + 5, 2**40, 1001)),
        Kernel("dropout", lambda b, put: b.dropout(put(normal(7, 11)), 3, 4, 0.3)),
        Kernel("masked", lambda b, put: b.masked(put(normal(2, 3)), put(normal(2, 3) > 0), 2.0)),
        Kernel("sgd_update", lambda b, put: _update(b, put, 1, b.sgd_update, 0.1, 0.9, True, 0.01)),
        Kernel(
            "adam_update",
            lambda b, put: _update(
                b, put, 2, b.adam_update, 3, 0.1, (0.9, 0.999), 1e-8, 0.01, False
            ),
        ),
        Kernel(
            "rmsprop_update",
            lambda b, put: _update(b, put, 2, b.rmsprop_update, 0.1, 0.9, 1e-8, 0.9, 0.01),
        ),
        Kernel("unscale", _unscale),
        Kernel("accumulate_metrics", _accumulate_metrics),
    ]


def _convolutions() -> Iterator[Kernel]:
    for window, groups, channels, outputs in (
        (_WINDOW, 1, 3, 19),
        (_STRIDED, 2, 4, 6),
        (_WINDOW, 6, 6, 6),
        (_WINDOW, 1, 64, 128),
        (Window((1, 1)), 1, 5, 3),
    ):
        images, weight = (2, 9, 8, channels), (*window.kernel, channels // groups, outputs)
        grad = (2, *window.output_size(9, 8), outputs)

        def forward(
            b: Backend, put: Put, window: Any = window, groups: int = groups, x: Any = images,
            w: Any = weight,
        ) -> Any:  # fmt: skip
            return b.conv2d(put(normal(*x)), put(normal(*w)), put(normal(w[3])), window, groups)

        def to_input(
            b: Backend, put: Put, window: Any = window, groups: int = groups, x: Any = images,
            w: Any = weight, g: Any = grad,
        ) -> Any:  # fmt: skip
            return b.conv2d_input_gradient(put(normal(*g)), put(normal(*w)), window, groups, x)

        def to_weight(
            b: Backend, put: Put, window: Any = window, groups: int = groups, x: Any = images,
            g: Any = grad,
        ) -> Any:  # fmt: skip
            return b.conv2d_weight_gradient(put(normal(*x)), put(normal(*g)), window, groups)

        yield Kernel("conv2d", forward)
        yield Kernel("conv2d_input_gradient", to_input)
        yield Kernel("conv2d_weight_gradient", to_weight)


def _cross_entropy(b: Backend, put: Put) -> Any:
    return b.cross_entropy(put(normal(5, 3)), put(_LABELS), None)[0]


def _cross_entropy_gradient(b: Backend, put: Put) -> Any:
    logits, labels = put(normal(5, 3)), put(_LABELS)
    kept = b.cross_entropy(logits, labels, None)[1]
    return b.cross_entropy_gradient(put(np.array(1.5)), logits, kept, labels)


def _normalize_gradient(b: Backend, put: Put, axes: tuple[int, ...]) -> Any:
    out, _, variance = b.normalize(put(normal(6, 3, 5)), axes, 1e-5)
    return b.normalize_gradient(put(normal(3, 5, 6).transpose(2, 0, 1)), out, variance, axes, 1e-5)


def _batch_norm(b: Backend, put: Put) -> Any:
    running = put(normal(5)), put(positive(5))
    x, weight, bias = normal(6, 30, 5) + 3, normal(5), positive(5)
    return b.batch_norm(put(x), put(weight), put(bias), running, 0.1, 1e-5), running


def _batch_norm_gradient(b: Backend, put: Put) -> Any:
    x, weight = put(normal(6, 30, 5) + 3), put(normal(5))
    _, average, variance = b.batch_norm(x, weight, None, None, 0.1, 1e-5)
    grad = put(normal(30, 6, 5).transpose(1, 0, 2))
    return b.batch_norm_gradient(grad, x, weight, average, variance, 1e-5)


def _conv2d_relu_pool(b: Backend, put: Put) -> Any:
    x, weight, bias = put(normal(*_IMAGES)), put(normal(3, 3, 3, 20)), put(normal(20))
    return b.conv2d_relu_pool(x, weight, bias, _WINDOW, _HALVING)[0]


def _conv2d_gradients(b: Backend, put: Put) -> Any:
    x, weight, grad = put(normal(*_IMAGES)), put(normal(3, 3, 3, 5)), put(normal(2, 9, 8, 5))
    return b.conv2d_gradients(x, weight, grad, _WINDOW, 1, NeedsGrad(True, True, True))


def _conv2d_relu_pool_gradients(b: Backend, put: Put) -> Any:
    x, weight, bias = put(normal(*_IMAGES)), put(normal(3, 3, 3, 20)), put(normal(20))
    out, winner = b.conv2d_relu_pool(x, weight, bias, _WINDOW, _HALVING)
    grad = put(normal(*out.shape))
    return b.conv2d_relu_pool_gradients(
        x, weight, grad, out, winner, _WINDOW, _HALVING, NeedsGrad(True, True, True)
    )


def _pooled(b: Backend, put: Put) -> tuple[Array, Array, Array]:
    """An image, its largest values, and where they were."""
    x = put(normal(*_IMAGES))
    return (x, *b.max_pool2d(x, _POOL))


def _max_pool2d_scatter(b: Backend, put: Put) -> Any:
    _, values, winner = _pooled(b, put)
    return b.max_pool2d_scatter(values, winner, _POOL, _IMAGES)


def _relu_max_pool2d_gradient(b: Backend, put: Put) -> Any:
    _, values, winner = _pooled(b, put)
    grad = put(normal(*values.shape))
    return b.relu_max_pool2d_gradient(grad, b.relu(values), winner, _POOL, _IMAGES)


def _max_pool2d_gather(b: Backend, put: Put) -> Any:
    x, _, winner = _pooled(b, put)
    return b.max_pool2d_gather(x * 2.0, winner, _POOL)


def _sum_pool2d_adjoint(b: Backend, put: Put) -> Any:
    grad = put(normal(2, *_POOL.output_size(9, 8), 3))
    return b.sum_pool2d_adjoint(grad, _POOL, _IMAGES)


def _update(b: Backend, put: Put, states: int, formula: Any, *numbers: Any) -> Any:
    shapes = ((70, 70), (3,), (1, 5))
    parameters, grads = ([put(normal(n, *s)[0]) for s in shapes] for n in (1, 2))
    kept = [[put(positive(1, *s)[0]) for s in shapes] for _ in range(states)]
    formula(parameters, grads, *kept, *numbers)
    return parameters, kept


def _unscale(b: Backend, put: Put) -> Any:
    grads, found = [put(normal(3, 4)), put(normal(5))], put(np.array(False))
    b.unscale(grads, put(np.array(0.25)), found)
    return grads, found


def _accumulate_metrics(b: Backend, put: Put) -> Any:
    totals, failed = b.xp.zeros(3, dtype="float64"), b.xp.zeros((), dtype="bool")
    for loss in (0.75, np.inf, 0.5):
        b.accumulate_metrics(totals, failed, put(np.array(loss)), put(normal(5, 3)), put(_LABELS))
    return totals[1:], failed


# -- functions ------------------------------------------------------------------------------------


class Function(NamedTuple):
    """A public function of ``tinynn.functional``, a call of it, and what it is called with."""

    name: str
    call: Callable[..., Any]
    arrays: tuple[np.ndarray, ...]


_UNARY = "abs absolute cos elu erf exp flatten gelu leaky_relu log_sigmoid log_softmax logsumexp"
_UNARY += " max mean min negative permute relu sigmoid silu sin softmax softplus square squeeze std"
_UNARY += " sum tanh var flip argmax argmin"
_BINARY = "add divide maximum minimum multiply subtract equal greater greater_equal less less_equal"
_BINARY += " not_equal huber_loss l1_loss mse_loss"
_SCORES = "binary_cross_entropy_with_logits sigmoid_focal_loss"
_MASKS = "logical_and logical_or logical_xor"


def functions() -> list[Function]:
    """One call of each function."""
    x, y, image = normal(3, 5), positive(3, 5), normal(*_IMAGES)
    truth = (x > 0).astype(np.float64)
    shifted = positive(5)
    others: dict[str, tuple[Callable[..., Any], tuple[np.ndarray, ...]]] = {
        "avg_pool2d": (lambda t: F.avg_pool2d(t, 3, 2, 1), (image,)),
        "batch_norm": (
            lambda t, w, b: F.batch_norm(t, weight=w, bias=b, training=True),
            (image, positive(3), normal(3)),
        ),
        "broadcast_to": (lambda t: F.broadcast_to(t, (2, 3, 5)), (x,)),
        "clip": (lambda t: F.clip(t, -0.5, 0.9), (x,)),
        "concat": (lambda a, b: F.concat([a, b]), (x, y)),
        "conv2d": (
            lambda t, w, b: F.conv2d(t, w, b, 2, "same"),
            (image, normal(3, 3, 3, 5), shifted),
        ),
        "conv2d_relu_max_pool2d": (
            lambda t, w, b: F.conv2d_relu_max_pool2d(t, w, b, padding=1),
            (image, normal(3, 3, 3, 5), shifted),
        ),
        "conv_transpose2d": (
            lambda t, w: F.conv_transpose2d(t, w, stride=2),
            (image, normal(3, 3, 4, 3)),
        ),
        "cross_entropy": (lambda t: F.cross_entropy(t, _whole(t, [2, 0, 4])), (x,)),
        "dropout": (lambda t: F.dropout(t, 0.4, generator=Generator(7)), (x,)),
        "einsum": (lambda a, b: F.einsum("ij,kj->ik", a, b), (x, y)),
        "global_avg_pool2d": (F.global_avg_pool2d, (image,)),
        "global_max_pool2d": (F.global_max_pool2d, (image,)),
        "group_norm": (lambda t: F.group_norm(t, 2), (normal(2, 5, 3, 4),)),
        "index": (lambda t: F.index(t, [2, 0, 2]), (x,)),
        "layer_norm": (F.layer_norm, (x,)),
        "linear": (F.linear, (x, normal(5, 4), normal(4))),
        "log": (F.log, (y,)),
        "logical_not": (lambda t: F.logical_not(t > 0), (x,)),
        "matmul": (F.matmul, (x, normal(5, 4))),
        "max_pool2d": (lambda t: F.max_pool2d(t, 3, 2, 1), (image,)),
        "nll_loss": (lambda t: F.nll_loss(t, _whole(t, [2, 0, 4])), (x,)),
        "pad": (lambda t: F.pad(t, [(1, 0), (0, 2)], 1.5), (x,)),
        "power": (F.power, (y, x)),
        "reshape": (lambda t: F.reshape(t, (5, 3)), (x,)),
        "resize_bilinear": (lambda t: F.resize_bilinear(t, (5, 11)), (image,)),
        "resize_nearest": (lambda t: F.resize_nearest(t, (5, 11)), (image,)),
        "split": (lambda t: F.split(t, [2, 3], 1), (x,)),
        "sqrt": (F.sqrt, (y,)),
        "stack": (lambda a, b: F.stack([a, b], 1), (x, y)),
        "unsqueeze": (lambda t: F.unsqueeze(t, 1), (x,)),
        "where": (lambda a, b: F.where(a > 0, a, b), (x, y)),
    }
    table = [Function(name, call, arrays) for name, (call, arrays) in others.items()]
    table += [Function(name, getattr(F, name), (x,)) for name in _UNARY.split()]
    table += [Function(name, getattr(F, name), (x, y)) for name in _BINARY.split()]
    for name in _SCORES.split():
        table.append(Function(name, lambda t, n=name: getattr(F, n)(t, _like(t, truth)), (x,)))
    for name in _MASKS.split():
        table.append(Function(name, lambda a, b, n=name: getattr(F, n)(a > 0, b > 1), (x, y)))
    return sorted(table)


def _like(tensor: Tensor, array: np.ndarray) -> Tensor:
    return Tensor(tensor.backend.from_host(array.astype(tensor.dtype)))


def _whole(tensor: Tensor, labels: list[int]) -> Tensor:
    return Tensor(tensor.backend.from_host(np.array(labels)))


# -- comparison -----------------------------------------------------------------------------------


def call_kernel(kernel: Kernel, backend: Backend, dtype: str) -> list[np.ndarray]:
    """What a kernel gives, on the host."""

    def put(array: np.ndarray) -> Array:
        return backend.from_host(array.astype(dtype) if array.dtype.kind == "f" else array.copy())

    return [backend.to_host(array) for array in _flat(kernel.run(backend, put))]


def call_function(function: Function, device: str, dtype: str) -> list[np.ndarray]:
    """What a function gives and, where there are some, its gradients."""
    backend = get_backend(device)
    tensors = [
        Tensor(backend.from_host(array.astype(dtype)), requires_grad=True)
        for array in function.arrays
    ]
    results = list(_flat(function.call(*tensors)))
    for number, result in enumerate(results):
        if result.requires_grad:
            result.backward(_like(result, normal(number + 1, *result.shape)[0]), retain_graph=True)
    grads = [tensor.grad for tensor in tensors if tensor.grad is not None]
    return [tensor.numpy() for tensor in (*results, *grads)]


def _flat(found: Any) -> Iterator[Any]:
    if isinstance(found, (tuple, list)):
        for part in found:
            yield from _flat(part)
    elif found is not None:
        yield found


def error(ours: list[np.ndarray], expected: list[np.ndarray]) -> float:
    """The largest difference, relative to the largest number of its array (at least 1)."""
    worst = 0.0
    for one, other in zip(ours, expected, strict=True):
        if one.shape != other.shape:
            return math.inf
        if one.dtype.kind != "f":
            worst = max(worst, 0.0 if np.array_equal(one, other) else math.inf)
        elif one.size:
            scale = max(1.0, float(np.abs(other).max()))
            difference = np.abs(one.astype(np.float64) - other).max()
            worst = max(worst, float(difference) / scale if np.isfinite(difference) else math.inf)
    return worst


# -- a step ---------------------------------------------------------------------------------------


def face_cnn() -> nn.Sequential:
    """The face CNN: 48 x 48 x 3; 16, 32, 64 channels; 128; 2."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding="same"), nn.ReLU(), nn.MaxPool2d(2)]
    head = [nn.Flatten(), nn.Linear(6 * 6 * 64, 128), nn.ReLU(), nn.Linear(128, 2)]
    return nn.Sequential(*layers, *head)


def train_face_cnn(device: str, dtype: str, steps: int) -> dict[str, list[np.ndarray]]:
    """Losses, the gradients of the first step, and the weights after the last."""
    with default_device("cpu"):  # whatever TINYNN_DEVICE says
        model = face_cnn()
        _same_weights(model)
    model = model.astype(dtype).to(device)
    optimizer = optim.SGD(model, 0.002, momentum=0.9)
    backend = get_backend(device)
    pixels = np.random.default_rng(1).random((8, 48, 48, 3))
    images = Tensor(backend.from_host(pixels.astype(dtype)))
    labels = Tensor(backend.from_host(np.arange(8) % 2))
    losses: list[Tensor] = []
    first: list[np.ndarray] = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        if not first:
            first = [p.grad.numpy().copy() for p in model.parameters() if p.grad is not None]
        optimizer.step()
        losses.append(loss.detach())
    weights = [parameter.numpy() for parameter in model.parameters()]
    return {
        "losses": [loss.numpy() for loss in losses],
        "gradients of the first step": first,
        "weights after the last step": weights,
    }


def _same_weights(model: nn.Module) -> None:
    """Weights that depend on nothing but their shapes."""
    for parameter in model.parameters():
        fan_in = max(1, parameter.size // parameter.shape[-1])
        scale = math.sqrt(2 / fan_in) if parameter.ndim > 1 else 0.0
        parameter.data[...] = normal(*parameter.shape) * scale
