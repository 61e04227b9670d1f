"""Iterators of one DataLoader: each is an epoch of its own, and the position is the training's."""

import copy
import itertools
import pickle
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinynn import functional as F
from tinynn import nn, optim
from tinynn.data import ArrayDataset, DataLoader
from tinynn.errors import Interrupted
from tinynn.training import Checkpoints, TrainingState, evaluate, find_learning_rate, fit

COUNT, BATCH, EPOCHS = 11, 2, 3
BATCHES = 6
WHOLE = list(range(COUNT))


def make(shuffle: bool = True, prefetch: int = 0) -> DataLoader:
    """The label is the number of the example."""
    data = ArrayDataset(np.arange(COUNT, dtype=np.float32)[:, None] / 16, np.arange(COUNT))
    return DataLoader(data, BATCH, shuffle=shuffle, seed=5, prefetch=prefetch)


def numbers(batch: Any) -> list[int]:
    return batch[1].tolist()


def visited(batches: Any) -> list[int]:
    return [number for batch in batches for number in numbers(batch)]


# -- each is an epoch of its own -----------------------------------------------------------------


def zipped(loader: DataLoader) -> Iterator[list[int]]:
    pairs = list(zip(loader, loader, strict=True))
    yield visited(a for a, _ in pairs)
    yield visited(b for _, b in pairs)


def peek_that_is_kept(loader: DataLoader) -> Iterator[list[int]]:
    peek = iter(loader)
    first = numbers(next(peek))
    yield visited(loader)
    yield first + visited(peek)


def peek_that_is_dropped(loader: DataLoader) -> Iterator[list[int]]:
    next(iter(loader))
    yield visited(loader)


def never_started(loader: DataLoader) -> Iterator[list[int]]:
    waiting = iter(loader)
    yield visited(loader)
    yield visited(waiting)


def within_a_loop(loader: DataLoader) -> Iterator[list[int]]:
    outer = []
    for batch in loader:
        outer += numbers(batch)
        yield visited(loader)
    yield outer


def left_within_a_loop(loader: DataLoader) -> Iterator[list[int]]:
    outer = []
    for batch in loader:
        outer += numbers(batch)
        for _ in loader:
            break
    yield outer


def failed_within_a_loop(loader: DataLoader) -> Iterator[list[int]]:
    outer = []
    for batch in loader:
        outer += numbers(batch)
        with suppress(ZeroDivisionError):
            for _ in loader:
                1 / 0  # noqa: B018
    yield outer


def staggered(loader: DataLoader) -> Iterator[list[int]]:
    one, other = iter(loader), iter(loader)
    first = numbers(next(one)) + numbers(next(one))
    second = numbers(next(other))
    yield second + visited(other)
    yield first + visited(one)


def chained(loader: DataLoader) -> Iterator[list[int]]:
    both = visited(itertools.chain(loader, loader))
    yield both[:COUNT]
    yield both[COUNT:]


def copied_iterator(loader: DataLoader) -> Iterator[list[int]]:
    for each in itertools.tee(loader):
        yield visited(each)


def on_threads(loader: DataLoader) -> Iterator[list[int]]:
    found: list[list[int]] = []
    threads = [threading.Thread(target=lambda: found.append(visited(loader))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    yield from found


PATTERNS: list[Callable[[DataLoader], Iterator[list[int]]]] = [
    zipped, peek_that_is_kept, peek_that_is_dropped, never_started, within_a_loop,
    left_within_a_loop, failed_within_a_loop, staggered, chained, copied_iterator, on_threads,
]  # fmt: skip


@pytest.mark.parametrize("prefetch", [0, 2])
@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: pattern.__name__)
def test_each_iterator_visits_every_example_once(pattern: Any, prefetch: int) -> None:
    for found in pattern(make(prefetch=prefetch)):
        assert sorted(found) == WHOLE


def test_epochs_after_a_nested_loop_are_the_same_as_without() -> None:
    plain, nested = make(), make()
    expected = [visited(plain) for _ in range(3)]
    found = []
    for _ in range(3):
        epoch = []
        for batch in nested:
            epoch += numbers(batch)
            nested.count_step()
            assert sorted(visited(nested)) == WHOLE
        found.append(epoch)
    assert found == expected


def test_a_peek_that_is_kept_does_not_repeat_an_epoch() -> None:
    loader = make()
    peek = iter(loader)
    next(peek)
    assert len({tuple(visited(loader)) for _ in range(4)}) == 4


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))]
)
def test_a_copy_continues_on_its_own(copied: Any) -> None:
    loader = make()
    batches = iter(loader)
    first = visited([next(batches), next(batches)])
    other = copied(loader)
    assert sorted(first + visited(other)) == WHOLE
    assert (other.epoch, other.position) == (1, 0)
    assert (loader.epoch, loader.position) == (0, 2)
    assert sorted(first + visited(batches)) == WHOLE


# -- the position is that of the training loop -----------------------------------------------------

kept: list[Any] = []


def keep_a_peek(loader: DataLoader) -> None:
    kept.append(iter(loader))
    next(kept[-1], None)


def run_through(loader: DataLoader) -> None:
    assert sorted(visited(loader)) == WHOLE


def measure(loader: DataLoader) -> None:
    evaluate(nn.Linear(1, COUNT), loader, F.cross_entropy)


def search_rate(loader: DataLoader) -> None:
    model = nn.Linear(1, COUNT)
    find_learning_rate(model, loader, optim.SGD(model, 0.1), F.cross_entropy, high=1e-5, steps=10)


def nothing(loader: DataLoader) -> None:
    """The control."""


DISTURBANCES = [
    nothing, keep_a_peek, lambda loader: next(iter(loader), None), run_through,
    lambda loader: list(zip(loader, loader, strict=True)), measure, search_rate,
    lambda loader: next(loader.batches(7)),
]  # fmt: skip
NAMES = ["nothing", "kept", "dropped", "run", "zip", "evaluate", "rate", "batches"]
every_disturbance = pytest.mark.parametrize("disturb", DISTURBANCES, ids=NAMES)


@pytest.fixture(autouse=True)
def nothing_kept() -> Iterator[None]:
    yield
    kept.clear()


def by_hand(place: Path, seen: list[list[int]], disturb: Any, when: str, end: int) -> None:
    """Train by hand, disturbed before the loop or in it, and interrupted in step ``end``."""
    loader = make()
    with Checkpoints(place) as checkpoints:
        checkpoints.track(loader=loader)
        if when == "before":
            disturb(loader)
        for _ in range(loader.epoch, EPOCHS):
            for batch in loader:
                seen.append(numbers(batch))
                if when == "within" and (disturb is not keep_a_peek or len(seen) % BATCHES > 1):
                    disturb(loader)
                if len(seen) == end:
                    signal.raise_signal(signal.SIGINT)
                checkpoints.after_step()


@pytest.mark.parametrize("end", [1, BATCHES, BATCHES + 3])
@pytest.mark.parametrize(
    ("when", "disturb"),
    [("before", nothing), ("before", keep_a_peek), ("before", DISTURBANCES[2])]
    + [("within", disturb) for disturb in DISTURBANCES if disturb is not run_through],
    ids=["before-nothing", "before-kept", "before-dropped", *(n for n in NAMES if n != "run")],
)
def test_a_hand_written_loop_resumes_exactly(
    when: str, disturb: Any, end: int, tmp_path: Path
) -> None:
    undisturbed = make()
    expected = [numbers(batch) for _ in range(EPOCHS) for batch in undisturbed]
    seen: list[list[int]] = []
    with pytest.raises(Interrupted):
        by_hand(tmp_path, seen, disturb, when, end)
    by_hand(tmp_path, seen, disturb, when, 0)
    by_hand(tmp_path, seen, disturb, "never", 0)  # it has ended
    assert seen == expected


def test_after_the_training_a_loop_that_is_left_ends_an_epoch(tmp_path: Path) -> None:
    loader = make()
    model = nn.Linear(1, COUNT)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.track(loader=loader)
        for _ in loader:
            checkpoints.after_step()
    fit(model, loader, optim.SGD(model, 0.1), F.cross_entropy, epochs=1, description=None)
    assert loader.epoch == 2
    assert len({tuple(numbers(next(iter(loader)))) for _ in range(4)}) == 4
    assert loader.epoch == 6


def fitted(
    place: Path | None, disturb: Any, at: str, end: int, seen: list[list[int]]
) -> tuple[list[float], Any]:
    loader = make()
    model = nn.Linear(1, COUNT)
    model.weight.data[...], model.bias.data[...] = 0, 0
    model.register_forward_hook(
        lambda module, inputs, _: (
            seen.append((16 * inputs[0].numpy()[:, 0]).astype(int).tolist())
            if module.training and watched
            else None
        )
    )
    watched = [True]

    def callback(event: str, state: TrainingState) -> None:
        if event == at:
            watched.clear()
            disturb(state.loader)
            watched.append(True)
        if event == "step" and state.steps == end:
            signal.raise_signal(signal.SIGTERM)

    history = fit(
        model, loader, optim.SGD(model, 0.01), F.cross_entropy, epochs=EPOCHS, validation=loader,
        callbacks=[callback], description=None,
        checkpoints=None if place is None else Checkpoints(place),
    )  # fmt: skip
    return [epoch.loss for epoch in history.training + history.validation], model.weight.tolist()


@pytest.mark.parametrize(
    ("name", "value", "epochs", "steps"),
    [("epoch", 5, [5, 6], 12), ("batch_size", 4, [0, 1], 6)],
)
def test_a_callback_may_set_up_the_loader(
    name: str, value: int, epochs: list[int], steps: int
) -> None:
    loader, model = make(), nn.Linear(1, COUNT)
    seen: list[int] = []

    def callback(event: str, state: TrainingState) -> None:
        if event == "start":
            run_through(loader)
            setattr(loader, name, value)
        elif event == "step":
            seen.append(state.epoch)

    optimizer = optim.SGD(model, 0.01)
    fit(
        model, loader, optimizer, F.cross_entropy, epochs=2, callbacks=[callback],
        description=None,
    )  # fmt: skip
    assert seen == sorted(epochs * (steps // 2))


@pytest.mark.parametrize("at", ["start", "step", "epoch"])
@every_disturbance
def test_fit_resumes_exactly(disturb: Any, at: str, tmp_path: Path) -> None:
    """The loader is the validation's, too."""
    order: list[list[int]] = []
    expected = fitted(None, disturb, at, 0, order)
    seen: list[list[int]] = []
    with pytest.raises(Interrupted):
        fitted(tmp_path, disturb, at, BATCHES + 2, seen)
    assert fitted(tmp_path, disturb, at, 0, seen) == expected
    assert seen == order
    if at != "epoch":  # a loop between two epochs is an epoch, too
        plain: list[list[int]] = []
        assert fitted(None, nothing, at, 0, plain) == expected
        assert order == plain
