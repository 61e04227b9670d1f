"""Changes of tensors in place, and the check that no backward pass needs what they replaced.

Nodes and changes are numbered by one count. A tensor keeps the number of its last change in a list
of one element, which its views share. A VJP needs the tensors that it captured; if one of them was
changed after the node was recorded, its gradient would be wrong. The operators that change a tensor
in place are here, too.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import FunctionType
from typing import Any

from tinynn.errors import GradientError, ShapeError

clock = itertools.count(1)
latest = 0  # the number of the last change of any tensor


def note_change(*tensors: Any) -> None:
    """Note that the arrays of tensors were changed in place, or replaced."""
    global latest
    latest = next(clock)
    for tensor in tensors:
        if tensor._changes is None:
            tensor._changes = [0]
        tensor._changes[0] = latest


def note_update(*buffers: Any) -> None:
    """Note a change of buffers, unless no recorded function has used them.

    Training updates the running statistics in every forward pass. If that counted as a change, the
    backward pass would have to check all nodes before the last update.
    """
    used = [buffer for buffer in buffers if buffer._changes is not None]
    if used:
        note_change(*used)


def follow_constants(inputs: Sequence[tuple[Any, Any]]) -> None:
    """Let ``note_update`` see which tensors without a gradient a recorded function has used."""
    for source, _ in inputs:
        if getattr(source, "_changes", 0) is None and not source.requires_grad:
            source._changes = [0]


def share_changes(view: Any, source: Any) -> None:
    """Let a view, which has the memory of its source, take part in the changes of both."""
    if source._changes is None:
        source._changes = [0]
    view._changes = source._changes


def check_unchanged(name: str, order: int, vjps: list[Callable[..., Any]], kind: type) -> None:
    """Raise GradientError if a tensor that the VJPs of a node captured was changed since.

    Args:
        name: The function that the node recorded.
        order: The number of the node.
        vjps: Its VJPs.
        kind: The class of tensors.
    """
    for tensor in _captured(list(vjps), kind):
        if tensor._changes is not None and tensor._changes[0] > order:
            raise GradientError(
                "one of the variables needed for gradient computation has been modified by an "
                f"inplace operation: the gradient of {name} needs a tensor of shape {tensor.shape} "
                "as it was in the forward pass, but an optimizer step, load_state_dict or an "
                "assignment has changed it since. Call backward before the change, or repeat the "
                "forward pass after it"
            )


def _captured(values: list[Any], kind: type) -> Iterator[Any]:
    """The tensors that functions captured, directly or within functions, tuples and objects."""
    seen: set[int] = set()
    while values:
        value = values.pop()
        if isinstance(value, kind):
            yield value
        elif isinstance(value, (list, tuple)):
            values += value
        elif isinstance(value, partial):
            values += [value.func, value.args, tuple(value.keywords.values())]
        elif isinstance(value, FunctionType) and id(value) not in seen:
            seen.add(id(value))
            cells = [cell.cell_contents for cell in value.__closure__ or ()]
            values += [*cells, value.__defaults__ or ()]
            names, own = value.__code__.co_names, [getattr(cell, "__dict__", {}) for cell in cells]
            values += [held[name] for name in names for held in own if name in held]  # self.weight
            found = (value.__globals__.get(name) for name in names)
            values += [tensor for tensor in found if isinstance(tensor, kind)]


def in_place(
    name: str, function: Callable[[Any, Any], Any], assign: Callable[[Any, Any, Any], None]
) -> Callable[[Any, Any], Any]:
    """The operator ``a += b``: in place for what is trained or kept, otherwise a = a + b.

    Args:
        name: The name of the operator.
        function: a + b.
        assign: ``assign(a, key, value)``, a[key] = value.
    """

    def apply(a: Any, b: Any) -> Any:
        result = function(a, b)
        if not a.is_leaf or not (a.requires_grad or a.is_state):
            return result
        if not result.requires_grad:
            if (result.shape, result.dtype) != (a.shape, a.dtype):
                raise ShapeError(
                    f"{name} in place would turn {a.dtype} {a.shape} into {result.dtype} "
                    f"{result.shape}; to get a new tensor, write the operation out"
                )
            assign(a, ..., result)
            return a
        if a.requires_grad:
            raise recorded_change(a)
        return result

    return apply


def recorded_change(x: Any) -> GradientError:
    """The error for a change in place of what belongs to a graph."""
    what = "a leaf that requires grad" if x.is_leaf else "the result of a function"
    return GradientError(
        f"a change in place is not recorded, and {what} (shape {x.shape}) is part of the graph: "
        "change parameters within `with tinynn.no_grad():`; elsewhere compute a new tensor, "
        "y = x - 1, or F.where(mask, x, value) for some of the elements"
    )
