"""Where a training went wrong: the step of the first NaN is computed again, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

from tinynn.autograd import Tensor, no_grad
from tinynn.nn import Module
from tinynn.random import default_generator

ADVICE = (
    "Use a smaller learning rate, clip the gradients (optim.clip_grad_norm), and look at what goes "
    "in; parameters are still those from before this step"
)


class Place(NamedTuple):
    """One call of the model: which examples of which batch, and the random sequence before it."""

    batch: int
    start: int
    stop: int
    random: tuple[int, int]


def batch_again(loader: Any, epoch: int, batch: int) -> tuple[Tensor, Tensor] | None:
    """A batch of a loader that can make one again; None where that is not possible."""
    if hasattr(loader, "batches"):
        batches: Iterator[tuple[Tensor, Tensor]] = loader.batches(epoch, batch)
        return next(batches, None)
    if isinstance(loader, Sequence):
        return next(islice(loader, batch, None), None)
    return None


def first_fault(model: Module, images: Tensor, place: Place) -> str:
    """In words, what first was not finite: an input, a parameter, a layer's output, the loss."""
    images = images[place.start : place.stop]
    if not is_finite(images):
        return "what goes in is not finite"
    # gradients run backwards: the last layer that they spoiled is where they went wrong
    spoiled = [path for path, p in model.named_parameters() if not is_finite(p)]
    if spoiled:
        return (
            f"the parameter {spoiled[-1]} is not finite: its gradient was not, in the step before"
        )
    found = _first_output(model, images, place)
    return found or "every layer's output is finite: the loss function made it"


def is_finite(tensor: Tensor) -> bool:
    """Whether all elements are; waits for a GPU."""
    if tensor.dtype.kind != "f":
        return True
    return bool(tensor.backend.xp.isfinite(tensor.data).all())


def _first_output(model: Module, images: Tensor, place: Place) -> str | None:
    """The first layer whose output is not finite, when the step is computed once more."""
    found: list[str] = []
    paths = {id(module): path for path, module in model.named_modules()}

    def look(module: Module, inputs: tuple[Any, ...], output: Any) -> None:
        if found or not isinstance(output, Tensor) or is_finite(output):
            return
        largest = max((_largest(value) for value in inputs if isinstance(value, Tensor)), default=0)
        name = f"{type(model).__name__}.{paths[id(module)]}".rstrip(".")
        found.append(
            f"{name} ({type(module).__name__}) is the first whose output is not finite, from "
            f"inputs up to {largest:.3g}"
        )

    before = default_generator.state
    removers = [module.register_forward_hook(look) for module in model.modules()]
    try:
        default_generator.state = place.random
        with no_grad():
            model(images)
    finally:
        default_generator.state = before
        for remove in removers:
            remove()
    return found[0] if found else None


def _largest(tensor: Tensor) -> float:
    return float(abs(tensor.data).max()) if tensor.size else 0.0
