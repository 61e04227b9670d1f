"""Every differentiable function, at points that show what it does: the table that the tests walk.

A case is a function of tensors, arrays to call it with, and a naive reference of arrays. Points are
away from the kinks of functions that have some.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

import tinynn
from tests.functional import references
from tinynn import functional as F
from tinynn.autograd import Tensor
from tinynn.random import Generator

_rng = np.random.default_rng(5)


@dataclass(frozen=True)
class Case:
    """One function of tensors with a point and what it should give there."""

    name: str
    label: str
    function: Callable[..., Any]
    reference: Callable[..., Any]
    arrays: tuple[np.ndarray, ...]

    def __str__(self) -> str:
        return f"{self.name}-{self.label}"


def normal(*shape: int) -> np.ndarray:
    return _rng.standard_normal(shape)


def positive(*shape: int) -> np.ndarray:
    return _rng.uniform(0.3, 2.0, shape)


def away_from_zero(*shape: int) -> np.ndarray:
    return _rng.uniform(0.1, 2.0, shape) * _rng.choice([-1.0, 1.0], shape)


def distinct(*shape: int) -> np.ndarray:
    """No two numbers are closer than 0.03, none is closer than that to zero."""
    size = math.prod(shape)
    return (_rng.permutation(size).reshape(shape) - size // 2 + 0.5) * 0.06


def constant(array: Any, like: Tensor) -> Tensor:
    """A tensor without gradient on the device of another, in its dtype unless it holds integers."""
    array = np.asarray(array)
    return tinynn.tensor(
        array.astype(like.dtype) if array.dtype.kind == "f" else array, device=like.device
    )


def elementwise() -> Iterator[Case]:
    def erf(x: np.ndarray) -> np.ndarray:
        return np.vectorize(math.erf, otypes=[float])(x)

    def gelu_tanh(x: np.ndarray) -> np.ndarray:
        return x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    table: list[tuple[str, str, Any, Any, Callable[..., np.ndarray]]] = [
        ("abs", "values", F.abs, np.abs, away_from_zero),
        ("absolute", "values", F.absolute, np.abs, away_from_zero),
        ("negative", "values", F.negative, np.negative, normal),
        ("square", "values", F.square, lambda x: x * x, normal),
        ("exp", "values", F.exp, np.exp, normal),
        ("log", "positive", F.log, np.log, positive),
        ("sqrt", "positive", F.sqrt, np.sqrt, positive),
        ("sin", "values", F.sin, np.sin, normal),
        ("cos", "values", F.cos, np.cos, normal),
        ("tanh", "values", F.tanh, np.tanh, normal),
        ("erf", "values", F.erf, erf, normal),
        ("clip", "both", lambda x: F.clip(x, -0.9, 1.2), lambda x: np.clip(x, -0.9, 1.2), distinct),
        ("clip", "low", lambda x: F.clip(x, low=0.0), lambda x: np.maximum(x, 0.0), distinct),
        ("clip", "high", lambda x: F.clip(x, high=0.0), lambda x: np.minimum(x, 0.0), distinct),
        ("relu", "values", F.relu, lambda x: np.maximum(x, 0), away_from_zero),
        (
            "leaky_relu",
            "slope",
            lambda x: F.leaky_relu(x, 0.2),
            lambda x: np.where(x > 0, x, 0.2 * x),
            away_from_zero,
        ),
        (
            "elu",
            "alpha",
            lambda x: F.elu(x, 1.5),
            lambda x: np.where(x > 0, x, 1.5 * (np.exp(x) - 1)),
            away_from_zero,
        ),
        ("sigmoid", "values", F.sigmoid, references.sigmoid, normal),
        ("softplus", "values", F.softplus, lambda x: np.log(1 + np.exp(x)), normal),
        ("log_sigmoid", "values", F.log_sigmoid, lambda x: -np.log(1 + np.exp(-x)), normal),
        ("silu", "values", F.silu, lambda x: x / (1 + np.exp(-x)), normal),
        ("gelu", "exact", F.gelu, lambda x: x / 2 * (1 + erf(x / math.sqrt(2))), normal),
        ("gelu", "tanh", lambda x: F.gelu(x, "tanh"), gelu_tanh, normal),
    ]
    for name, label, function, reference, sample in table:
        for shape in ((3, 5), (), (0, 4)):
            yield Case(name, f"{label}-{shape}", function, reference, (sample(*shape),))


def arithmetic() -> Iterator[Case]:
    table: list[tuple[str, Any, Any, Callable[..., np.ndarray]]] = [
        ("add", F.add, np.add, normal),
        ("subtract", F.subtract, np.subtract, normal),
        ("multiply", F.multiply, np.multiply, normal),
        ("divide", F.divide, np.divide, away_from_zero),
        ("power", F.power, np.power, positive),
        ("maximum", F.maximum, np.maximum, distinct),
        ("minimum", F.minimum, np.minimum, distinct),
    ]
    pairs = [((3, 4), (3, 4)), ((2, 1, 4), (3, 1)), ((5,), ()), ((), ()), ((0, 3), (3,))]
    for name, function, reference, sample in table:
        for a, b in pairs:
            label = f"{a}-{b}"
            point = (sample(*a), sample(*b) + (0.015 if sample is distinct else 0.0))
            yield Case(name, label, function, reference, point)
    yield from _with_numbers()
    mask = np.array([[True], [False], [True]])
    for a, b in (((3, 4), (3, 4)), ((4,), ()), ((2, 1, 1), (3, 4))):
        yield Case(
            "where",
            f"{a}-{b}",
            lambda x, y: F.where(constant(mask, x), x, y),
            lambda x, y: np.where(mask, x, y),
            (normal(*a), normal(*b)),
        )
    yield Case(
        "where",
        "number",
        lambda x: F.where(constant(mask, x), x, -1.5),
        lambda x: np.where(mask, x, -1.5),
        (normal(3, 2),),
    )


def _with_numbers() -> Iterator[Case]:
    table: list[tuple[str, str, Any, Callable[..., np.ndarray]]] = [
        ("add", "x+2.5", lambda x: x + 2.5, normal),
        ("subtract", "2-x", lambda x: 2 - x, normal),
        ("multiply", "float64*x", lambda x: np.float64(1.5) * x, normal),
        ("divide", "x/3", lambda x: x / 3, normal),
        ("divide", "3/x", lambda x: 3 / x, away_from_zero),
        ("power", "x**3", lambda x: x**3, away_from_zero),
        ("power", "x**-0.5", lambda x: x**-0.5, positive),
        ("power", "x**0", lambda x: x**0, away_from_zero),
        ("power", "x**1", lambda x: x**1, away_from_zero),
        ("power", "2**x", lambda x: 2**x, normal),
    ]
    for name, label, function, sample in table:
        yield Case(name, label, function, function, (sample(3, 2),))
    yield Case(
        "maximum", "number", lambda x: F.maximum(x, 0.3), lambda x: np.maximum(x, 0.3), (normal(7),)
    )
    yield Case(
        "minimum", "number", lambda x: F.minimum(0.3, x), lambda x: np.minimum(x, 0.3), (normal(7),)
    )


def reductions() -> Iterator[Case]:
    def logsumexp(x: np.ndarray, axis: Any = None, keepdims: bool = False) -> np.ndarray:
        return np.log(np.exp(x).sum(axis=axis, keepdims=keepdims))

    table: list[tuple[str, Any, Any, Callable[..., np.ndarray]]] = [
        ("sum", F.sum, np.sum, normal),
        ("mean", F.mean, np.mean, normal),
        ("max", F.max, np.max, distinct),
        ("min", F.min, np.min, distinct),
        ("var", F.var, np.var, normal),
        ("std", F.std, np.std, normal),
        ("logsumexp", F.logsumexp, logsumexp, normal),
    ]
    options: list[tuple[tuple[int, ...], dict[str, Any]]] = [
        ((3, 5), {}),
        ((2, 3, 4), {"axis": 1}),
        ((2, 3, 4), {"axis": (0, -1), "keepdims": True}),
        ((2, 3, 4), {"axis": (0, 1)}),
        ((1, 4), {"axis": -1}),
    ]
    for name, function, reference, sample in table:
        for shape, option in options:
            yield Case(
                name,
                f"{shape}-{option}",
                lambda x, f=function, o=option: f(x, **o),
                lambda x, f=reference, o=option: f(x, **o),
                (sample(*shape),),
            )
    for name, function, reference in (
        ("sum", F.sum, np.sum),
        ("max", F.max, np.max),
        ("logsumexp", F.logsumexp, logsumexp),
    ):
        yield Case(name, "number", function, reference, (normal(),))
    yield Case("sum", "empty", lambda x: F.sum(x, 0), lambda x: x.sum(0), (normal(0, 3),))
    for name, f, g in (("var", F.var, np.var), ("std", F.std, np.std)):
        yield Case(
            name,
            "correction",
            lambda x, f=f: f(x, axis=0, correction=1),
            lambda x, g=g: g(x, axis=0, ddof=1),
            (normal(4, 2),),
        )
    for axis in (0, 1, -1):
        yield Case(
            "softmax",
            f"{axis}",
            lambda x, a=axis: F.softmax(x, a),
            lambda x, a=axis: np.exp(x) / np.exp(x).sum(a, keepdims=True),
            (normal(3, 1, 4),),
        )
        yield Case(
            "log_softmax",
            f"{axis}",
            lambda x, a=axis: F.log_softmax(x, a),
            lambda x, a=axis: x - np.log(np.exp(x).sum(a, keepdims=True)),
            (normal(3, 2, 4),),
        )


def shapes() -> Iterator[Case]:
    table: list[tuple[str, str, Any, Any, tuple[int, ...]]] = [
        ("reshape", "(4, -1)", lambda x: x.reshape(4, -1), lambda x: x.reshape(4, -1), (2, 3, 4)),
        ("reshape", "empty", lambda x: x.reshape(3, 0), lambda x: x.reshape(3, 0), (0, 3)),
        ("flatten", "1", lambda x: x.flatten(1), lambda x: x.reshape(2, 12), (2, 3, 4)),
        ("flatten", "number", F.flatten, lambda x: x.reshape(1), ()),
        (
            "permute",
            "axes",
            lambda x: x.permute(2, 0, 1),
            lambda x: x.transpose(2, 0, 1),
            (2, 3, 4),
        ),
        ("permute", "reversed", lambda x: x.T, lambda x: x.T, (2, 3)),
        ("squeeze", "all", F.squeeze, np.squeeze, (1, 3, 1)),
        ("squeeze", "one", lambda x: F.squeeze(x, -1), lambda x: x[..., 0], (1, 3, 1)),
        ("unsqueeze", "-1", lambda x: F.unsqueeze(x, -1), lambda x: x[..., None], (2, 3)),
        (
            "broadcast_to",
            "new and stretched",
            lambda x: F.broadcast_to(x, (2, 3, 4)),
            lambda x: np.broadcast_to(x, (2, 3, 4)),
            (3, 1),
        ),
        ("split", "equal", lambda x: F.split(x, 2, 1), lambda x: np.split(x, 2, 1), (3, 4)),
        (
            "split",
            "sizes",
            lambda x: F.split(x, [1, 0, 3]),
            lambda x: [x[:1], x[1:1], x[1:]],
            (4, 2),
        ),
        (
            "pad",
            "value",
            lambda x: F.pad(x, [(1, 0), (0, 2)], 1.5),
            lambda x: np.pad(x, [(1, 0), (0, 2)], constant_values=1.5),
            (2, 3),
        ),
        ("flip", "all", F.flip, np.flip, (2, 3)),
        ("flip", "one", lambda x: F.flip(x, -1), lambda x: x[:, ::-1], (2, 3)),
    ]
    for name, label, function, reference, shape in table:
        yield Case(name, label, function, reference, (normal(*shape),))
    for axis in (0, 1, -1):
        yield Case(
            "concat",
            f"{axis}",
            lambda *xs, a=axis: F.concat(xs, a),
            lambda *xs, a=axis: np.concatenate(xs, a),
            (normal(2, 2), normal(2, 2), normal(2, 2)),
        )
        yield Case(
            "stack",
            f"{axis}",
            lambda *xs, a=axis: F.stack(xs, a),
            lambda *xs, a=axis: np.stack(xs, a),
            (normal(2, 3), normal(2, 3)),
        )
    yield Case(
        "concat",
        "one tensor twice",
        lambda x: F.concat([x, x]),
        lambda x: np.concatenate([x, x]),
        (normal(2, 3),),
    )
    yield from _indices()


def _indices() -> Iterator[Case]:
    keys: dict[str, Any] = {
        "integer": 1,
        "negative": (-1, slice(None), -2),
        "slices": (slice(None, None, 2), slice(3, 0, -1)),
        "ellipsis": (Ellipsis, 0),
        "new axis": (None, 1, Ellipsis, None),
        "list": [2, 0],
        "repeated": np.array([1, 1, 0, 1]),
        "pairs": (np.array([0, 2, 0]), np.array([1, 3, 1])),
        "outer": (np.array([[0], [2]]), slice(None), np.array([1, 0, 1])),
        "nothing": np.array([], dtype=np.int64),
        "mask": np.array([True, False, True]),
        "full mask": np.arange(3 * 4 * 2).reshape(3, 4, 2) % 3 == 0,
    }
    for label, key in keys.items():
        yield Case("index", label, lambda x, k=key: x[k], lambda x, k=key: x[k], (normal(3, 4, 2),))


def products() -> Iterator[Case]:
    for a, b in (
        ((2, 3), (3, 4)),
        ((3,), (3,)),
        ((3,), (2, 3, 4)),
        ((2, 1, 3, 2), (4, 2, 1)),
        ((5, 2, 3), (3, 4)),
        ((2, 0), (0, 3)),
    ):
        yield Case("matmul", f"{a}-{b}", F.matmul, np.matmul, (normal(*a), normal(*b)))
    yield Case(
        "linear",
        "bias",
        F.linear,
        lambda x, w, b: x @ w + b,
        (normal(4, 3), normal(3, 2), normal(2)),
    )
    yield Case("linear", "axes", F.linear, lambda x, w: x @ w, (normal(2, 1, 3), normal(3, 2)))
    yield Case("linear", "empty", F.linear, lambda x, w: x @ w, (normal(0, 3), normal(3, 2)))
    for subscripts, *sizes in (
        ("ij,jk->ik", (2, 3), (3, 4)),
        ("nik,kj->nij", (2, 3, 4), (4, 2)),
        ("ij->ji", (2, 3)),
        ("ij->", (2, 3)),
        ("ij->j", (2, 3)),
        ("i,j->ij", (2,), (3,)),
        ("ij,kj", (2, 3), (4, 3)),
        ("ij,k->j", (2, 3), (4,)),
        ("ab,bc,cd->ad", (2, 3), (3, 2), (2, 4)),
    ):
        yield Case(
            "einsum",
            subscripts,
            lambda *xs, s=subscripts: F.einsum(s, *xs),
            lambda *xs, s=subscripts: np.einsum(s, *xs),
            tuple(normal(*size) for size in sizes),
        )


def convolutions() -> Iterator[Case]:
    table: list[tuple[str, tuple[int, ...], tuple[int, ...], dict[str, Any], dict[str, Any]]] = [
        ("plain", (1, 5, 4, 1), (3, 3, 1, 2), {}, {}),
        ("same-odd", (2, 4, 5, 2), (3, 3, 2, 3), {"padding": "same"}, {"pads": ((1, 1), (1, 1))}),
        ("same-even", (1, 4, 5, 2), (2, 4, 2, 1), {"padding": "same"}, {"pads": ((0, 1), (1, 2))}),
        (
            "same-stride",
            (1, 5, 6, 1),
            (3, 3, 1, 2),
            {"padding": "same", "stride": 2},
            {"pads": ((1, 1), (0, 1)), "stride": (2, 2)},
        ),
        (
            "asymmetric",
            (1, 4, 3, 2),
            (2, 3, 2, 2),
            {"padding": ((2, 0), (1, 3))},
            {"pads": ((2, 0), (1, 3))},
        ),
        (
            "stride>kernel",
            (2, 7, 8, 1),
            (2, 1, 1, 2),
            {"stride": (3, 2)},
            {"stride": (3, 2)},
        ),
        (
            "dilation",
            (1, 7, 6, 2),
            (3, 2, 2, 2),
            {"dilation": (2, 3), "padding": (1, 2)},
            {"dilation": (2, 3), "pads": ((1, 1), (2, 2))},
        ),
        (
            "groups",
            (2, 4, 4, 4),
            (3, 3, 2, 6),
            {"groups": 2, "padding": 1, "stride": 2},
            {"groups": 2, "pads": ((1, 1), (1, 1)), "stride": (2, 2)},
        ),
        ("depthwise", (1, 4, 3, 3), (2, 2, 1, 6), {"groups": 3}, {"groups": 3}),
        ("1x1", (2, 3, 2, 4), (1, 1, 4, 3), {}, {}),
        ("wide padding", (1, 2, 2, 1), (2, 2, 1, 1), {"padding": 3}, {"pads": ((3, 3), (3, 3))}),
        ("empty batch", (0, 4, 4, 2), (3, 3, 2, 2), {}, {}),
    ]
    for label, x, w, options, plain in table:
        yield Case(
            "conv2d",
            label,
            lambda x, w, b, o=options: F.conv2d(x, w, b, **o),
            lambda x, w, b, o=plain: references.conv2d(x, w, b, **o),
            (normal(*x), normal(*w), normal(w[3])),
        )
    yield from _transposed()
    yield from _fused()


def _fused() -> Iterator[Case]:
    table: list[tuple[str, tuple[int, ...], tuple[int, ...], dict[str, Any], dict[str, Any]]] = [
        ("plain", (1, 5, 5, 1), (2, 2, 1, 2), {}, {}),
        ("odd", (2, 5, 7, 2), (3, 3, 2, 3), {"padding": "same"}, {"pads": ((1, 1), (1, 1))}),
        ("stride", (1, 9, 8, 1), (3, 2, 1, 2), {"stride": (2, 1)}, {"stride": (2, 1)}),
    ]
    pools: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({}, {"kernel": (2, 2), "stride": (2, 2)}),
        ({"ceil_mode": True}, {"kernel": (2, 2), "stride": (2, 2), "ceil_mode": True}),
        ({"pool_size": 3, "pool_stride": 1}, {"kernel": (3, 3), "stride": (1, 1)}),
    ]

    def reference(x: Any, w: Any, b: Any, plain: dict[str, Any], pool: dict[str, Any]) -> Any:
        return references.max_pool2d(np.maximum(references.conv2d(x, w, b, **plain), 0), **pool)

    for label, x, w, options, plain in table:
        for number, (pooling, pool) in enumerate(pools):
            yield Case(
                "conv2d_relu_max_pool2d",
                f"{label}{number}",
                lambda x, w, b, o=options | pooling: F.conv2d_relu_max_pool2d(x, w, b, **o),
                lambda x, w, b, o=plain, p=pool: reference(x, w, b, o, p),
                (normal(*x), normal(*w), normal(w[3])),
            )


def _transposed() -> Iterator[Case]:
    table: list[tuple[str, tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
        ("plain", (1, 3, 2, 2), (3, 2, 1, 2), {}),
        ("stride", (2, 3, 2, 1), (2, 3, 2, 1), {"stride": (2, 3)}),
        (
            "output padding",
            (1, 3, 3, 2),
            (3, 3, 2, 2),
            {"stride": (2, 2), "padding": (1, 1), "output_padding": (1, 0)},
        ),
        ("dilation", (1, 2, 3, 1), (2, 2, 1, 1), {"dilation": (2, 1), "padding": (0, 1)}),
        ("groups", (1, 3, 2, 4), (2, 2, 3, 4), {"groups": 2, "stride": (2, 1)}),
        (
            "output padding within dilation",
            (2, 3, 2, 2),
            (2, 3, 1, 2),
            {"dilation": (3, 2), "output_padding": (2, 1), "padding": (1, 0)},
        ),
    ]
    for label, x, w, options in table:
        outputs = w[2] * options.get("groups", 1)
        yield Case(
            "conv_transpose2d",
            label,
            lambda x, w, b, o=options: F.conv_transpose2d(x, w, b, **o),
            lambda x, w, b, o=options: references.conv_transpose2d(x, w, b, **o),
            (normal(*x), normal(*w), normal(outputs)),
        )


def pooling() -> Iterator[Case]:
    table: list[tuple[str, tuple[int, ...], dict[str, Any]]] = [
        ("2x2", (2, 4, 6, 2), {"kernel": (2, 2), "stride": (2, 2)}),
        ("left over", (1, 5, 7, 1), {"kernel": (2, 3), "stride": (2, 3)}),
        ("ceil", (1, 5, 7, 2), {"kernel": (2, 3), "stride": (2, 3), "ceil_mode": True}),
        ("overlap", (1, 5, 4, 3), {"kernel": (3, 2), "stride": (1, 1)}),
        ("padding", (1, 4, 5, 1), {"kernel": (3, 2), "stride": (2, 2), "padding": (1, 1)}),
        (
            "ceil padding",
            (2, 6, 5, 1),
            {"kernel": (3, 3), "stride": (2, 3), "padding": (1, 1), "ceil_mode": True},
        ),
        ("gaps", (1, 7, 5, 2), {"kernel": (2, 1), "stride": (3, 2)}),
        ("1x1", (1, 2, 3, 1), {"kernel": (1, 1), "stride": (1, 1)}),
        ("empty batch", (0, 4, 4, 1), {"kernel": (2, 2), "stride": (2, 2)}),
    ]
    for label, shape, options in table:
        yield _pool("max_pool2d", label, shape, options)
        yield _pool("avg_pool2d", label, shape, options)
    dilated = {"kernel": (2, 3), "stride": (2, 1), "padding": (1, 0), "dilation": (2, 2)}
    yield _pool("max_pool2d", "dilation", (1, 6, 6, 2), dilated)
    uncounted = {"kernel": (3, 2), "stride": (2, 2), "padding": (1, 1), "count_include_pad": False}
    yield _pool("avg_pool2d", "uncounted", (1, 5, 4, 2), uncounted)
    yield _pool("avg_pool2d", "uncounted ceil", (1, 6, 6, 2), uncounted | {"ceil_mode": True})
    for name, function, reference in (
        ("global_avg_pool2d", F.global_avg_pool2d, lambda x: x.mean((1, 2))),
        ("global_max_pool2d", F.global_max_pool2d, lambda x: x.max((1, 2))),
    ):
        yield Case(name, "images", function, reference, (distinct(2, 3, 4, 2),))


def _pool(name: str, label: str, shape: tuple[int, ...], options: dict[str, Any]) -> Case:
    others = {key: value for key, value in options.items() if key != "kernel"}
    return Case(
        name,
        label,
        lambda x: getattr(F, name)(x, options["kernel"], **others),
        lambda x: getattr(references, name)(x, **options),
        (distinct(*shape),),
    )


def resizing() -> Iterator[Case]:
    for name in ("resize_nearest", "resize_bilinear"):
        for shape, size in (((2, 3, 4, 2), (5, 4)), ((1, 5, 4, 1), (2, 3)), ((1, 1, 2, 3), (3, 1))):
            yield Case(
                name,
                f"{shape}-{size}",
                lambda x, n=name, s=size: getattr(F, n)(x, s),
                lambda x, n=name, s=size: getattr(references, n)(x, s),
                (normal(*shape),),
            )


def normalization() -> Iterator[Case]:
    for shape in ((4, 3), (2, 3, 2, 2), (3, 1, 1, 1)):
        yield Case(
            "batch_norm",
            f"training-{shape}",
            lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True),
            references.batch_norm,
            (normal(*shape), normal(shape[-1]), normal(shape[-1])),
        )
    yield Case(
        "batch_norm",
        "evaluation",
        lambda x, w, b: F.batch_norm(
            x, constant([0.5, -1.0], x), constant([4.0, 0.25], x), w, b, eps=0.0
        ),
        lambda x, w, b: (x - [0.5, -1.0]) / [2.0, 0.5] * w + b,
        (normal(2, 3, 1, 2), normal(2), normal(2)),
    )
    for axes, shape in ((1, (3, 4)), (2, (2, 3, 2)), (1, (1, 2, 5))):
        own = shape[len(shape) - axes :]
        yield Case(
            "layer_norm",
            f"{axes}-{shape}",
            lambda x, w, b, a=axes: F.layer_norm(x, a, w, b),
            lambda x, w, b, a=axes: references.layer_norm(x, a, w, b),
            (normal(*shape), normal(*own), normal(*own)),
        )
    for groups in (1, 2, 4):
        yield Case(
            "group_norm",
            f"{groups}",
            lambda x, w, b, g=groups: F.group_norm(x, g, w, b, eps=1e-3),
            lambda x, w, b, g=groups: references.group_norm(x, g, w, b, eps=1e-3),
            (normal(2, 3, 2, 4), normal(4), normal(4)),
        )


def dropping() -> Iterator[Case]:
    def reference(x: np.ndarray) -> np.ndarray:
        bits = np.random.Philox(key=7, counter=2**256 - 1).random_raw(x.size).view(np.uint32)
        return np.where(bits[: x.size].reshape(x.shape) < 0.25 * 2**32, 0, x / 0.75)

    yield Case(
        "dropout",
        "training",
        lambda x: F.dropout(x, 0.25, generator=Generator(7)),
        reference,
        (normal(5, 7),),
    )
    yield Case("dropout", "evaluation", lambda x: F.dropout(x, 0.25, False), np.copy, (normal(3),))


def losses() -> Iterator[Case]:
    labels, weight = np.array([2, 0, 2, 1]), np.array([0.5, 2.0, 1.25])
    options: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "labels": ({}, {}),
        "sum": ({"reduction": "sum"}, {"reduction": "sum"}),
        "none": ({"reduction": "none"}, {"reduction": "none"}),
        "smoothing": ({"label_smoothing": 0.2}, {"smoothing": 0.2}),
        "ignored": ({"ignore_index": 2}, {"ignore_index": 2}),
    }
    for label, (ours, plain) in options.items():
        yield Case(
            "cross_entropy",
            label,
            lambda x, o=ours: F.cross_entropy(x, constant(labels, x), **o),
            lambda x, o=plain: references.cross_entropy(x, labels, **o),
            (normal(4, 3),),
        )
        yield Case(
            "cross_entropy",
            f"{label}, weighed",
            lambda x, o=ours: F.cross_entropy(x, constant(labels, x), constant(weight, x), **o),
            lambda x, o=plain: references.cross_entropy(x, labels, weight, **o),
            (normal(4, 3),),
        )
    pixels = np.array([[[0, 1], [2, 2]]])
    yield Case(
        "cross_entropy",
        "pixels",
        lambda x: F.cross_entropy(x, constant(pixels, x), ignore_index=1),
        lambda x: references.cross_entropy(x, pixels, ignore_index=1),
        (normal(1, 2, 2, 3),),
    )
    yield Case(
        "cross_entropy",
        "probabilities",
        F.cross_entropy,
        lambda x, p: -(p * references.log_softmax(x)).sum() / len(x),
        (normal(4, 3), positive(4, 3)),
    )
    yield Case(
        "nll_loss",
        "labels",
        lambda x: F.nll_loss(x, constant(labels, x)),
        lambda x: -sum(x[i, k] for i, k in enumerate(labels)) / 4,
        (normal(4, 3),),
    )
    yield from _pairwise_losses()


def _pairwise_losses() -> Iterator[Case]:
    share = _rng.uniform(0.1, 0.9, (3, 2))
    apart = away_from_zero(3, 2) * 2
    table: list[tuple[str, str, Any, Any, tuple[np.ndarray, ...]]] = [
        (
            "binary_cross_entropy_with_logits",
            "plain",
            F.binary_cross_entropy_with_logits,
            lambda x, t: references.binary_cross_entropy(x, t).mean(),
            (normal(3, 2), share),
        ),
        (
            "binary_cross_entropy_with_logits",
            "pos_weight",
            lambda x, t: F.binary_cross_entropy_with_logits(x, t, 3.0, reduction="sum"),
            lambda x, t: references.binary_cross_entropy(x, t, 3.0).sum(),
            (normal(3, 2), share),
        ),
        (
            "mse_loss",
            "mean",
            F.mse_loss,
            lambda x, t: ((x - t) ** 2).mean(),
            (normal(4), normal(4)),
        ),
        (
            "l1_loss",
            "mean",
            F.l1_loss,
            lambda x, t: np.abs(x - t).mean(),
            (share + apart, share),
        ),
        (
            "huber_loss",
            "delta",
            lambda x, t: F.huber_loss(x, t, 1.3, reduction="none"),
            lambda x, t: references.huber(x - t, 1.3),
            (share + apart, share),
        ),
    ]
    for name, label, function, reference, arrays in table:
        yield Case(name, label, function, reference, arrays)
    for alpha, gamma in ((0.25, 2.0), (-1.0, 1.5), (0.6, 0.0)):
        yield Case(
            "sigmoid_focal_loss",
            f"{alpha}-{gamma}",
            lambda x, t, a=alpha, g=gamma: F.sigmoid_focal_loss(x, t, a, g, "sum"),
            lambda x, t, a=alpha, g=gamma: references.focal(x, t, a, g).sum(),
            (normal(3, 2), np.array([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]])),
        )


CASES = [
    *elementwise(),
    *arithmetic(),
    *reductions(),
    *shapes(),
    *products(),
    *convolutions(),
    *pooling(),
    *resizing(),
    *normalization(),
    *dropping(),
    *losses(),
]
