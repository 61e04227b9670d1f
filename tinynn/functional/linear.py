"""Matrix products: matmul, einsum, and the affine function of a fully connected layer."""

from __future__ import annotations

import math

from tinynn.autograd import Operand, Tensor, record
from tinynn.errors import ArgumentError, ShapeError
from tinynn.functional.operands import as_tensor, check_same, sum_to
from tinynn.precision import in_float32, narrow

__all__ = ["einsum", "linear", "matmul"]


def matmul(a: Operand, b: Operand) -> Tensor:
    """The matrix product a @ b; leading axes broadcast.

    As in NumPy, a vector is a row on the left and a column on the right.

    Shape:
        (..., n, k) @ (..., k, m) -> (..., n, m).
    """
    x, y = narrow(as_tensor("matmul", a), as_tensor("matmul", b))
    check_same("matmul", x, y)
    if not x.ndim or not y.ndim or x.shape[-1] != y.shape[-2 if y.ndim > 1 else 0]:
        raise ShapeError(f"matmul expects (..., n, k) @ (..., k, m), got {x.shape} @ {y.shape}")
    if x.ndim == 1:
        return matmul(x.reshape(1, -1), y).squeeze(-2 if y.ndim > 1 else 0)
    if y.ndim == 1:
        return matmul(x, y.reshape(-1, 1)).squeeze(-1)
    return _product(x, y)


def _product(x: Tensor, y: Tensor) -> Tensor:
    try:
        out = x.backend.matmul(x.data, y.data)
    except ValueError as error:
        raise ShapeError(f"matmul: leading axes do not broadcast: {x.shape}, {y.shape}") from error
    p, q = x.shape, y.shape
    return record(
        "matmul",
        out,
        (x, lambda grad: sum_to(_product(grad, _transposed(y)), p)),
        (y, lambda grad: sum_to(_product(_transposed(x), grad), q)),
    )


def _transposed(x: Tensor) -> Tensor:
    """x with its last two axes exchanged."""
    return record("permute", x.data.swapaxes(-1, -2), (x, _transposed))


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x @ weight + bias.

    Shape:
        x (..., in), weight (in, out), bias (out,) -> (..., out).
    """
    x, weight, bias = narrow(x, weight, bias)
    check_same("linear", x, weight, bias, required=2)
    shape, size = x.shape, weight.shape
    if len(size) != 2 or not shape or shape[-1] != size[0]:
        raise ShapeError(
            f"linear expects an input (..., {size[0] if size else '?'}) for a weight (in, out) = "
            f"{size}, got an input of shape {shape}"
        )
    if bias is not None and bias.shape != size[1:]:
        raise ShapeError(f"linear expects a bias {size[1:]}, got {bias.shape}")
    rows = x if len(shape) == 2 else x.reshape(-1, shape[-1])
    out = x.backend.matmul(rows.data, weight.data)
    if bias is not None:
        out = x.backend.add_bias(out, bias.data)
    result = record(
        "linear",
        out,
        (rows, lambda grad: matmul(grad, _transposed(weight))),
        (weight, lambda grad: matmul(_transposed(rows), grad)),
        (bias, lambda grad: grad.sum(axis=0)),
    )
    return result if len(shape) == 2 else result.reshape(*shape[:-1], size[1])


def einsum(subscripts: str, *tensors: Tensor) -> Tensor:
    """Einstein summation: each letter is an axis; letters missing in the result are summed over.

    A letter occurs at most once per operand (no diagonals); ellipses are not supported.

    Example:
        >>> F.einsum("nik,kj->nij", a, b)  # a batch of matrix products
    """
    if not isinstance(subscripts, str):
        raise ArgumentError(
            f"einsum expects subscripts such as 'ij,jk->ik', got {subscripts!r:.80}"
        )
    operands = [as_tensor("einsum", tensor) for tensor in tensors]
    check_same("einsum", *operands)
    inputs, output = _parse(subscripts, operands)
    _check_sizes(subscripts, inputs, operands)
    for i, own in enumerate(inputs):  # sum over the letters that occur nowhere else
        elsewhere = output + "".join(inputs[:i] + inputs[i + 1 :])
        alone = tuple(axis for axis, letter in enumerate(own) if letter not in elsewhere)
        if alone:
            operands[i] = operands[i].sum(axis=alone)
            inputs[i] = "".join(letter for letter in own if letter in elsewhere)
    letters, x = inputs[0], operands[0]
    for i in range(1, len(operands)):
        kept = output + "".join(inputs[i + 1 :])
        letters, x = _contract(letters, x, inputs[i], operands[i], kept)
    return x.permute(*map(letters.index, output))


def _contract(p: str, x: Tensor, q: str, y: Tensor, kept: str) -> tuple[str, Tensor]:
    """The product of x with axes p and y with axes q, summed over all axes that are not kept."""
    summed = [c for c in p if c in q and c not in kept]
    batch = [c for c in p if c in q and c in kept]
    left, right = [c for c in p if c not in q], [c for c in q if c not in p]
    result, sizes = batch + left + right, dict(zip(p + q, x.shape + y.shape, strict=True))

    def aligned(tensor: Tensor, letters: str) -> Tensor:
        order = [letters.index(c) for c in result + summed if c in letters]
        shape = [sizes[c] if c in letters else 1 for c in result + summed]
        return tensor.permute(*order).reshape(shape)

    a, b = aligned(x, p), aligned(y, q)
    if not (left and right and summed):
        return "".join(result), _dot(a, b, tuple(range(len(result), a.ndim)))
    lead = [math.prod([sizes[c] for c in batch])] if batch else []
    rows, columns, terms = (math.prod([sizes[c] for c in own]) for own in (left, right, summed))
    out = _product(a.reshape(*lead, rows, terms), _transposed(b.reshape(*lead, columns, terms)))
    return "".join(result), out.reshape([sizes[c] for c in result])


@in_float32
def _dot(x: Tensor, y: Tensor, axes: tuple[int, ...]) -> Tensor:
    return (x * y).sum(axis=axes)


def _parse(subscripts: str, operands: list[Tensor]) -> tuple[list[str], str]:
    """The axes of each operand and of the result."""
    left, arrow, output = subscripts.replace(" ", "").partition("->")
    inputs = left.split(",")
    letters = "".join(inputs)
    if not arrow:  # as NumPy: the letters that occur once, in alphabetical order
        output = "".join(sorted(c for c in set(letters) if letters.count(c) == 1))
    fine = (
        len(inputs) == len(operands)
        and all((c.isascii() and c.isalpha()) for c in letters + output)
        and all(len(set(term)) == len(term) for term in [*inputs, output])
        and set(output) <= set(letters)
        and all(len(term) == t.ndim for term, t in zip(inputs, operands, strict=True))
    )
    if not fine:
        raise ArgumentError(
            f"einsum: {subscripts!r} does not fit operands of shapes {[t.shape for t in operands]}"
            ": one letter for each axis, none twice in an operand, none new in the result"
        )
    return inputs, output


def _check_sizes(subscripts: str, inputs: list[str], operands: list[Tensor]) -> None:
    sizes: dict[str, int] = {}
    for term, tensor in zip(inputs, operands, strict=True):
        for letter, size in zip(term, tensor.shape, strict=True):
            if sizes.setdefault(letter, size) != size:
                raise ShapeError(
                    f"einsum {subscripts!r}: axis {letter!r} has {sizes[letter]} elements in one "
                    f"operand and {size} in another; shapes {[t.shape for t in operands]}"
                )
