"""Functions that rearrange elements: reshape, permute, concat, split, index."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from tinynn.arguments import exact_number, is_sequence, native, sizes
from tinynn.autograd import Axis, Operand, Tensor, is_grad_enabled, record
from tinynn.backend import backend_of
from tinynn.errors import ArgumentError, InvalidIndexError, ShapeError
from tinynn.functional.operands import as_tensor, check_same, normal_axes, normal_axis, sum_to

__all__ = ["flatten", "flip", "permute", "reshape", "squeeze", "unsqueeze"]
__all__ += ["broadcast_to", "concat", "index", "pad", "split", "stack"]


def reshape(x: Operand, shape: Sequence[int] | int) -> Tensor:
    """The same elements, in row-major order, in another shape; one size may be -1 (inferred)."""
    x = as_tensor("reshape", x)
    lengths = sizes("the shape of reshape", shape, -1)
    if lengths == x.shape:
        return x
    try:
        out = x.backend.xp.reshape(x.data, lengths)
    except ValueError as error:
        raise ShapeError(
            f"reshape: {x.shape} has {x.size} elements, which do not fit into {lengths}"
        ) from error
    before = x.shape
    return record("reshape", out, (x, lambda grad: reshape(grad, before)))


def flatten(x: Operand, start_axis: int = 0) -> Tensor:
    """Merge the axes from ``start_axis`` on into one."""
    x = as_tensor("flatten", x)
    start = normal_axis("flatten", start_axis, x.ndim) if x.ndim else 0
    return reshape(x, (*x.shape[:start], math.prod(x.shape[start:])))


def permute(x: Operand, axes: Sequence[int] | None = None) -> Tensor:
    """Reorder the axes (default: reverse them)."""
    x = as_tensor("permute", x)
    every = reversed(range(x.ndim)) if axes is None else axes
    order: tuple[Any, ...] = tuple(every) if is_sequence(every) else (every,)
    normal = tuple(normal_axis("permute", a, x.ndim) for a in order)
    if sorted(normal) != list(range(x.ndim)):
        raise ShapeError(f"permute expects each of {x.ndim} axes once, got {order}")
    inverse = tuple(normal.index(i) for i in range(x.ndim))
    return record("permute", x.data.transpose(normal), (x, lambda grad: permute(grad, inverse)))


def squeeze(x: Operand, axis: Axis = None) -> Tensor:
    """Remove axes of length 1 (default: all of them)."""
    x = as_tensor("squeeze", x)
    ones = tuple(i for i, n in enumerate(x.shape) if n == 1)
    axes = ones if axis is None else normal_axes("squeeze", axis, x.ndim)
    if not set(axes) <= set(ones):
        raise ShapeError(f"squeeze expects axes of length 1, got axis {axis} of {x.shape}")
    return reshape(x, tuple(n for i, n in enumerate(x.shape) if i not in axes))


def unsqueeze(x: Operand, axis: int) -> Tensor:
    """Insert an axis of length 1 at position ``axis``."""
    x = as_tensor("unsqueeze", x)
    position = normal_axis("unsqueeze", axis, x.ndim + 1)
    return reshape(x, (*x.shape[:position], 1, *x.shape[position:]))


def broadcast_to(x: Operand, shape: tuple[int, ...]) -> Tensor:
    """Repeat x along new axes and axes of length 1, without copying."""
    x, shape = as_tensor("broadcast_to", x), sizes("the shape of broadcast_to", shape)
    if x.shape == shape:
        return x
    try:
        out = x.backend.xp.broadcast_to(x.data, shape)
    except ValueError as error:
        raise ShapeError(f"broadcast_to: {x.shape} does not broadcast to {shape}") from error
    before = x.shape
    return record("broadcast_to", out, (x, lambda grad: sum_to(grad, before)))


def concat(tensors: Sequence[Tensor], axis: int = 0) -> Tensor:
    """Join tensors along an axis; their other axes must have equal lengths."""
    parts = _several("concat", tensors)
    axis = normal_axis("concat", axis, parts[0].ndim)
    try:
        out = parts[0].backend.xp.concatenate([part.data for part in parts], axis=axis)
    except ValueError as error:
        shapes = [part.shape for part in parts]
        raise ShapeError(f"concat along axis {axis}: shapes {shapes} differ elsewhere") from error
    keys = _consecutive([part.shape[axis] for part in parts], axis)
    vjps = [lambda grad, key=key: grad[key] for key in keys]
    return record("concat", out, *zip(parts, vjps, strict=True))


def stack(tensors: Sequence[Tensor], axis: int = 0) -> Tensor:
    """Join tensors of equal shape along a new axis."""
    parts = _several("stack", tensors)
    if len({part.shape for part in parts}) != 1:
        raise ShapeError(f"stack expects equal shapes, got {[part.shape for part in parts]}")
    return concat([unsqueeze(part, axis) for part in parts], axis)


def split(x: Operand, sections: int | Sequence[int], axis: int = 0) -> tuple[Tensor, ...]:
    """Split along an axis, into a number of equal parts or into parts of given lengths."""
    x = as_tensor("split", x)
    axis = normal_axis("split", axis, x.ndim)
    length = x.shape[axis]
    lengths = sizes("the sections of split", sections, None)
    if not is_sequence(sections):
        (count,) = lengths
        if count < 1 or length % count:
            raise ShapeError(f"split: axis {axis} of {x.shape} is not a multiple of {count}")
        lengths = (length // count,) * count
    if sum(lengths) != length or min(lengths, default=0) < 0:
        raise ShapeError(f"split: sizes {list(lengths)} do not add up to {length}")
    return tuple(index(x, key) for key in _consecutive(lengths, axis))


def _consecutive(lengths: Sequence[int], axis: int) -> list[tuple[slice, ...]]:
    """The keys of consecutive parts of some lengths along an axis."""
    stops = np.cumsum(lengths).tolist()
    parts = [slice(stop - length, stop) for length, stop in zip(lengths, stops, strict=True)]
    return [(*[slice(None)] * axis, part) for part in parts]


def pad(x: Operand, widths: Sequence[tuple[int, int]], value: float = 0.0) -> Tensor:
    """Add a constant border; ``widths`` has a pair (before, after) for each axis."""
    x = as_tensor("pad", x)
    try:
        pairs = [sizes("a width", pair) for pair in widths]
    except (ArgumentError, TypeError):  # TypeError: one number for all
        pairs = []
    if len(pairs) != x.ndim or any(len(pair) != 2 for pair in pairs):
        raise ArgumentError(
            f"pad expects {x.ndim} pairs (before, after) of sizes >= 0 for shape {x.shape}, "
            f"got {widths!r:.80}"
        )
    value = exact_number("pad: value", value)
    inner = tuple(slice(a, a + n) for (a, _), n in zip(pairs, x.shape, strict=True))
    out = x.backend.xp.pad(x.data, pairs, constant_values=value)
    return record("pad", out, (x, lambda grad: grad[inner]))


def flip(x: Operand, axis: Axis = None) -> Tensor:
    """Reverse the order of the elements along the axes (default: all)."""
    x = as_tensor("flip", x)
    axes = normal_axes("flip", axis, x.ndim)
    return record("flip", x.backend.xp.flip(x.data, axes), (x, lambda grad: flip(grad, axes)))


def index(x: Operand, key: Any) -> Tensor:
    """x[key], with NumPy's indexing: integers, slices, None, Ellipsis, masks, arrays, tensors.

    The gradients of an element that is selected several times add up.

    Raises:
        InvalidIndexError: If an index is out of range or of another type.
    """
    x = as_tensor("index", x)
    shape = x.shape
    try:
        key = array_key(x, key)
        out = x.backend.gather(x.data, key)
        x.backend.check_index(x.data, key)
    except (IndexError, TypeError, ValueError, OverflowError) as error:
        raise InvalidIndexError(f"index of a tensor of shape {shape}: {error}") from None
    return record("index", out, (x, lambda grad: _scatter_add(grad, shape, key)))


def _scatter_add(values: Tensor, shape: tuple[int, ...], key: Any) -> Tensor:
    """The VJP of ``index``: zeros of ``shape`` with the values added at ``key``."""
    out = values.backend.scatter_add(shape, key, values.data)
    return record("scatter_add", out, (values, lambda grad: index(grad, key)))


def array_key(x: Tensor, key: Any) -> Any:
    """The key with tensors and sequences as arrays on the tensor's device, one for each axis.

    Arrays are copied for a backward pass: the caller may write to them before.
    """
    if isinstance(key, tuple):  # one part for each axis; within it, any sequence is an array
        return tuple([array_key(x, list(k) if isinstance(k, tuple) else k) for k in key])
    if isinstance(key, Tensor):
        check_same("index", x, key, floating=False)
        key = key.data
    elif isinstance(key, (list, range, np.ndarray)):
        key = np.asarray(key, dtype=None if len(np.shape(key)) != 1 or len(key) else np.int64)
        key = x.backend.from_host(native(key))
    elif key is None or key is Ellipsis or isinstance(key, (slice, int, np.generic)):
        return key
    elif backend_of(key) is None:
        return operator.index(key)
    return key.copy() if x.requires_grad and is_grad_enabled() else key


def _several(name: str, tensors: Sequence[Tensor]) -> list[Tensor]:
    parts = [as_tensor(name, part) for part in tensors] if is_sequence(tensors) else []
    if not parts:
        raise ArgumentError(f"{name} expects at least one tensor")
    check_same(name, *parts, floating=any(part.dtype != parts[0].dtype for part in parts))
    return parts
