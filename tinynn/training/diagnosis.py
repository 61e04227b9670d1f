"""Find the origin of a NaN: recompute its training step, layer by layer."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from typing import Any, NamedTuple

from tinynn.autograd import Tensor, no_grad
from tinynn.nn import Module
from tinynn.nn.module import observe
from tinynn.random import default_generator
from tinynn.training.snapshot import remember

ADVICE = (
    "Use a smaller learning rate, clip the gradients (optim.clip_grad_norm), and check the inputs; "
    "the parameters are still those from before this step"
)


class ForwardPass(NamedTuple):
    """One call of the model in training.

    Attributes:
        batch: The index of the batch in the epoch.
        examples: The slice of the batch.
        random: The state of the random sequence before it.
    """

    batch: int
    examples: slice
    random: tuple[int, int]


def recompute_batch(loader: Any, epoch: int, batch: int) -> tuple[Tensor, Tensor] | None:
    """A batch of an epoch again; None if the loader cannot repeat it."""
    if hasattr(loader, "batches"):
        batches: Iterator[tuple[Tensor, Tensor]] = loader.batches(epoch, batch)
        return next(batches, None)
    if isinstance(loader, Sequence):
        return next(islice(loader, batch, None), None)
    return None


def find_fault(model: Module, images: Any, labels: Tensor, failed: ForwardPass) -> str:
    """Describe what was not finite first: input, labels, parameter, output of a layer or loss."""
    if not isinstance(images, Tensor):
        return f"the layer is unknown, because the input is a {type(images).__name__}"
    images, labels = images[failed.examples], labels[failed.examples]
    if not is_finite(images):
        return "the input is not finite"
    if not is_finite(labels):
        return "the labels are not finite"
    # the backward pass reaches the layers from the last to the first
    spoiled = [path for path, p in model.named_parameters() if not is_finite(p)]
    if spoiled:
        return f"the parameter {spoiled[-1]} is not finite: its gradient in the step before was not"
    found = _first_output(model, images, failed)
    return found or "every layer's output is finite, so the loss function is to blame"


def is_finite(tensor: Tensor) -> bool:
    """Whether all elements are finite; synchronizes."""
    if tensor.dtype.kind != "f":
        return True
    return bool(tensor.backend.xp.isfinite(tensor.data).all())


def _first_output(model: Module, images: Tensor, failed: ForwardPass) -> str | None:
    """The first layer whose output is not finite when the forward pass is computed again."""
    found: list[str] = []
    paths = {id(module): path for path, module in model.named_modules()}

    def inspect(module: Module, inputs: tuple[Any, ...], output: Any) -> None:
        if found or not isinstance(output, Tensor) or is_finite(output):
            return
        sizes = [abs(x.data).max() for x in inputs if isinstance(x, Tensor) and x.size]
        name = f"{type(model).__name__}.{paths[id(module)]}".rstrip(".")
        found.append(
            f"{name} ({type(module).__name__}) is the first layer whose output is not finite, from "
            f"inputs up to {float(max(sizes, default=0)):.3g}"
        )

    with no_grad(), ExitStack() as undo:
        undo.callback(remember(model))
        undo.enter_context(observe((module, inspect) for module in model.modules()))
        default_generator.state = failed.random
        model(images)
    return found[0] if found else None
