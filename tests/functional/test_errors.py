"""Invalid arguments of functions, and the error messages."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinynn
from tinynn import functional as F
from tinynn.autograd import Tensor
from tinynn.errors import ArgumentError, DtypeError, LabelError, ShapeError, TinynnError


def zeros(*shape: int, dtype: str = "float32") -> Tensor:
    return tinynn.zeros(shape, dtype)


TABLE: list[tuple[str, Callable[[], Any], type[TinynnError], str]] = [
    (
        "channels first",
        lambda: F.conv2d(zeros(1, 3, 8, 8), zeros(3, 3, 3, 4)),
        ShapeError,
        r"images with 3 channels \(the last axis\).*\(1, 3, 8, 8\)",
    ),
    (
        "one image",
        lambda: F.conv2d(zeros(8, 8, 3), zeros(3, 3, 3, 4)),
        ShapeError,
        r"\(N, H, W, C\), channels last, got shape \(8, 8, 3\)",
    ),
    (
        "kernel too large",
        lambda: F.conv2d(zeros(1, 4, 9, 1), zeros(3, 3, 1, 1), dilation=2),
        ShapeError,
        r"3x3 \(dilation \(2, 2\)\) does not fit into images of 4x9 pixels",
    ),
    (
        "pool too large",
        lambda: F.max_pool2d(zeros(1, 1, 1, 1), 2),
        ShapeError,
        "2x2 .*does not fit into images of 1x1",
    ),
    (
        "groups",
        lambda: F.conv2d(zeros(1, 4, 4, 3), zeros(1, 1, 1, 4), groups=2),
        ShapeError,
        "2 groups do not divide 3 input and 4 output",
    ),
    (
        "padding word",
        lambda: F.conv2d(zeros(1, 4, 4, 1), zeros(1, 1, 1, 1), padding="valid"),
        ArgumentError,
        "\"same\", got 'valid'",
    ),
    (
        "stride 0",
        lambda: F.conv2d(zeros(1, 4, 4, 1), zeros(1, 1, 1, 1), stride=0),
        ArgumentError,
        "stride as 1 or 2 integers >= 1 .* got 0",
    ),
    (
        "stride 1.5",
        lambda: F.conv2d(zeros(1, 4, 4, 1), zeros(1, 1, 1, 1), stride=1.5),  # type: ignore[arg-type]
        ArgumentError,
        "stride as 1 or 2 integers >= 1 .* got 1.5",
    ),
    (
        "conv bias",
        lambda: F.conv2d(zeros(1, 4, 4, 1), zeros(1, 1, 1, 2), zeros(3)),
        ShapeError,
        r"bias \(2,\), got \(3,\)",
    ),
    (
        "conv dtype",
        lambda: F.conv2d(zeros(1, 4, 4, 1, dtype="uint8"), zeros(1, 1, 1, 2)),
        DtypeError,
        r"floating-point tensor, got uint8 .*astype",
    ),
    (
        "pool padding",
        lambda: F.max_pool2d(zeros(1, 4, 4, 1), 2, padding=2),
        ArgumentError,
        r"at most half the kernel \(2, 2\), got \(2, 2\)",
    ),
    (
        "pool of many pixels",
        lambda: F.max_pool2d(zeros(1, 190, 180, 1), (190, 180)),
        ArgumentError,
        r"at most 32767 pixels, got \(190, 180\); global pooling",
    ),
    (
        "transposed output padding",
        lambda: F.conv_transpose2d(zeros(1, 2, 2, 1), zeros(2, 2, 1, 1), output_padding=1),
        ArgumentError,
        "output_padding below",
    ),
    ("matmul", lambda: F.matmul(zeros(2, 3), zeros(2, 3)), ShapeError, r"\(2, 3\) @ \(2, 3\)"),
    (
        "linear",
        lambda: F.linear(zeros(2, 3), zeros(4, 5)),
        ShapeError,
        r"\(\.\.\., 4\) for a weight \(in, out\) = \(4, 5\), got an input of shape \(2, 3\)",
    ),
    (
        "einsum sizes",
        lambda: F.einsum("ij,jk->ik", zeros(2, 3), zeros(4, 5)),
        ShapeError,
        "axis 'j' has 3 elements in one operand and 4 in another",
    ),
    ("einsum diagonal", lambda: F.einsum("ii->i", zeros(2, 2)), ArgumentError, "none twice"),
    ("reshape", lambda: F.reshape(zeros(2, 3), (4, 2)), ShapeError, r"6 elements.*\(4, 2\)"),
    ("axis", lambda: F.sum(zeros(2, 3), 2), ShapeError, "sum: axis 2 of a tensor with 2 axes"),
    ("axis twice", lambda: F.sum(zeros(2, 3), (0, -2)), ShapeError, "occurs twice"),
    ("permute", lambda: F.permute(zeros(2, 3), (0, 0)), ShapeError, r"each of 2 axes once"),
    ("squeeze", lambda: F.squeeze(zeros(2, 3), 0), ShapeError, "length 1"),
    ("concat", lambda: F.concat([zeros(2, 3), zeros(2, 4)]), ShapeError, r"\(2, 3\), \(2, 4\)"),
    ("concat nothing", lambda: F.concat([]), ArgumentError, "at least one tensor"),
    ("stack", lambda: F.stack([zeros(2), zeros(3)]), ShapeError, "equal shapes"),
    ("split", lambda: F.split(zeros(5), 2), ShapeError, "not a multiple of 2"),
    ("split sizes", lambda: F.split(zeros(5), [2, 2]), ShapeError, "do not add up to 5"),
    ("split negative", lambda: F.split(zeros(5), [6, -1]), ShapeError, r"\[6, -1\]"),
    ("pad", lambda: F.pad(zeros(2, 2), [(0, 1)]), ArgumentError, r"2 pairs \(before, after\)"),
    ("broadcast", lambda: F.broadcast_to(zeros(3), (2,)), ShapeError, r"\(3,\) .* \(2,\)"),
    ("mean of nothing", lambda: F.mean(zeros(0, 3)), ShapeError, "no elements"),
    ("max of nothing", lambda: F.max(zeros(0, 3), 0), ShapeError, "no elements"),
    ("where", lambda: F.where(zeros(2), 1.0, zeros(2)), DtypeError, "boolean condition"),
    ("clip", lambda: F.clip(zeros(2), 1, 0), ArgumentError, "low <= high, got 1 > 0"),
    ("gelu", lambda: F.gelu(zeros(2), "fast"), ArgumentError, "\"tanh\", got 'fast'"),
    ("dropout", lambda: F.dropout(zeros(2), 1.0), ArgumentError, r"p must be a number in \[0, 1\)"),
    (
        "label too large",
        lambda: F.cross_entropy(zeros(3, 4), np.array([0, 4, 1])),
        LabelError,
        "0 to 3 for 4 classes, got 4 at position 1",
    ),
    (
        "label negative",
        lambda: F.cross_entropy(zeros(2, 4), np.array([0, -1])),
        LabelError,
        "got -1 at position 1",
    ),
    (
        "labels' shape",
        lambda: F.cross_entropy(zeros(3, 4), np.array([0, 1])),
        ShapeError,
        r"labels of shape \(3,\) for logits of shape \(3, 4\), got \(2,\)",
    ),
    (
        "log-probabilities and another number of labels",
        lambda: F.nll_loss(zeros(3, 4), np.array([0, 1])),
        ShapeError,
        r"nll_loss expects labels of shape \(3,\) for logits of shape \(3, 4\), got \(2,\)",
    ),
    (
        "labels' dtype",
        lambda: F.cross_entropy(zeros(3, 4), np.array([True, False, True])),
        DtypeError,
        "integer labels, got bool",
    ),
    (
        "class weights",
        lambda: F.cross_entropy(zeros(3, 4), np.zeros(3, int), zeros(3)),
        ShapeError,
        r"4 class weights, got \(3,\)",
    ),
    (
        "reduction",
        lambda: F.mse_loss(zeros(3), zeros(3), reduction="max"),
        ArgumentError,
        "mse_loss: reduction must be .* got 'max'",
    ),
    (
        "target's shape",
        lambda: F.mse_loss(zeros(3, 1), zeros(3)),
        ShapeError,
        r"prediction's shape \(3, 1\), got \(3,\)",
    ),
    (
        "huber",
        lambda: F.huber_loss(zeros(3), zeros(3), 0),
        ArgumentError,
        r"delta must be a number in \(0, inf\)",
    ),
    (
        "batch norm channels",
        lambda: F.batch_norm(zeros(4, 3), weight=zeros(2), training=True),
        ShapeError,
        r"2 channels \(the last axis\)",
    ),
    ("group norm", lambda: F.group_norm(zeros(2, 3), 2), ShapeError, "2 groups do not divide"),
    ("resize", lambda: F.resize_bilinear(zeros(1, 2, 2, 1), 0), ArgumentError, "size .* >= 1"),
]


@pytest.mark.parametrize(
    ("call", "kind", "words"), [row[1:] for row in TABLE], ids=[r[0] for r in TABLE]
)
def test_message(call: Callable[[], Any], kind: type[TinynnError], words: str) -> None:
    with pytest.raises(kind, match=words):
        call()


def test_index_out_of_range_names_the_shape() -> None:
    with pytest.raises(IndexError, match=r"shape \(2, 3\)"):
        zeros(2, 3)[:, 3]


def test_operands_that_are_not_tensors() -> None:
    with pytest.raises(TypeError, match="add expects a tensor, got str"):
        zeros(2) + "a"  # type: ignore[operator]
