"""Two tables of test cases: every function of ``tinynn.functional`` and every backend kernel.

The parity check of ``python -m tinynn.gpucheck`` and the tests of the library share these tables. A
new function or kernel is one more row.
"""

import zlib
from collections.abc import Callable, Iterator
from inspect import signature
from typing import Any, NamedTuple

import numpy as np

from tinynn import optim
from tinynn.backend import Window, get_backend
from tinynn.backend.formula import erf, erfc
from tinynn.backend.reference import Array, Backend, BatchNorm, NeedsGrad, Normalized, PooledGrad
from tinynn.random import manual_seed

Sampler = Callable[[np.random.Generator, tuple[int, ...]], Any]


class Case(NamedTuple):
    """One call ``function(*inputs, **options)``.

    Floating-point arrays among the inputs, also within lists, are the variables. They are float16,
    so that every dtype gets the same values, and are widened to the dtype under test. Other arrays
    (labels, indices, masks) are constants.
    """

    name: str
    inputs: tuple[Any, ...]
    options: dict[str, Any]

    def __str__(self) -> str:
        inputs = [getattr(x, "shape", getattr(x, "__name__", x)) for x in flatten(self.inputs)]
        return f"{self.name}{inputs}{self.options or ''}".replace(" ", "")

    @property
    def variables(self) -> list[np.ndarray]:
        """The floating-point arrays in order."""
        return [x for x in flatten(self.inputs) if is_variable(x)]

    def call(self, function: Callable[..., Any], convert: Callable[[np.ndarray], Any]) -> Any:
        """Call with every array converted, from left to right.

        The random sequence restarts, so that every call draws the same values.
        """
        manual_seed(0)
        return function(*(_convert(value, convert) for value in self.inputs), **self.options)


def is_variable(value: Any) -> bool:
    """Whether an input is a floating-point array."""
    return isinstance(value, np.ndarray) and value.dtype.kind == "f"


def _convert(value: Any, convert: Callable[[np.ndarray], Any]) -> Any:
    if isinstance(value, (list, tuple)):
        return _rebuild(value, [_convert(part, convert) for part in value])
    return convert(value) if isinstance(value, np.ndarray) else value


def _rebuild(value: Any, parts: list[Any]) -> Any:
    """A list, tuple or named tuple of the same type with other parts."""
    return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)


def flatten(value: Any) -> Iterator[Any]:
    """The leaves of nested lists and tuples, without None."""
    if isinstance(value, (list, tuple)):
        for part in value:
            yield from flatten(part)
    elif value is not None:
        yield value


# -- rows -----------------------------------------------------------------------------------------


def cases(names: str, *calls: Any, sample: Sampler | None = None, **options: Any) -> list[Case]:
    """A row: every function named is called with each of the inputs, with the same options.

    A call is a list of inputs, or one input alone. In it a tuple of ints is the shape of an array
    to sample (default: standard normal values); arrays and other values stay. The i-th sample of a
    call is shifted by i/64, so that no two have an element in common.
    """
    return [
        Case(name, _sample(call if isinstance(call, list) else [call], name, sample), options)
        for name in names.split()
        for call in calls
    ]


def _sample(inputs: list[Any], name: str, sample: Sampler | None) -> tuple[Any, ...]:
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    shift = iter(np.arange(100) / 64)

    def sampled(value: Any) -> Any:
        if isinstance(value, Window):
            return value
        if isinstance(value, tuple) and all(type(size) is int for size in value):
            values = (sample or np.random.Generator.standard_normal)(rng, value) + next(shift)
            return np.asarray(np.float16(values))
        if isinstance(value, (list, tuple)):
            return _rebuild(value, list(map(sampled, value)))
        return value

    return tuple(map(sampled, inputs))


def positive(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
    """Values from 0.3 to 2."""
    return rng.uniform(0.3, 2, shape)


def nonzero(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
    """Values of either sign, at least 0.1 away from a kink at 0."""
    return rng.uniform(0.1, 2, shape) * rng.choice([-1, 1], shape)


def distinct(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
    """Values 1/16 apart, none of them 0: the maximum is unique."""
    size = int(np.prod(shape))
    return (rng.permutation(size).reshape(shape) - size // 2 + 0.5) / 16


# -- functions: odd shapes (empty, batch 1, one channel, remainders), values away from kinks -------

_MASK = np.array([[True], [False], [True]])
_STEPS = np.array([[-1, 0, 1], [1, 0, -1]], "float16")
_PICKS = np.array([0, 2, 0]), np.array([1, 3, 1])
_LABELS = np.array([2, 0, 2, 1])
_CLASS_WEIGHTS = np.array([0.5, 2, 1.25], "float16")
_PROBABILITIES = np.array([[1, 0], [0.125, 0], [0.75, 1]], "float16")
_TRUTH = np.round(_PROBABILITIES)
_STATISTICS = np.array([[0.5, -1], [4, 0.25]], "float16")
_IMAGES = (2, 9, 8, 3)
_FILTERS = (3, 3, 3, 5)

# fmt: off
_UNARY: list[Any] = [(3, 5), (), (0, 4)]
_BINARY: list[Any] = [
    [(3, 4), (3, 4)], [(2, 1, 4), (3, 1)], [(5,), ()], [(), ()], [(0, 3), (3,)],
]
_FUSED: list[Any] = [
    [(1, 5, 5, 1), (2, 2, 1, 2), (2,)], [(2, 5, 7, 2), (3, 3, 2, 3), (3,)],
    [_IMAGES, _FILTERS, (5,)],
]
_KEYS: list[Any] = [
    1, (-1, slice(None), -2), (slice(None, None, 2), slice(3, 0, -1)), (..., 0),
    (None, 1, ..., None), [2, 0], np.array([1, 1, 0, 1]), _PICKS,
    (np.array([[0], [2]]), slice(None), np.array([1, 0, 1])), np.array([], dtype=np.int64),
    np.array([True, False, True]), np.arange(3 * 4 * 2).reshape(3, 4, 2) % 3 == 0,
]
_SUMMED = "sum mean var std logsumexp"

FUNCTIONS = [
    # elementwise
    *cases("cos erf exp expm1 negative sin square", *_UNARY),
    *cases("gelu log_sigmoid sigmoid silu softplus tanh", *_UNARY),
    *cases("log sqrt", *_UNARY, sample=positive),
    *cases("abs absolute relu", *_UNARY, sample=nonzero),
    *(row for low, high in ((-0.9, 1.2), (0.0, None), (None, 0.0)) for row in cases(
        "clip", *_UNARY, sample=distinct, low=low, high=high)),
    *cases("elu", *_UNARY, sample=nonzero, alpha=1.5),
    *cases("gelu", *_UNARY, approximate="tanh"),
    *cases("leaky_relu", *_UNARY, sample=nonzero, negative_slope=0.2),
    # arithmetic
    *cases("add subtract multiply", *_BINARY),
    *cases("divide", *_BINARY, sample=nonzero),
    *cases("power", *_BINARY, sample=positive),
    *cases("maximum minimum", *_BINARY, [(7,), 0.3], [0.3, (7,)], sample=distinct),
    *cases("equal not_equal greater greater_equal less less_equal", [_STEPS, _STEPS[:1]]),
    *cases("logical_and logical_or logical_xor", [_MASK, ~_MASK.T]),
    *cases("logical_not", _MASK),
    *cases("where", [_MASK, (3, 4), (3, 4)], [_MASK, (4,), ()], [_MASK, (2, 1, 1), (3, 4)],
           [_MASK, (3, 2), -1.5]),
    # reductions
    *(row for names, sample in ((_SUMMED, None), ("max min", distinct)) for row in (
        *cases(names, (3, 5), sample=sample),
        *cases(names, (2, 3, 4), sample=sample, axis=1),
        *cases(names, (2, 3, 4), sample=sample, axis=(0, 1)),
        *cases(names, (2, 3, 4), sample=sample, axis=(0, -1), keepdims=True),
        *cases(names, (1, 4), sample=sample, axis=-1),
    )),
    *cases("sum logsumexp max", ()),
    *cases("sum", (0, 3), axis=0),
    *cases("var std", (4, 2), axis=0, correction=1),
    *cases("softmax log_softmax", [(3, 1, 4), 0], [(3, 1, 4), 1], (3, 1, 4)),
    *cases("argmax argmin", (3, 5), [(3, 5), 1], sample=distinct),
    # shapes
    *cases("reshape", [(2, 3, 4), [4, -1]], [(0, 3), [3, 0]]),
    *cases("flatten", (2, 3, 4), (), [(2, 3, 4), 1]),
    *cases("permute", [(2, 3, 4), [2, 0, 1]], (2, 3)),
    *cases("squeeze", (1, 3, 1), [(1, 3, 1), -1]),
    *cases("unsqueeze", [(2, 3), -1]),
    *cases("broadcast_to", [(3, 1), [2, 3, 4]]),
    *cases("split", [(3, 4), 2, 1], [(4, 2), [1, 0, 3]]),
    *cases("pad", (2, 3), widths=[(1, 0), (0, 2)], value=1.5),
    *cases("flip", (2, 3), [(2, 3), -1]),
    *cases("concat stack", *([[(2, 2)] * 3, axis] for axis in (0, 1, -1))),
    *(row for key in _KEYS for row in cases("index", (3, 4, 2), key=key)),
    # products
    *cases("matmul", [(2, 3), (3, 4)], [(3,), (3,)], [(3,), (2, 3, 4)], [(2, 1, 3, 2), (4, 2, 1)],
           [(5, 2, 3), (3, 4)], [(2, 0), (0, 3)]),
    *cases("linear", [(4, 3), (3, 2), (2,)], [(2, 1, 3), (3, 2)], [(0, 3), (3, 2)]),
    *cases("einsum", ["ij,jk->ik", (2, 3), (3, 4)], ["nik,kj->nij", (2, 3, 4), (4, 2)],
           ["ij->ji", (2, 3)], ["ij->", (2, 3)], ["ij->j", (2, 3)], ["i,j->ij", (2,), (3,)],
           ["ij,kj", (2, 3), (4, 3)], ["ij,k->j", (2, 3), (4,)],
           ["ab,bc,cd->ad", (2, 3), (3, 2), (2, 4)]),
    # convolution
    *cases("conv2d", [(1, 5, 4, 1), (3, 3, 1, 2), (2,)], [(2, 3, 2, 4), (1, 1, 4, 3), (3,)],
           [(0, 4, 4, 2), (3, 3, 2, 2), (2,)]),
    *cases("conv2d", [(2, 4, 5, 2), (3, 3, 2, 3), (3,)], [(1, 4, 5, 2), (2, 4, 2, 1), (1,)],
           padding="same"),
    *cases("conv2d", [(1, 5, 6, 1), (3, 3, 1, 2), (2,)], [_IMAGES, _FILTERS, (5,)],
           padding="same", stride=2),
    *cases("conv2d", [(1, 4, 3, 2), (2, 3, 2, 2), (2,)], padding=((2, 0), (1, 3))),
    *cases("conv2d", [(1, 2, 2, 1), (2, 2, 1, 1), (1,)], padding=3),
    *cases("conv2d", [(2, 7, 8, 1), (2, 1, 1, 2), (2,)], stride=(3, 2)),
    *cases("conv2d", [(1, 7, 6, 2), (3, 2, 2, 2), (2,)], dilation=(2, 3), padding=(1, 2)),
    *cases("conv2d", [(2, 4, 4, 4), (3, 3, 2, 6), (6,)], groups=2, padding=1, stride=2),
    *cases("conv2d", [(1, 4, 3, 3), (2, 2, 1, 6), (6,)], groups=3),
    *cases("conv2d_relu_max_pool2d", *_FUSED, padding=1),
    *cases("conv2d_relu_max_pool2d", *_FUSED, padding="same", ceil_mode=True),
    *cases("conv2d_relu_max_pool2d", *_FUSED, stride=(2, 1), pool_size=(2, 3), pool_stride=1),
    *cases("conv_transpose2d", [(1, 3, 2, 2), (3, 2, 1, 2), (1,)]),
    *cases("conv_transpose2d", [(2, 3, 2, 1), (2, 3, 2, 1), (2,)], [_IMAGES, (3, 3, 4, 3), (4,)],
           stride=(2, 3)),
    *cases("conv_transpose2d", [(1, 3, 3, 2), (3, 3, 2, 2), (2,)],
           stride=2, padding=1, output_padding=(1, 0)),
    *cases("conv_transpose2d", [(1, 2, 3, 1), (2, 2, 1, 1), (1,)], dilation=(2, 1), padding=(0, 1)),
    *cases("conv_transpose2d", [(1, 3, 2, 4), (2, 2, 3, 4), (6,)], groups=2, stride=(2, 1)),
    *cases("conv_transpose2d", [(2, 3, 2, 2), (2, 3, 1, 2), (1,)],
           dilation=(3, 2), output_padding=(2, 1), padding=(1, 0)),
    # pooling and resizing
    *(row for options in (
        {"kernel_size": 2}, {"kernel_size": (2, 3)}, {"kernel_size": (2, 3), "ceil_mode": True},
        {"kernel_size": (3, 2), "stride": 1}, {"kernel_size": (3, 2), "stride": 2, "padding": 1},
        {"kernel_size": 3, "stride": (2, 3), "padding": 1, "ceil_mode": True},
        {"kernel_size": (2, 1), "stride": (3, 2)}, {"kernel_size": 1},
    ) for row in cases(
        "max_pool2d avg_pool2d", (2, 6, 5, 1), (0, 4, 4, 2), sample=distinct, **options,
    )),
    *cases("max_pool2d", (1, 6, 6, 2), _IMAGES, sample=distinct,
           kernel_size=(2, 3), stride=(2, 1), padding=(1, 0), dilation=2),
    *(row for ceil_mode in (False, True) for row in cases(
        "avg_pool2d", (1, 5, 4, 2), (1, 6, 6, 2), _IMAGES,
        kernel_size=(3, 2), stride=2, padding=1, ceil_mode=ceil_mode, count_include_pad=False)),
    *cases("global_avg_pool2d global_max_pool2d", (2, 3, 4, 2), sample=distinct),
    *(row for size in ((5, 4), (2, 3), (3, 11)) for row in cases(
        "resize_nearest resize_bilinear", (2, 3, 4, 2), (1, 1, 5, 1), size=size)),
    # normalization
    *cases("batch_norm", [(4, 3), None, None, (3,), (3,)], [(3, 1, 1, 1), None, None, (1,), (1,)],
           [_IMAGES, None, None, (3,), (3,)], training=True),
    *cases("batch_norm", [(2, 3, 1, 2), *_STATISTICS, (2,), (2,)], eps=0.0),
    *cases("layer_norm", [(3, 4), 1, (4,), (4,)], [(2, 3, 2), 2, (3, 2), (3, 2)],
           [(1, 2, 5), 1, (5,), (5,)]),
    *cases("group_norm", *([(2, 3, 2, 4), groups, (4,), (4,)] for groups in (1, 2, 4)), eps=1e-3),
    *cases("dropout", [(5, 7), 0.25], [(3,), 0.25, False]),
    # losses
    *(row for options in (
        {}, {"reduction": "sum"}, {"reduction": "none"}, {"label_smoothing": 0.2},
        {"ignore_index": 2},
    ) for row in cases(
        "cross_entropy", [(4, 3), _LABELS], [(4, 3), _LABELS, _CLASS_WEIGHTS],
        [(2, 2, 1, 3), _LABELS.reshape(2, 2, 1)], **options,
    )),
    *cases("cross_entropy", [(4, 3), (4, 3)]),
    *cases("nll_loss", [(4, 3), _LABELS]),
    *cases("binary_cross_entropy_with_logits", [(3, 2), _PROBABILITIES],
           [(3, 2), _PROBABILITIES, 3.0, "sum"]),
    *cases("mse_loss l1_loss", [(4, 2), (4, 2)], sample=distinct),
    *cases("huber_loss", [(3, 2), (3, 2), 1.3, "none"]),
    *cases("sigmoid_focal_loss", [(3, 2), _TRUTH], [(3, 2), _TRUTH, -1.0, 1.5],
           [(3, 2), _TRUTH, 0.6, 0.0, "sum"]),
]


# -- kernels --------------------------------------------------------------------------------------

_CLASSES = np.array([2, 0, 1, 2, 2])
_REVERSED = np.linspace(-2, 2, 6 * 30 * 5, dtype="float16").reshape(5, 30, 6).T
_VARIANCES = np.linspace(0.5, 2, 30, dtype="float32")  # statistics of float16 are float32
_SAME = Window((3, 3), padding=((1, 1), (1, 1)))
_STRIDED = Window((3, 2), (2, 1), ((0, 2), (1, 0)), (1, 2))
_POOL = Window((3, 2), (2, 2), ((1, 1), (0, 1)))
_HALVE = Window((2, 2), (2, 2))
_TAPS = (np.arange(2 * 4 * 4 * 20) % 4).reshape(2, 4, 4, 20).astype(np.int16)
_MAXIMA, _WINNERS = Backend.max_pool2d(
    get_backend("cpu"), cases("images", _IMAGES)[0].variables[0], _POOL
)
_ALL = NeedsGrad(True, True, True)


def _momentum(p: Array, g: Array, v: Array) -> None:
    v *= 0.9
    v += g
    p -= 0.1 * v


KERNELS = [
    *cases("relu", (3, 5)),
    *cases("evaluate", [erf, (3, 5)], [erfc, (3, 5)]),
    *cases("elementwise", ["add", (3, 5), 2.0]),
    *cases("relu_gradient", [(6, 30, 5), _REVERSED]),
    *cases("matmul", [(7, 9), (9, 4)]),
    *cases("add_bias", [(3, 5), (5,)]),
    *cases("sum", (5, 40, 7), axes=(0, 1)),
    *cases("sum", (5, 40, 7), axes=(0, 2), keepdims=True),
    *cases("mean", (5, 4000), axes=(1,)),
    *cases("center", (5, 40, 7), axes=(0, 1)),
    *cases("sum_of_squares", (5, 40, 7), ()),
    *cases("log_softmax", (4, 7), axis=1),
    *cases("softmax", (4, 7), axis=0),
    *cases("cross_entropy", [(5, 3), _CLASSES]),
    *cases("cross_entropy_gradient", [(), (5, 3), _CLASSES]),
    *cases("check_labels", [_CLASSES, 3, None]),
    *cases("check_index", [(4, 5), _PICKS]),
    *cases("gather", [(4, 5), _PICKS]),
    *cases("scatter_add", [[4, 5], _PICKS, (3,)]),
    *(row for axes, shape in (((1, 2), (6, 1, 1)), ((0, 2), (1, 30, 1))) for row in (
        *cases("normalize", (6, 30, 5), axes=axes, eps=1e-5),
        *cases("normalize_gradient", [_REVERSED, (6, 30, 5), np.resize(_VARIANCES, shape)],
               axes=axes, eps=1e-5),
    )),
    *cases("batch_norm", [(6, 30, 5), BatchNorm((5,), (5,), ((5,), (5,)), 0.1, 1e-5)],
           sample=positive),
    *cases("batch_norm_gradient",
           [_REVERSED, (6, 30, 5), BatchNorm((5,), None, None, 0.1, 1e-5),
            Normalized(None, _VARIANCES[5:10] - 1, _VARIANCES[:5])]),
    *cases("pad_image", _IMAGES, window=_POOL, value=2.0),
    *(row for window, x, weight, grad in (
        (_SAME, (2, 9, 8, 3), (3, 3, 3, 19), (2, 9, 8, 19)),
        (_SAME._replace(groups=6), (2, 9, 8, 6), (3, 3, 1, 6), (2, 9, 8, 6)),
        (_SAME, (2, 9, 8, 64), (3, 3, 64, 128), (2, 9, 8, 128)),
        (_STRIDED._replace(groups=2), (2, 9, 8, 4), (3, 2, 2, 6), (2, 5, 7, 6)),
        (Window((1, 1)), (2, 9, 8, 5), (1, 1, 5, 3), (2, 9, 8, 3)),
    ) for row in (
        *cases("conv2d", [x, weight, weight[3:]], window=window),
        *cases("conv2d_input_gradient", [grad, weight], window=window, shape=x),
        *cases("conv2d_weight_gradient", [x, grad], window=window),
        *cases("conv2d_gradients", [x, weight, grad], window=window, needs=_ALL),
    )),
    *cases("conv2d_relu_pool", [_IMAGES, (3, 3, 3, 20), (20,)], window=_SAME, pool=_HALVE),
    *cases("conv2d_relu_pool_gradients",
           [_IMAGES, (3, 3, 3, 20), PooledGrad((2, 4, 4, 20), (2, 4, 4, 20), _TAPS, _HALVE)],
           window=_SAME, needs=_ALL),
    *cases("max_pool2d sum_pool2d", _IMAGES, window=_POOL),
    *cases("max_pool2d_scatter", [_MAXIMA, _WINNERS], window=_POOL, shape=_IMAGES),
    *cases("max_pool2d_gather", [_IMAGES, _WINNERS], window=_POOL),
    *cases("relu_max_pool2d_gradient", [PooledGrad(_MAXIMA * 2, _MAXIMA, _WINNERS, _POOL)],
           shape=_IMAGES),
    *cases("sum_pool2d_adjoint", (2, 5, 4, 3), window=_POOL, shape=_IMAGES),
    *cases("random_bits", [2**63 + 5, 2**40, 1001]),
    *cases("dropout", [(7, 11), 3, 4, 0.3]),
    *cases("masked", [(2, 3), _STEPS > 0, 2.0]),
    *cases("update", [_momentum, [[(70, 70), (3,), (1, 5)]] * 3]),
    *cases("unscale", [[(3, 4), (5,)], np.array(0.25, "float16"), np.array(False)]),
    *(row for loss, failed, scores in (
        (0.75, False, (5, 3)), (0.75, True, (5, 3)), (np.inf, False, (5, 3)), (0.75, False, (5, 1)))
      for row in cases(
        "accumulate_metrics",
        [np.ones(4), np.array(failed), np.array(loss, "float16"), 7, scores, _CLASSES])),
]
# fmt: on


# -- optimizers -----------------------------------------------------------------------------------


def _optimizers() -> Iterator[Case]:
    """Every optimizer with its defaults, and with all options on that are off by default."""
    weights = [(70, 70), (3,), (1, 5)]
    for name in optim.__all__:
        kind = getattr(optim, name)
        if isinstance(kind, type) and optim.Optimizer in kind.__mro__[1:]:
            defaults = {key: option.default for key, option in signature(kind).parameters.items()}
            options = {key: value is False or 0.5 for key, value in defaults.items() if value == 0}
            yield from cases(name, [weights, weights], sample=positive)
            yield from cases(name, [weights, weights], sample=positive, **options)


OPTIMIZERS = list(_optimizers())


CHAINED: dict[str, Callable[..., Any]] = {
    "cross_entropy": lambda b, x, labels: b.cross_entropy(x, labels, None)[0],
    "cross_entropy_gradient": lambda b, grad, x, labels: b.cross_entropy_gradient(
        grad, x, b.cross_entropy(x, labels, None)[1], labels
    ),
}
"""Calls of kernels that share an array whose content is up to the backend."""
