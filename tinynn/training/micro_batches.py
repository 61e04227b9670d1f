"""Gradient accumulation: a large batch in micro-batches, with the memory footprint of one."""

from collections.abc import Iterator
from typing import Literal

from tinynn.autograd import Tensor
from tinynn.errors import ArgumentError, DeviceMemoryError
from tinynn.nn import Module
from tinynn.nn.summary import summary
from tinynn.training.diagnosis import recompute_batch
from tinynn.training.protocols import Loader, LossFunction
from tinynn.training.snapshot import restored

__all__ = ["largest_micro_batch"]

_MEMORY_SHARE = 0.8  # of the free memory; the rest is for other processes and for fragmentation


def split_batch(
    images: Tensor, labels: Tensor, size: int | None
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """(start, images, labels) of micro-batches of at most ``size`` examples; None: all at once."""
    if size is None or size >= len(labels):
        yield 0, images, labels
        return
    for start in range(0, len(labels), size):
        some = labels[start : start + size]
        some.origin = labels.origin
        yield start, images[start : start + size], some


def choose_micro_batch(
    micro_batch: int | Literal["auto"] | None,
    model: Module,
    loader: Loader,
    loss_function: LossFunction,
) -> int | None:
    """The micro-batch size for ``fit``; "auto" determines it by trial with the first batch."""
    if micro_batch != "auto":
        if micro_batch is not None and micro_batch < 1:
            raise ArgumentError(f'micro_batch must be at least 1, or "auto", got {micro_batch}')
        return micro_batch
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
