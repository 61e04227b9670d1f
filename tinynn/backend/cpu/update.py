"""Optimizer updates in chunks that stay in the cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tinynn.backend.cpu import tuning
from tinynn.backend.cpu.threads import parallel
from tinynn.backend.reference import Arrays, Backend


def sgd_update(
    backend: Backend, parameters: Arrays, grads: Arrays, velocities: Any, *rest: Any, **named: Any
) -> None:
    """In chunks."""
    _update(backend, Backend.sgd_update, (parameters, grads, velocities), rest, named)


def adam_update(
    backend: Backend,
    parameters: Arrays,
    grads: Arrays,
    firsts: Arrays,
    seconds: Arrays,
    *rest: Any,
    **named: Any,
) -> None:
    """In chunks."""
    _update(backend, Backend.adam_update, (parameters, grads, firsts, seconds), rest, named)


def rmsprop_update(
    backend: Backend,
    parameters: Arrays,
    grads: Arrays,
    squares: Arrays,
    velocities: Any,
    *rest: Any,
    **named: Any,
) -> None:
    """In chunks."""
    _update(backend, Backend.rmsprop_update, (parameters, grads, squares, velocities), rest, named)


def _update(
    backend: Backend,
    kernel: Callable[..., None],
    lists: tuple[Any, ...],
    rest: tuple[Any, ...],
    named: dict[str, Any],
) -> None:
    """Run the reference's update on chunks of large arrays, so that its passes hit the cache."""
    large = sum(array.size for array in lists[0]) >= tuning.UPDATE_PARALLEL_FROM
    step = tuning.UPDATE_CHUNK_PARALLEL if large else tuning.UPDATE_CHUNK
    pieces = []
    for arrays in zip(*([None] * len(lists[0]) if a is None else a for a in lists), strict=True):
        size = arrays[0].size
        if size < 2 * step or not all(a is None or a.flags.c_contiguous for a in arrays):
            pieces.append(arrays)
            continue
        flat = [None if a is None else a.reshape(-1) for a in arrays]
        for start in range(0, size, step):
            part = slice(start, start + step)
            pieces.append(tuple(None if a is None else a[part] for a in flat))

    def work(piece: tuple[Any, ...]) -> None:
        kernel(backend, *(None if a is None else [a] for a in piece), *rest, **named)

    if large:
        parallel(work, pieces)
    else:
        for piece in pieces:
            work(piece)
