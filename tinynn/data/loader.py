"""Load a dataset in batches that are prepared in the background while the network computes."""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinynn.arguments import flag, integer
from tinynn.autograd import Tensor
from tinynn.backend import get_backend
from tinynn.data.augment import Augmentation, Images
from tinynn.data.dataset import Dataset, Targets, to_array, to_float32, to_target
from tinynn.errors import ArgumentError, DataError, DtypeError, FileFormatError, ShapeError
from tinynn.files import require_state
from tinynn.random import numpy_generator

__all__ = ["DataLoader"]


@dataclass(eq=False)
class _Place:
    """A position in the data: the next batch is ``position`` of ``epoch``."""

    epoch: int
    position: int = 0
    moved: bool = False  # since the last training step


@dataclass(eq=False, repr=False)
class DataLoader:
    """Iterate over the batches of one epoch: images float32 in [0, 1], shape (N, ...), and targets.

    uint8 images are divided by 255. Integer targets are int64, class indices for example; floating
    targets are float32; neither is scaled. Shuffling and augmentation are functions of (seed,
    epoch, batch) and of nothing drawn earlier: epoch e visits ``order(e)``, and its batch b is
    augmented with ``numpy_generator(seed, e, b)``. An interrupted run therefore resumes exactly,
    either with ``batches(e, first=b)`` or by loading ``state_dict()``, after which the next loop
    visits the rest of that epoch first.

    Every iterator is a whole epoch of its own, also while others run. A loop that ends, or that is
    left early, ends the epoch: the next one visits the next epoch. A loop within a loop visits the
    same epoch. With ``fit`` or ``Checkpoints``, the position is that of the training loop: a loop
    within it, or one that is left before the first step, does not move it. ``batches`` never does.

    A worker thread prepares ``prefetch`` batches ahead. It ends with the loop, and its exceptions
    are raised in the loop with a note that names the batch. With a GPU as ``device`` the next
    batches are copied from pinned memory while the current one is processed, without
    synchronization. ``labels.origin`` names the batch.

    Args:
        dataset: Any sized object whose items are (image, target), see :class:`Dataset`.
        batch_size: Examples per batch.
        shuffle: Visit the examples in a new random order in each epoch.
        seed: Seed of the order and the augmentation.
        drop_last: Drop the last batch if it is smaller than ``batch_size``.
        augment: ``augment(images, rng)``, see :mod:`tinynn.data.augment`.
        prefetch: Batches prepared ahead; 0 uses no thread.
        device: Where the tensors are created; None is the CPU.

    Attributes:
        steps_are_counted: Whether ``count_step`` is called after each training step.

    Raises:
        DataError: If the dataset is empty.
        ArgumentError: If an argument is out of range or no batch is left.
    """

    dataset: Dataset
    batch_size: int
    _: KW_ONLY
    shuffle: bool = False
    seed: int = 0
    drop_last: bool = False
    augment: Augmentation | None = None
    prefetch: int = 2
    device: str | None = None

    def __post_init__(self) -> None:
        self.batch_size = integer("batch_size", self.batch_size, least=1)
        self.prefetch = integer("prefetch", self.prefetch, least=0)
        self.steps_are_counted = False
        numpy_generator(self.seed)  # an error if it is no seed
        get_backend(self.device or "cpu")  # an error if there is no such device
        self.shuffle = flag("shuffle", self.shuffle)
        self.drop_last = flag("drop_last", self.drop_last)
        if self.augment is not None and not callable(self.augment):
            raise ArgumentError(f"augment must be a function, got {self.augment!r:.80}")
        if not hasattr(self.dataset, "__len__") or isinstance(self.dataset, (list, tuple)):
            kind = type(self.dataset).__name__
            raise ArgumentError(
                "a DataLoader expects a dataset with a length that returns (images, labels) for an "
                f"array of indices, such as ArrayDataset(images, labels), got a {kind}"
            )
        self._continue_at(0, 0)
        count = len(self.dataset)
        if count == 0:
            raise DataError("the dataset is empty: there is nothing to load")
        if len(self) == 0:
            raise ArgumentError(
                f"drop_last leaves no batch: {count} examples are fewer than "
                f"batch_size={self.batch_size}"
            )

    def __len__(self) -> int:
        """The number of batches per epoch."""
        whole, rest = divmod(len(self.dataset), self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    # -- the position ---------------------------------------------------------------------------

    @property
    def epoch(self) -> int:
        """Index of the epoch that is being iterated over, or of the next one."""
        return self._place().epoch

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self._continue_at(integer("epoch", epoch, least=0), 0)

    @property
    def position(self) -> int:
        """Number of batches of ``epoch`` that have been delivered."""
        return self._place().position

    @position.setter
    def position(self, position: int) -> None:
        self._continue_at(self.epoch, integer("position", position, 0, len(self)))

    def _continue_at(self, epoch: int, position: int) -> None:
        self._next = _Place(epoch, position)  # where the next loop starts
        self._running: list[_Place] = []  # the loops that have begun and not ended, in order
        self._training: _Place | None = None  # the loop whose batches the training steps use

    def _place(self) -> _Place:
        """The training loop if it is known, else the loop that began last."""
        if self._training is None and self._running:
            return self._running[-1]
        return self._training if self._training in self._running else self._next

    def count_step(self) -> None:
        """Declare the loop that delivered a batch since the last step the training loop.

        ``fit`` and ``Checkpoints.after_step`` call it after each step. ``state_dict`` is then the
        position of that loop, whatever other loops over this loader do meanwhile.
        """
        moved = [place for place in self._running if place.moved]
        if moved and self._training not in moved:
            self._training = moved[-1]
            self._next = _Place(self._training.epoch)
        for place in moved:
            place.moved = False

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        here = _Place(self._next.epoch, self._next.position)
        if not self.steps_are_counted:
            self._next = _Place(here.epoch)
        if self._training not in self._running:
            self._training = None
        self._running.append(here)
        whole = False
        try:
            for pair in self.batches(here.epoch, here.position):
                here.position += 1  # first, so that a state saved in the loop resumes after it
                here.moved = True
                yield pair
            whole = True
        finally:
            self._end(here, whole)

    def _end(self, ended: _Place, whole: bool) -> None:
        if ended not in self._running:  # the loader was set to another position meanwhile
            return
        if ended is self._training:
            self._next = _Place(ended.epoch + 1)
        elif self._training not in self._running and (whole or not self.steps_are_counted):
            self._next = _Place(max(self._next.epoch, ended.epoch + 1))
        self._running.remove(ended)

    def state_dict(self) -> dict[str, Any]:
        """The position of the next batch, and the settings that determine its examples."""
        return {"epoch": self.epoch, "position": self.position, **self._settings()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume at the position of ``state``.

        Raises:
            FileFormatError: If the state belongs to a loader with different batches.
        """
        own = self._settings()
        kinds = dict.fromkeys(["epoch", "position", *own], Integral)
        require_state("a DataLoader", state, kinds)
        changed = [f"{k} was {state[k]}, is {v}" for k, v in own.items() if state[k] != v]
        if changed:
            raise FileFormatError(
                f"the state belongs to a DataLoader with other batches: {'; '.join(changed)}"
            )
        if state["position"] > len(self):
            raise FileFormatError(
                f"the state is at batch {state['position']}, but there are {len(self)} batches"
            )
        self._continue_at(int(state["epoch"]), int(state["position"]))

    def __getstate__(self) -> dict[str, Any]:
        """A copy continues at the same position, without the loops."""
        place = _Place(self.epoch, self.position)
        return {**self.__dict__, "_next": place, "_running": [], "_training": None}

    def _settings(self) -> dict[str, int | bool]:
        return {
            "examples": len(self.dataset),
            "batch_size": self.batch_size,
            "shuffle": self.shuffle,
            "seed": int(self.seed),
            "drop_last": self.drop_last,
        }

    def order(self, epoch: int) -> NDArray[np.int64]:
        """The indices of the examples in the order in which ``epoch`` visits them."""
        count = len(self.dataset)
        if not self.shuffle:
            return np.arange(count)
        return numpy_generator(self.seed, epoch).permutation(count)

    def batches(self, epoch: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of any ``epoch``, starting at index ``first``; does not change ``epoch``."""
        numbers = range(integer("first", first, least=0), len(self))
        order = self.order(integer("epoch", epoch, least=0))
        uploads = get_backend(self.device or "cpu").uploads()

        def prepare(batch: int) -> Any:
            chosen = order[batch * self.batch_size : (batch + 1) * self.batch_size]
            try:
                return uploads.start(*self._load(chosen, numpy_generator(self.seed, epoch, batch)))
            except StopIteration as error:
                raise DataError("the dataset or the augmentation ended early") from error
            except Exception as error:
                error.add_note(f"in batch {batch} of epoch {epoch}, examples {chosen.tolist()}")
                raise

        prepared = _prefetched(prepare, numbers, self.prefetch)
        for batch, started in zip(numbers, prepared, strict=True):
            images, labels = map(Tensor, uploads.receive(started))
            labels.origin = f"batch {batch} of epoch {epoch}"
            yield images, labels

    def _load(self, chosen: NDArray[np.int64], rng: np.random.Generator) -> tuple[Images, Targets]:
        pair, count = self.dataset[chosen], len(chosen)
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise DataError(f"expected (images, labels) from the dataset, got {pair!r:.80}")
        images, labels = to_array("images", pair[0]), to_array("labels", pair[1])
        if images.shape[:1] != (count,) or labels.shape[:1] != (count,):
            raise ShapeError(
                f"expected {count} images and {count} labels from the dataset, got images of "
                f"shape {images.shape} and labels of shape {labels.shape}"
            )
        floats = to_float32(images)
        if self.augment is not None:
            floats = to_array("augmented images", self.augment(floats, rng))
            if floats.dtype != np.float32 or floats.shape[:1] != (count,):
                raise DtypeError(
                    f"expected {count} float32 images from the augmentation {self.augment!r}, got "
                    f"shape {floats.shape} of dtype {floats.dtype}"
                )
        return floats, to_target(labels)


def _prefetched(function: Callable[[int], Any], numbers: range, ahead: int) -> Iterator[Any]:
    """Map ``function`` over ``numbers`` in order, evaluating up to ``ahead`` early on a thread."""
    from concurrent.futures import Future

    from tinynn.data.pool import Pool

    if ahead == 0:
        yield from map(function, numbers)
        return
    thread = Pool(max_workers=1, thread_name_prefix="tinynn-loader")
    reader = threading.get_ident()
    pending: deque[Future[Any]] = deque()
    try:
        for number in numbers:
            pending.append(thread.submit(function, number))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        # After an exception the garbage collector may end this generator on any thread, even one
        # that is starting and holds a lock of ``threading``: waiting there would be a deadlock.
        thread.shutdown(wait=threading.get_ident() == reader, cancel_futures=True)
