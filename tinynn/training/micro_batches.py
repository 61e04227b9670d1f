"""Gradient accumulation: a large batch in micro-batches, with the memory footprint of one."""

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

from tinynn import functional as F
from tinynn.arguments import integer
from tinynn.autograd import Tensor, no_grad
from tinynn.errors import ArgumentError, DeviceMemoryError, ShapeError
from tinynn.functional.loss import is_mean
from tinynn.nn import Module
from tinynn.nn.summary import summary
from tinynn.random import default_generator
from tinynn.training.diagnosis import recompute_batch
from tinynn.training.protocols import Loader, LossFunction, check_outputs
from tinynn.training.snapshot import remember, restored

__all__ = ["largest_micro_batch"]

_MEMORY_SHARE = 0.8  # of the free memory; the rest is for other processes and for fragmentation


class Part(NamedTuple):
    """A part of a batch whose loss is computed at once."""

    examples: slice
    random: tuple[int, int]  # the state of the random sequence before its forward pass
    loss: Tensor
    outputs: Any
    labels: Tensor


def accumulate(
    model: Module, loss_function: LossFunction, images: Tensor, labels: Tensor, size: int | None
) -> Iterator[Part]:
    """Add the gradient of the loss of a batch, in micro-batches of at most ``size`` examples.

    Yields each part before its backward pass. The gradients of a loss of the library that is a mean
    over the examples add up. For any other loss, a weighted mean or a sum for example, the outputs
    of the whole batch are computed first, without a graph, then the loss and its gradient with
    respect to them, then micro-batch by micro-batch the gradients of the parameters: one more
    forward pass.

    Raises:
        ArgumentError: The loss of the first micro-batch is such a mean, but not that of another.
    """
    size = len(labels) if size is None else size
    is_split = size < len(labels)
    undo = remember(model) if is_split else None
    for examples, some_images, some_labels in _split(images, labels, size):
        random = default_generator.state
        outputs = model(some_images)
        loss = loss_function(outputs, some_labels)
        if is_split and not is_mean(loss, some_labels):
            if undo is None:
                raise ArgumentError(
                    "micro_batch expects a loss function that averages over all labels of each "
                    f"micro-batch or of none, but in examples {examples.start} to "
                    f"{examples.start + len(some_labels) - 1} of a batch it left out some: give "
                    "the labels to leave out as ignore_index"
                )
            undo()
            yield from _from_all_outputs(model, loss_function, images, labels, size)
            return
        undo = None
        yield Part(examples, random, loss, outputs, some_labels)
        if is_split:
            loss = loss * (len(some_labels) / len(labels))
        loss.backward()


def _from_all_outputs(
    model: Module, loss_function: LossFunction, images: Tensor, labels: Tensor, size: int
) -> Iterator[Part]:
    """Like ``accumulate``, for a loss that only the whole batch determines."""
    undo, random = remember(model), default_generator.state
    with no_grad():
        parts = [model(some_images) for _, some_images, _ in _split(images, labels, size)]
    undo()
    check_outputs("micro_batch with a loss that is not a mean over the examples", parts[0])
    outputs = Tensor(F.concat(parts).data, requires_grad=True)
    del parts
    loss = loss_function(outputs, labels)
    yield Part(slice(None), random, loss, outputs, labels)
    loss.backward()
    for examples, some_images, _ in _split(images, labels, size):
        if outputs.grad is not None:
            model(some_images).backward(outputs.grad[examples])


def _split(images: Tensor, labels: Tensor, size: int) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """The examples, images and labels of each micro-batch."""
    if size >= len(labels):
        yield slice(None), images, labels
        return
    if len(images) != len(labels):
        raise ShapeError(f"a batch has {len(images)} images but {len(labels)} labels")
    for start in range(0, len(labels), size):
        examples = slice(start, start + size)
        some = labels[examples]
        some.origin = labels.origin
        yield examples, images[examples], some


def choose_micro_batch(
    micro_batch: int | Literal["auto"] | None,
    model: Module,
    loader: Loader,
    loss_function: LossFunction,
) -> int | None:
    """The micro-batch size for ``fit``; "auto" determines it by trial with the first batch."""
    if micro_batch is None:
        return None
    if not isinstance(micro_batch, str) or micro_batch != "auto":
        return integer('micro_batch, at least 1 or "auto",', micro_batch, least=1)
    example = recompute_batch(loader, getattr(loader, "epoch", 0), 0)
    if example is None:
        raise ArgumentError('micro_batch="auto" needs a DataLoader or a list of batches')
    return largest_micro_batch(model, loss_function, *example)


def largest_micro_batch(
    model: Module, loss_function: LossFunction, images: Tensor, labels: Tensor
) -> int:
    """Find by trial how many of these examples fit into memory in one training step.

    Tries the whole batch first, then halves it. Sizes that ``summary`` estimates to exceed the
    free memory are skipped. Parameters, running statistics and random sequence stay unchanged.

    Raises:
        DeviceMemoryError: Not even one example fits.
    """
    size = len(labels)
    while True:
        try:
            if size == 1 or _may_fit(model, images[:size]):
                _try_step(model, loss_function, images[:size], labels[:size])
                return size
        except MemoryError as error:
            if size == 1:
                text = f"not even one example fits: {error}; use smaller images or a smaller model"
                raise DeviceMemoryError(text) from error
        size = -(-size // 2)


def _may_fit(model: Module, images: Tensor) -> bool:
    """Estimate it: on a CPU, Linux kills the process instead of refusing the memory."""
    images.backend.free_memory()
    one = summary(model, images.shape[1:])
    more = (len(images) - 1) * 2 * one.activation_bytes
    return one.training_bytes + more <= _MEMORY_SHARE * images.backend.available_memory()


def _try_step(model: Module, loss_function: LossFunction, images: Tensor, labels: Tensor) -> None:
    """Run one training step without the update, and undo it."""
    with restored(model):
        # as much memory as an optimizer's state
        held = [p.backend.xp.empty((2, *p.shape), p.dtype) for p in model.parameters()]
        loss_function(model(images), labels).backward()
        del held


def with_advice(
    error: MemoryError, model: Module, loss_function: LossFunction, images: Tensor, labels: Tensor
) -> MemoryError:
    """The error, with the micro-batch size that fits."""
    try:
        fits = largest_micro_batch(model, loss_function, images, labels)
    except MemoryError:
        return error
    return type(error)(
        f"{error}; micro-batches of {fits} examples fit: micro_batch={fits} gives the same gradient"
    )
