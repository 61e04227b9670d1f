"""Matrix products: matmul, einsum, and the affine map of a fully connected layer."""

from __future__ import annotations

from typing import Any

from tinynn.autograd import Tensor, record
from tinynn.errors import ArgumentError, ShapeError
from tinynn.functional.operands import Operand, as_tensor, same_device, same_dtype, sum_to
from tinynn.precision import narrowed


def matmul(a: Operand, b: Operand) -> Tensor:
    """The matrix product (..., n, k) @ (..., k, m) -> (..., n, m); leading axes broadcast.

    A vector stands for a row on the left and for a column on the right, as in NumPy.
    """
    a, b = narrowed(as_tensor("matmul", a)), narrowed(as_tensor("matmul", b))
    same_device("matmul", a, b)
    same_dtype("matmul", a, b)
    if not a.ndim or not b.ndim or a.shape[-1] != b.shape[-2 if b.ndim > 1 else 0]:
        raise ShapeError(f"matmul expects (..., n, k) @ (..., k, m), got {a.shape} @ {b.shape}")
    if a.ndim == 1:
        return matmul(a.reshape(1, -1), b).squeeze(-2 if b.ndim > 1 else 0)
    if b.ndim == 1:
        return matmul(a, b.reshape(-1, 1)).squeeze(-1)
    try:
        out = a.backend.matmul(a.data, b.data)
    except ValueError as error:
        raise ShapeError(
            f"matmul: leading axes of {a.shape} and {b.shape} do not broadcast"
        ) from error
    return record(
        "matmul",
        out,
        (a, lambda grad: sum_to(matmul(grad, _transposed(b)), a.shape)),
        (b, lambda grad: sum_to(matmul(_transposed(a), grad), b.shape)),
    )


def _transposed(x: Tensor) -> Tensor:
    """The last two axes exchanged."""
    return x.permute(*range(x.ndim - 2), x.ndim - 1, x.ndim - 2)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x @ weight + bias: (..., in) with (in, out) and (out,) -> (..., out)."""
    x, weight, bias = narrowed(x), narrowed(weight), narrowed(bias)
    same_device("linear", x, weight, bias)
    same_dtype("linear", x, weight, bias)
    if weight.ndim != 2 or not x.ndim or x.shape[-1] != weight.shape[0]:
        raise ShapeError(
            f"linear expects an input (..., {weight.shape[0] if weight.ndim else '?'}) for a "
            f"weight (in, out) = {weight.shape}, got an input of shape {x.shape}"
        )
    if bias is not None and bias.shape != weight.shape[1:]:
        raise ShapeError(f"linear expects a bias {weight.shape[1:]}, got {bias.shape}")
    rows = x if x.ndim == 2 else x.reshape(-1, x.shape[-1])
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
    return result if x.ndim == 2 else result.reshape(*x.shape[:-1], weight.shape[1])


def einsum(subscripts: str, *tensors: Tensor) -> Tensor:
    """Einstein's summation: ``einsum("nik,kj->nij", a, b)``.

    Each letter names an axis; letters that are missing from the result are summed over. A letter
    occurs once in an operand (no diagonals), and there is no ellipsis.
    """
    operands = [as_tensor("einsum", tensor) for tensor in tensors]
    same_device("einsum", *operands)
    same_dtype("einsum", *operands)
    inputs, output = _parse(subscripts, operands)
    sizes = _axis_sizes(subscripts, inputs, operands)
    xp = operands[0].backend.xp
    out = xp.einsum(subscripts, *(tensor.data for tensor in operands))
    dtype = operands[0].dtype

    def product_for(position: int) -> Any:
        def vjp(grad: Tensor) -> Tensor:
            letters = inputs[position]
            others = [i for i in range(len(operands)) if i != position]
            known = set(output).union(*(inputs[i] for i in others))
            kept = "".join(letter for letter in letters if letter in known)
            terms = ",".join([output, *(inputs[i] for i in others)])
            part = einsum(f"{terms}->{kept}", grad, *(operands[i] for i in others))
            shape = tuple(sizes[letter] if letter in known else 1 for letter in letters)
            full = tuple(sizes[letter] for letter in letters)
            return part.reshape(shape) + Tensor(xp.zeros(full, dtype=dtype))

        return vjp

    return record("einsum", out, *((t, product_for(i)) for i, t in enumerate(operands)))


def _parse(subscripts: str, operands: list[Tensor]) -> tuple[list[str], str]:
    """The letters of each operand and of the result."""
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


def _axis_sizes(subscripts: str, inputs: list[str], operands: list[Tensor]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for term, tensor in zip(inputs, operands, strict=True):
        for letter, size in zip(term, tensor.shape, strict=True):
            if sizes.setdefault(letter, size) != size:
                raise ShapeError(
                    f"einsum {subscripts!r}: axis {letter!r} has {sizes[letter]} elements in one "
                    f"operand and {size} in another; shapes {[t.shape for t in operands]}"
                )
    return sizes
