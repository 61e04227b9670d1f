"""Checkpoints: all that a training run needs to resume, saved atomically in the background."""

from __future__ import annotations

import errno
import math
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, wait
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Protocol

from tinynn import messages
from tinynn.arguments import integer, number
from tinynn.data import DataLoader
from tinynn.errors import ArgumentError, FileFormatError, Interrupted, NotSavedError, StorageError
from tinynn.files import Arrays, FilePath, safetensors_content
from tinynn.training.interruption import StopRequest, stop_on_signals, stop_on_spot_notice
from tinynn.training.iteration import counted_steps
from tinynn.training.packing import capture, equal, unpack
from tinynn.training.store import Store, open_store

__all__ = ["EXIT_CODE", "Checkpoints"]

EXIT_CODE = 75
"""The exit code of a program after Interrupted: EX_TEMPFAIL of sysexits.h, "try again"."""

_NAME = re.compile(r"step-(\d{12})(?:\.branch-(\d{1,9}))?\.safetensors")
_MOST_STEPS = 10**12  # as many digits as a name has
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_WAIT_FOR_OWNER = 30.0  # seconds for another process to write its last checkpoint
_WAIT_WHEN_STOPPED = 75.0  # seconds after a signal; a spot instance is reclaimed after 120
_WAIT_AT_LEAST = 15.0  # seconds, if a step took so long


class Part(Protocol):
    """An object that a checkpoint can contain: a model, an optimizer, a loader, and so on."""

    def state_dict(self) -> Mapping[str, Any]:
        """The complete state: numbers, strings, lists, dicts and arrays."""

    def load_state_dict(self, state: Any, /) -> None:
        """Restore what ``state_dict`` returned."""


class Checkpoints:
    """Saves the state of a training run every few seconds and restores it in a later process.

    A checkpoint is a snapshot, written by a background thread: atomically, durably, with a checksum
    per tensor. The last ``keep`` are kept. A snapshot takes as much memory again as the state.

    As a context manager it installs signal handlers: after SIGTERM, SIGHUP or Ctrl-C the training
    stops after the current step, writes a checkpoint and raises :class:`Interrupted`, or its
    subclass :class:`NotSavedError` if that fails: the one before is then the newest. A program
    should then exit with ``EXIT_CODE``, 75. It also locks the folder: another process is refused,
    with a message that names the owner. After the ``with`` block, or ``fit``, the object can be
    used again: it resumes from the newest checkpoint, as a new one would.

    Args:
        place: A folder, in which ~ is home, or an fsspec URL ("s3://bucket/run").
        every: Seconds between two checkpoints.
        keep: How many checkpoints are kept.
        resume: "auto" resumes from the newest intact checkpoint and starts from scratch if there is
            none; a damaged one is reported and the previous one is used. "never" raises an error if
            there is a checkpoint. Otherwise the name of the checkpoint; later ones then count as
            older, and "auto" continues from here.
        config: JSON data and arrays of your own that must be equal on resume; the error names the
            differences.
        watch_spot: Treat the two-minute preemption notice of an AWS spot instance like SIGTERM.

    Attributes:
        steps: Total number of steps so far, including those before a resume.
        resumed_from: The name of the checkpoint that was resumed from, or None.

    Raises:
        StorageError: The location cannot be read or written, or is in use by another process.
        FileFormatError: No checkpoint is intact, or it belongs to another run.

    Example:
        >>> with Checkpoints("runs/ann", every=60) as checkpoints:
        ...     checkpoints.track(model=model, optimizer=optimizer, loader=loader)
        ...     checkpoints.track(random=tinynn.random.default_generator)
        ...     for _ in range(loader.epoch, 20):
        ...         for images, labels in loader:
        ...             ...  # one step
        ...             checkpoints.after_step()
    """

    def __init__(
        self,
        place: FilePath,
        *,
        every: float = 60.0,
        keep: int = 3,
        resume: str = "auto",
        config: Mapping[str, Any] | None = None,
        watch_spot: bool = False,
    ) -> None:
        text = "Checkpoints: expected every >= 0 s and keep >= 1"
        self.every = number(f"{text}: every", every, 0, math.inf, "[]")
        self.keep = integer(f"{text}: keep", keep, 1)
        self.watch_spot = watch_spot
        if not isinstance(resume, str) or not resume:
            raise ArgumentError(f'resume must be "auto", "never" or a name, got {resume!r:.80}')
        if not isinstance(config, Mapping | None):
            raise ArgumentError(f"config must be a dict, got {config!r:.80}")
        self.config = dict(config or {})
        try:
            next(safetensors_content(*capture(self.config)))  # ArgumentError if it cannot be stored
        except RecursionError as error:
            raise ArgumentError("cannot store config: it is nested too deeply") from error
        self._store: Store = open_store(place)
        self._writing: Future[None] | None = None
        self._intact: str | None = None  # the last checkpoint that was read or written
        self._depth = 0
        self._stack = ExitStack()
        self._begin(resume)

    # -- what is saved ------------------------------------------------------------------------

    def track(self, **parts: Part) -> None:
        """Save these parts from now on, by name; restore those that the checkpoint contains.

        Raises:
            FileFormatError: A saved state does not fit its part.
        """
        self._reopen_if_used()
        self._unsaved = True
        for name, part in parts.items():
            if not (hasattr(part, "state_dict") and hasattr(part, "load_state_dict")):
                raise ArgumentError(f"cannot track {name}: no state_dict() in {part!r:.60}")
            self._parts[name] = part
            self._stack.enter_context(counted_steps(part))
            if name not in self._saved:
                continue
            try:
                part.load_state_dict(self._saved[name])
            except Exception as error:
                raise FileFormatError(
                    f"cannot resume from {self._path(self.resumed_from)}: {name} does not fit "
                    f"({type(error).__name__}: {error})"
                ) from error
            del self._saved[name]

    # -- when ---------------------------------------------------------------------------------

    def after_step(self) -> None:
        """Count an optimizer step, and save if it is time.

        Raises:
            Interrupted: After a last checkpoint, if a signal or a preemption notice has come.
        """
        self.steps += 1
        self._unsaved = True
        for part in self._parts.values():
            if isinstance(part, DataLoader):
                part.count_step()
        self.save_if_due()

    def save_if_due(self) -> None:
        """Like ``after_step`` without a step: after validation, for example."""
        if self._stop.reason is not None:
            self._save_and_interrupt()
        with _reported():
            if self._writing is not None and self._writing.done():
                self._finish_writing()
            if self._writing is None and time.monotonic() - self._last >= self.every:
                self._start_writing()

    def save(self) -> None:
        """Save now, and wait until it is written; StorageError if that fails."""
        with _reported():
            self._finish_writing()
        self._start_writing()
        self._finish_writing()

    def save_at_end(self) -> None:
        """Save now and wait, but only report a failure, so that the result is not lost.

        At the end of a ``with`` block nothing is saved again, unless there were steps in between.
        """
        with _reported():
            self.save()
            self._unsaved = False

    def _save_and_interrupt(self) -> None:
        ended = f"{self._stop.reason}: ended after step {self.steps}"
        try:
            if self._unsaved:
                self.save()
        except StorageError as error:
            if self._intact != self._name():  # else it is written, but older ones are not deleted
                then = "there is no checkpoint, resume starts from scratch"
                if self._intact is not None:
                    then = f"resume continues from {self._path(self._intact)}"
                text = f"{ended}; its checkpoint is NOT SAVED: {error}; {then}"
                raise NotSavedError(text) from error
        path = self._path(self._name())
        raise Interrupted(f"{ended}; {path} is written, resume continues from there")

    def _start_writing(self) -> None:
        """Take a snapshot of all states and write it in the background."""
        if self._saved:
            raise FileFormatError(
                f"{self._path(self.resumed_from)} contains {', '.join(sorted(self._saved))}, which "
                "is not tracked here: track() it, or use another location"
            )
        self._last = time.monotonic()
        parts = {name: part.state_dict() for name, part in self._parts.items()}
        state = {"steps": self.steps, "config": self.config, "versions": _versions()}
        try:
            arrays, metadata = capture({**state, "parts": parts})
        except MemoryError as error:
            raise StorageError(f"no memory for a copy of the state: {error}") from error
        write = partial(self._write, self._name(), arrays, metadata)
        # a ``with`` block waits for the thread; without one Python does, when the program ends
        self._writing = _in_background(write, daemon=self._depth > 0)

    def _write(self, name: str, arrays: Arrays, metadata: dict[str, str]) -> None:
        with self._store.locked(patience=1.0):  # another process may look into the folder
            while True:
                try:
                    self._store.write(name, safetensors_content(arrays, metadata))
                    break
                except StorageError as error:
                    if not self._give_up_oldest(name, error):
                        raise
            self._intact = name
            # later checkpoints are damaged, or the run was resumed before them: they do not count
            try:
                for old in self._until(name)[: -self.keep]:
                    self._store.delete(old)
            except StorageError as error:
                say(f"{name} is saved, but older ones are not deleted: {error}")

    def _give_up_oldest(self, name: str, error: StorageError) -> bool:
        """If there is no space left, delete a checkpoint, but not the last intact one."""
        cause = error.__cause__
        if not (isinstance(cause, OSError) and cause.errno in _NO_SPACE):
            return False
        others = [old for old in self._until(name) if old not in (name, self._intact)]
        if others:
            say(f"{error}; deleting {others[0]}, the oldest")
            self._store.delete(others[0])
        return bool(others)

    def _until(self, name: str) -> list[str]:
        """The existing checkpoints up to this one, the oldest first."""
        return [other for other in self._names() if _order(other) <= _order(name)]

    def _finish_writing(self) -> None:
        """Wait for the background thread; StorageError if it failed.

        After a request to stop it waits for a limited time: a server may never answer.
        """
        writing, self._writing = self._writing, None
        if writing is None:
            return
        began = time.monotonic()
        while not wait([writing], timeout=0.1).done:
            last = max(self._stop.since + _WAIT_WHEN_STOPPED, began + _WAIT_AT_LEAST)
            if self._stop.reason is not None and time.monotonic() > last:
                text = f"no answer in the {_WAIT_WHEN_STOPPED:.0f} s after {self._stop.reason}"
                raise StorageError(f"cannot write to {self._store.location}: {text}")
        writing.result()

    # -- resuming -----------------------------------------------------------------------------

    def _begin(self, resume: str) -> None:
        """Read the checkpoint to resume from, if there is one."""
        self._last = time.monotonic()
        self._resumes, self._listed = resume, self._names()
        self._parts: dict[str, Part] = {}
        self._stop = StopRequest()
        self._unsaved = True  # whether there is something to save at the end
        self._used = False  # whether a ``with`` block or ``fit`` has ended
        newest = self._listed[-1] if self._listed else ""
        if resume == "never" and newest:
            raise ArgumentError(
                f"{self._store.location} already contains checkpoints, the last is {newest}: "
                'resume="auto" resumes from it; or use another location'
            )
        is_chosen = resume not in ("auto", "never")
        state = self._newest_intact([resume] if is_chosen else self._listed)
        self._intact = self.resumed_from
        # if later ones exist, a new branch begins: "auto" does not return to them
        self._branch = _order(newest)[0] if newest else 1
        self._branch += is_chosen and newest not in ("", resume)
        self.steps = 0
        self._saved: dict[str, Any] = {}  # states of parts that are not tracked yet
        if state is None:
            return
        path = self._path(self.resumed_from)
        self.steps, self._saved = state["steps"], dict(state["parts"])
        self._check_config(state["config"])
        say(f"resuming from {path}, step {self.steps}")
        versions = state["versions"]
        other = {k: v for k, v in versions.items() if v != _versions().get(k, v)}
        if other:
            was = ", ".join(f"{name} {version}" for name, version in sorted(other.items()))
            say(f"it was saved with {was}: from here on, results may differ in the last bits")

    def _reopen_if_used(self) -> None:
        """Begin again as a new object would, from the newest checkpoint."""
        if self._used:
            with _reported():
                self._finish_writing()  # after a second Ctrl-C
            has_written = self._intact != self.resumed_from
            self._begin("auto" if has_written else self._resumes)

    def _newest_intact(self, names: list[str]) -> dict[str, Any] | None:
        self.resumed_from: str | None = None
        for name in reversed(names):
            path = self._path(name)
            try:
                state = _checked(unpack(self._store.read(name), path), path)
            except (FileFormatError, StorageError) as error:
                if name == names[0]:
                    raise
                say(f"{error}; trying the previous one")
            else:
                self.resumed_from = name
                return state
        return None

    def _check_config(self, config: dict[str, Any]) -> None:
        pairs = {key: (config.get(key), self.config.get(key)) for key in {*config, *self.config}}
        differing = sorted(key for key, pair in pairs.items() if not equal(*pair))
        if differing:
            changes = [f"{k} was {pairs[k][0]!r:.200}, is {pairs[k][1]!r:.200}" for k in differing]
            raise FileFormatError(
                f"{self._path(self.resumed_from)} belongs to another run: {'; '.join(changes)}. "
                "Use the options of that run, or another location"
            )

    # -- names of files -----------------------------------------------------------------------

    def _names(self) -> list[str]:
        """The existing checkpoints, the oldest first."""
        return sorted(filter(_NAME.fullmatch, self._store.names()), key=_order)

    def _name(self) -> str:
        branch = f".branch-{self._branch}" if self._branch > 1 else ""
        return f"step-{self.steps:012d}{branch}.safetensors"

    def _path(self, name: str | None) -> str:
        return f"{self._store.location}/{name}"

    # -- as a context manager -----------------------------------------------------------------

    def __enter__(self) -> Checkpoints:
        if self._depth == 0:
            self._reopen_if_used()
            with ExitStack() as lock, ExitStack() as signals:
                lock.enter_context(self._store.locked(_WAIT_FOR_OWNER))
                if not self._parts and self._names() != self._listed:  # by another process
                    self._begin(self._resumes)
                signals.enter_context(stop_on_signals(self._stop))
                if self.watch_spot:
                    signals.enter_context(stop_on_spot_notice(self._stop, say))
                # left last, so that Ctrl-C cannot leave the folder locked
                self._stack.push(signals.pop_all())
                self._stack.push(lock.pop_all())
        self._depth += 1
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._depth -= 1
        if self._depth:
            return
        self._used = True
        with self._stack:  # at its end the signal handlers are restored
            if kind is not KeyboardInterrupt:  # a second Ctrl-C: do not wait
                with _reported():
                    self._finish_writing()
            if kind is None and self._parts:
                if self._stop.reason is not None:
                    self._save_and_interrupt()
                if self._unsaved:
                    self.save_at_end()


def _order(name: str) -> tuple[int, int]:
    """The branch and the step of a checkpoint: the order in which they are written."""
    step, branch = _NAME.findall(name)[0]
    return int(branch or 1), int(step)


def _checked(state: dict[str, Any], path: str) -> dict[str, Any]:
    """The state in a checkpoint; FileFormatError if its entries are damaged."""
    steps, others = state.get("steps"), ("parts", "config", "versions")
    is_count = type(steps) is int and 0 <= steps < _MOST_STEPS
    if not is_count or not all(isinstance(state.get(key), dict) for key in others):
        raise FileFormatError(f"{path} has a damaged header: {state!r:.80}")
    return state


def _in_background(work: Callable[[], None], daemon: bool) -> Future[None]:
    """Start ``work`` in a thread; a program that ends does not wait for a daemon."""
    future: Future[None] = Future()

    def run() -> None:
        try:
            work()
            future.set_result(None)
        except BaseException as error:  # CancelledError of asyncio, for example
            text = f"cannot save: {type(error).__name__}: {error}"
            future.set_exception(error if isinstance(error, StorageError) else StorageError(text))

    try:
        threading.Thread(target=run, name="tinynn-checkpoint", daemon=daemon).start()
    except RuntimeError:  # no more threads
        run()
    return future


@contextmanager
def _reported() -> Iterator[None]:
    """Report that nothing is saved, and continue."""
    try:
        yield
    except StorageError as error:
        say(f"NOT SAVED, continuing: {error}")


def say(text: str) -> None:
    """Print one line on standard error."""
    messages.say(f"checkpoints: {text}")


def _versions() -> dict[str, str]:
    """The versions on which the bits of a result depend."""
    loaded = {name: sys.modules.get(name) for name in ("tinynn", "numpy", "cupy")}
    return {name: module.__version__ for name, module in loaded.items() if module is not None}
