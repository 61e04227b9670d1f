"""Dropout."""

from __future__ import annotations

from tinynn.arguments import flag, number
from tinynn.autograd import Tensor, record
from tinynn.errors import ArgumentError
from tinynn.functional.operands import require_floating
from tinynn.random import Generator, default_generator

__all__ = ["dropout"]


def dropout(
    x: Tensor, p: float = 0.5, training: bool = True, generator: Generator | None = None
) -> Tensor:
    """Zero each element with probability p and scale the others by 1 / (1 - p).

    The mask is the same on every device. Srivastava, Hinton, Krizhevsky, Sutskever and
    Salakhutdinov (2014).

    Args:
        x: The input.
        p: Probability of a zero, 0 <= p < 1.
        training: If False, x is returned unchanged.
        generator: Source of the mask (default: the sequence of ``tinynn.manual_seed``).
    """
    require_floating("dropout", x)
    p = number("dropout: the probability p", p, 0, 1, "[)")
    if not flag("dropout: training", training) or p == 0:
        return x
    if generator is not None and not isinstance(generator, Generator):
        raise ArgumentError(f"dropout expects a tinynn.Generator, got {generator!r:.80}")
    seed, position = (generator or default_generator).take(x.size)
    out, mask = x.backend.dropout(x.data, seed, position, p)
    return record("dropout", out, (x, lambda grad: _masked(grad, mask, 1 / (1 - p))))


def _masked(x: Tensor, mask: object, scale: float) -> Tensor:
    """x · mask · scale, whose VJP is itself; the mask takes one byte per element."""
    out = x.backend.masked(x.data, mask, scale)
    return record("masked", out, (x, lambda grad: _masked(grad, mask, scale)))
