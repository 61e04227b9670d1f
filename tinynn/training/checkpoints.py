"""Checkpoints: all that a training run needs to resume, saved atomically in the background."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, Protocol

from tinynn import messages
from tinynn.errors import ArgumentError, FileFormatError, Interrupted, StorageError, TinynnError
from tinynn.files import Arrays, FilePath, safetensors_content
from tinynn.training.interruption import StopRequest, stop_on_signals, stop_on_spot_notice
from tinynn.training.packing import capture, unpack
from tinynn.training.store import Store, open_store

__all__ = ["EXIT_CODE", "Checkpoints"]

EXIT_CODE = 75
"""The exit code of a program after Interrupted: EX_TEMPFAIL of sysexits.h, "try again"."""

_NAME = re.compile(r"step-(\d{12})\.safetensors")


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

    As a context manager it installs signal handlers: after SIGTERM or Ctrl-C the training stops
    after the current step, writes a checkpoint and raises :class:`Interrupted`. A program should
    then exit with ``EXIT_CODE``, 75.

    Args:
        place: A folder or an fsspec URL ("s3://bucket/run").
        every: Seconds between two checkpoints.
        keep: How many checkpoints are kept.
        resume: "auto" resumes from the newest intact checkpoint and starts from scratch if there is
            none; a damaged one is reported and the previous one is used. "never" raises an error if
            there is a checkpoint. Otherwise the name of the checkpoint.
        config: JSON data of your own that must be equal on resume; the error names the differences.
        watch_spot: Treat the two-minute preemption notice of an AWS spot instance like SIGTERM.

    Attributes:
        steps: Total number of steps so far, including those before a resume.
        resumed_from: The name of the checkpoint that was resumed from, or None.

    Raises:
        StorageError: The location cannot be read or written.
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
        if not every >= 0 or keep < 1:
            raise ArgumentError(
                f"Checkpoints: expected every >= 0 s and keep >= 1, got {every}, {keep}"
            )
        self.every, self.keep, self.watch_spot = every, keep, watch_spot
        self.config = dict(config or {})
        self.steps = 0
        self.resumed_from: str | None = None
        self._store: Store = open_store(place)
        self._parts: dict[str, Part] = {}
        self._saved: dict[str, Any] = {}  # states of parts that are not tracked yet
        self._stop = StopRequest()
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="tinynn-checkpoint")
        self._writing: Future[None] | None = None
        self._depth = 0
        self._stack = ExitStack()
        self._resume(resume)
        self._last = time.monotonic()

    # -- what is saved ------------------------------------------------------------------------

    def track(self, **parts: Part) -> None:
        """Save these parts from now on, by name; restore those that the checkpoint contains.

        Raises:
            FileFormatError: A saved state does not fit its part.
        """
        for name, part in parts.items():
            if not (hasattr(part, "state_dict") and hasattr(part, "load_state_dict")):
                raise ArgumentError(f"cannot track {name}: no state_dict() in {part!r:.60}")
            self._parts[name] = part
            if name not in self._saved:
                continue
            try:
                part.load_state_dict(self._saved.pop(name))
            except (TinynnError, LookupError, TypeError, ValueError, AttributeError) as error:
                raise FileFormatError(
                    f"cannot resume from {self._path(self.resumed_from)}: {name} does not fit "
                    f"({type(error).__name__}: {error})"
                ) from error

    # -- when ---------------------------------------------------------------------------------

    def after_step(self) -> None:
        """Count an optimizer step, and save if it is time.

        Raises:
            Interrupted: After a last checkpoint, if a signal or a preemption notice has come.
        """
        self.steps += 1
        self.save_if_due()

    def save_if_due(self) -> None:
        """Like ``after_step`` without a step: after validation, for example."""
        if self._stop.reason is not None:
            self.save()
            ended = f"{self._stop.reason}: ended after step {self.steps}"
            path = self._path(self._name())
            raise Interrupted(f"{ended}; {path} is written, resume continues from there")
        if self._writing is not None and self._writing.done():
            self._finish_writing(report=True)
        if self._writing is None and time.monotonic() - self._last >= self.every:
            self._start_writing()

    def save(self) -> None:
        """Save now, and wait until it is written; StorageError if that fails."""
        self._start_writing()
        self._finish_writing()

    def save_at_end(self) -> None:
        """Save now and wait, but only report a failure, so that the result is not lost."""
        self._start_writing()
        self._finish_writing(report=True)

    def _start_writing(self) -> None:
        """Take a snapshot of all states and write it in the background, after the last one."""
        self._finish_writing(report=True)
        if self._saved:
            raise FileFormatError(
                f"{self._path(self.resumed_from)} contains {', '.join(sorted(self._saved))}, which "
                "is not tracked here: track() it, or use another location"
            )
        parts = {name: part.state_dict() for name, part in self._parts.items()}
        state = {"steps": self.steps, "config": self.config, "versions": _versions()}
        content = capture({**state, "parts": parts})
        self._writing = self._writer.submit(self._write, self._name(), *content)
        self._last = time.monotonic()

    def _write(self, name: str, arrays: Arrays, metadata: dict[str, str]) -> None:
        self._store.write(name, safetensors_content(arrays, metadata))
        # later checkpoints are damaged, or the run was resumed before them: they do not count
        until_now = [other for other in self._names() if other <= name]
        for old in until_now[: -self.keep]:
            self._store.delete(old)

    def _finish_writing(self, report: bool = False) -> None:
        """Wait for the background thread; raise its failure, or report it and continue."""
        writing, self._writing = self._writing, None
        try:
            if writing is not None:
                writing.result()
        except StorageError as error:
            if not report:
                raise
            say(f"NOT SAVED, continuing: {error}")

    # -- resuming -----------------------------------------------------------------------------

    def _resume(self, resume: str) -> None:
        """Read the checkpoint to resume from, if there is one."""
        names = self._names()
        if resume == "never" and names:
            raise ArgumentError(
                f"{self._store.location} already contains checkpoints, the last is {names[-1]}: "
                'resume="auto" resumes from it; or use another location'
            )
        if resume not in ("auto", "never"):
            names = [resume]
        state = self._newest_intact(names)
        if state is None:
            return
        path = self._path(self.resumed_from)
        try:
            self.steps, self._saved = int(state["steps"]), dict(state["parts"])
            config, versions = dict(state["config"]), dict(state["versions"])
        except (LookupError, TypeError, ValueError) as error:
            raise FileFormatError(f"{path} has a damaged header: {error}") from error
        self._check_config(config)
        say(f"resuming from {path}, step {self.steps}")
        other = {k: v for k, v in versions.items() if v != _versions().get(k, v)}
        if other:
            was = ", ".join(f"{name} {version}" for name, version in sorted(other.items()))
            say(f"it was saved with {was}: from here on, results may differ in the last bits")

    def _newest_intact(self, names: list[str]) -> dict[str, Any] | None:
        for name in reversed(names):
            try:
                state = unpack(self._store.read(name), self._path(name))
            except FileFormatError as error:
                if name == names[0]:
                    raise
                say(f"{error}; trying the previous one")
            else:
                self.resumed_from = name
                return state
        return None

    def _check_config(self, config: dict[str, Any]) -> None:
        _, metadata = capture(self.config)
        own = json.loads(metadata["state"])  # as a file returns it: tuples are lists
        differing = sorted(k for k in {*config, *own} if config.get(k) != own.get(k))
        if differing:
            changes = "; ".join(f"{k} was {config.get(k)!r}, is {own.get(k)!r}" for k in differing)
            raise FileFormatError(
                f"{self._path(self.resumed_from)} belongs to another run: {changes}. Use the "
                "options of that run, or another location"
            )

    # -- names of files -----------------------------------------------------------------------

    def _names(self) -> list[str]:
        """The existing checkpoints, the oldest first."""
        return [name for name in self._store.names() if _NAME.fullmatch(name)]

    def _name(self) -> str:
        return f"step-{self.steps:012d}.safetensors"

    def _path(self, name: str | None) -> str:
        return f"{self._store.location}/{name}"

    # -- as a context manager -----------------------------------------------------------------

    def __enter__(self) -> Checkpoints:
        self._depth += 1
        if self._depth == 1:
            self._stack.enter_context(stop_on_signals(self._stop))
            if self.watch_spot:
                self._stack.enter_context(stop_on_spot_notice(self._stop, say))
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._depth -= 1
        if self._depth:
            return
        with self._stack:  # at its end the signal handlers are restored
            if kind is not KeyboardInterrupt:  # a second Ctrl-C: do not wait
                self._finish_writing(report=True)
            if kind is None and self._parts:
                if self._stop.reason is not None:
                    self.save_if_due()
                self.save_at_end()


def say(text: str) -> None:
    """Print one line on standard error."""
    messages.say(f"checkpoints: {text}")


def _versions() -> dict[str, str]:
    """The versions on which the bits of a result depend."""
    loaded = {name: sys.modules.get(name) for name in ("tinynn", "numpy", "cupy")}
    return {name: module.__version__ for name, module in loaded.items() if module is not None}
