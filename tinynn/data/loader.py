"""Batches of a data set, made in the background while the network computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt

from tinynn.autograd import Tensor
from tinynn.backend import get_backend
from tinynn.data.dataset import Dataset, Labels
from tinynn.errors import ArgumentError, DataError, DtypeError, FileFormatError, ShapeError
from tinynn.random import numpy_generator

Floats = npt.NDArray[np.float32]
Augment = Callable[[Floats, np.random.Generator], Floats]
Made = TypeVar("Made")


class DataLoader:
    """Iterating it yields the batches of one epoch: images float32 in 0..1, labels int64.

    uint8 images are divided by 255. Order and augmentation are functions of numbers, not of what
    was drawn before: epoch e visits ``loader.order(e)``, and batch b of it is changed by
    ``augment(images, numpy_generator(seed, e, b))``; so a run that stopped can go on with
    ``loader.batches(e, first=b)`` exactly.

    ``epoch`` is the number of the epoch that is being iterated, or of the next one, ``position``
    the number of its batches that were handed out; both are in ``state_dict``, and a loader that
    loads it hands out the rest of that epoch first. Leaving the loop half-way ends the epoch.
    ``drop_last`` leaves out a last batch that is smaller than ``batch_size``. One thread makes
    ``prefetch`` batches ahead (0: none, and no thread); it ends with the loop, and what goes wrong
    on it is raised in the loop, with a note on the batch. With ``device`` the tensors are there: a
    GPU gets the next batches from pinned memory while it computes with the present one, and nobody
    waits. ``labels.origin`` says which batch it is.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        *,
        shuffle: bool = False,
        seed: int = 0,
        drop_last: bool = False,
        augment: Augment | None = None,
        prefetch: int = 2,
        device: str | None = None,
    ) -> None:
        self.dataset = dataset
        self.batch_size = _whole("batch_size", batch_size, least=1)
        self.shuffle = shuffle
        self.seed = seed
        self.drop_last = drop_last
        self.augment = augment
        self.prefetch = _whole("prefetch", prefetch, least=0)
        self.device = device
        self.epoch = self.position = 0
        self._check_batches()

    def __len__(self) -> int:
        """The number of batches in an epoch."""
        whole, rest = divmod(len(self.dataset), self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        epoch = self.epoch
        try:
            for pair in self.batches(epoch, self.position):
                self.position += 1  # before it is used: what is saved after its step goes on behind
                yield pair
        finally:
            self.epoch, self.position = epoch + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """Where the next batch is, and what decides which examples it holds."""
        return {"epoch": self.epoch, "position": self.position, **self._settings()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state_dict`` was made; FileFormatError if the batches are not the same."""
        own = self._settings()
        if set(state) != {"epoch", "position", *own}:
            raise FileFormatError(
                f"a DataLoader's state has epoch, position, {', '.join(own)}, got {sorted(state)}"
            )
        other = [
            f"{name} was {state[name]}, is {own[name]}" for name in own if state[name] != own[name]
        ]
        if other:
            raise FileFormatError(
                f"the state is of a DataLoader with other batches: {'; '.join(other)}"
            )
        if not 0 <= state["position"] <= len(self):
            raise FileFormatError(
                f"the state is at batch {state['position']} of {len(self)} batches"
            )
        self.epoch, self.position = int(state["epoch"]), int(state["position"])

    def _settings(self) -> dict[str, int | bool]:
        return {
            "examples": len(self.dataset),
            "batch_size": self.batch_size,
            "shuffle": self.shuffle,
            "seed": int(self.seed),
            "drop_last": self.drop_last,
        }

    def order(self, epoch: int) -> npt.NDArray[np.int64]:
        """The indices of the examples in the order in which ``epoch`` visits them."""
        count = len(self.dataset)
        if not self.shuffle:
            return np.arange(count)
        return numpy_generator(self.seed, epoch).permutation(count)

    def batches(self, epoch: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of any epoch, from number ``first`` on; ``self.epoch`` stays as it is."""
        order = self.order(epoch)
        uploads = get_backend(self.device or "cpu").uploads()

        def make(batch: int) -> Any:
            chosen = order[batch * self.batch_size : (batch + 1) * self.batch_size]
            try:
                pair = self._make(chosen, numpy_generator(self.seed, epoch, batch))
                return uploads.start(*pair)
            except Exception as error:
                error.add_note(f"in batch {batch} of epoch {epoch}, examples {chosen.tolist()}")
                raise

        numbers = range(first, len(self))
        for batch, started in zip(numbers, _ahead(make, numbers, self.prefetch), strict=True):
            images, labels = map(Tensor, uploads.receive(started))
            labels.origin = f"batch {batch} of epoch {epoch}"
            yield images, labels

    def _make(
        self, chosen: npt.NDArray[np.int64], generator: np.random.Generator
    ) -> tuple[Floats, Labels]:
        images, labels = self.dataset[chosen]
        _check_pairs(images, labels, len(chosen))
        floats = _as_floats(images)
        if self.augment is not None:
            floats = _augmented(self.augment, floats, generator)
        return floats, labels.astype(np.int64, copy=False)

    def _check_batches(self) -> None:
        if len(self.dataset) == 0:
            raise DataError("the data set has no examples: there is nothing to load")
        if len(self) == 0:
            raise ArgumentError(
                f"drop_last leaves no batch: {len(self.dataset)} examples do not fill one of "
                f"batch_size={self.batch_size}"
            )


def _ahead(make: Callable[[int], Made], numbers: range, ahead: int) -> Iterator[Made]:
    """``make`` of each number in order, computed on a thread up to ``ahead`` numbers early."""
    from concurrent.futures import Future, ThreadPoolExecutor

    if ahead == 0:
        yield from map(make, numbers)
        return
    thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tinynn-loader")
    pending: deque[Future[Made]] = deque()
    try:
        for number in numbers:
            pending.append(thread.submit(make, number))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        thread.shutdown(cancel_futures=True)


def _whole(name: str, value: int, least: int) -> int:
    if not isinstance(value, (int, np.integer)) or value < least:
        raise ArgumentError(f"{name} is a whole number of {least} or more, got {value!r}")
    return int(value)


def _check_pairs(images: npt.NDArray[Any], labels: npt.NDArray[Any], count: int) -> None:
    if len(images) != count or labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise ShapeError(
            f"expected {count} images and as many integer labels from the data set, got images "
            f"{images.shape} and labels {labels.shape} of {labels.dtype}"
        )


def _as_floats(images: npt.NDArray[Any]) -> Floats:
    if images.dtype == np.uint8:
        return cast(Floats, np.divide(images, np.float32(255), dtype=np.float32))
    if images.dtype != np.float32:
        raise DtypeError(
            "expected images of uint8 (0 to 255) or float32 (0 to 1) from the data set, got "
            f"{images.dtype}"
        )
    return images


def _augmented(augment: Augment, images: Floats, generator: np.random.Generator) -> Floats:
    result = augment(images, generator)
    if result.dtype != np.float32 or len(result) != len(images):
        raise DtypeError(
            f"expected {len(images)} images of float32 from the augmentation {augment!r}, got "
            f"{result.shape} of {result.dtype}"
        )
    return result
