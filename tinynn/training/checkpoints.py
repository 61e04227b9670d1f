"""Checkpoints: everything that a training needs to go on, saved so that it is never half there."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Protocol

from tinynn.errors import ArgumentError, FileFormatError, Interrupted, StorageError, TinynnError
from tinynn.files import Arrays
from tinynn.training.interruption import StopRequest, stop_on_signals, stop_on_spot_notice
from tinynn.training.packing import capture, pack, unpack
from tinynn.training.store import Store, open_store

EXIT_CODE = 75
"""What a program should exit with after Interrupted: EX_TEMPFAIL of sysexits.h, "try again"."""

_NAME = re.compile(r"step-(\d{12})\.safetensors")


class Part(Protocol):
    """What a checkpoint can hold: a model, an optimizer, a loader, anything with these two."""

    def state_dict(self) -> Mapping[str, Any]:
        """Numbers, strings, lists, dicts and arrays that tell all there is to know."""
        ...

    def load_state_dict(self, state: Any, /) -> None:
        """Be as it was when ``state_dict`` was called."""
        ...


class Checkpoints:
    """Saves what it tracks every few seconds, and gives it back to a later process.

    >>> with Checkpoints("runs/ann", every=60) as checkpoints:
    ...     checkpoints.track(model=model, optimizer=optimizer, loader=loader)
    ...     checkpoints.track(random=tinynn.random.default_generator)
    ...     for _ in range(loader.epoch, 20):
    ...         for images, labels in loader:
    ...             ...  # one step
    ...             checkpoints.after_step()

    ``place`` is a folder or a URL of fsspec ("s3://bucket/run"). A checkpoint is written in the
    background every ``every`` seconds, under a temporary name until it is whole and on the disk,
    with a checksum for each tensor; the last ``keep`` are kept. Within ``with``, SIGTERM and
    Ctrl-C end the training after the step under way: a checkpoint is written and
    :class:`Interrupted` raised (a program exits with ``EXIT_CODE``, 75). ``watch_spot`` does the
    same on the two-minute notice of an AWS spot instance.

    ``resume`` is "auto": go on from the newest good checkpoint, or begin if there is none;
    "never": an error if there is one; or the name of one. A damaged one is named and the one
    before it taken. ``config``, JSON data of your own, must be what it was: the error says what
    differs.
    """

    def __init__(
        self,
        place: str | os.PathLike[str],
        *,
        every: float = 60.0,
        keep: int = 3,
        resume: str = "auto",
        config: Mapping[str, Any] | None = None,
        watch_spot: bool = False,
    ) -> None:
        if not every >= 0 or keep < 1:
            raise ArgumentError(
                f"Checkpoints expects every >= 0 seconds and keep >= 1, got {every} and {keep}"
            )
        self.every, self.keep, self.watch_spot = every, keep, watch_spot
        self.config = dict(config or {})
        self.steps = 0
        """Steps of the whole training so far, those before it was resumed among them."""
        self.resumed_from: str | None = None
        """The name of the checkpoint that this process went on from."""
        self._store: Store = open_store(place)
        self._parts: dict[str, Part] = {}
        self._saved: dict[str, Any] = {}  # of parts that are not tracked yet
        self._stop = StopRequest()
        self._writer: ThreadPoolExecutor | None = None
        self._writing: Future[None] | None = None
        self._depth = 0
        self._stack = ExitStack()
        self._take_up(resume)
        self._last = time.monotonic()

    # -- what is saved ------------------------------------------------------------------------

    def track(self, **parts: Part) -> None:
        """Save these from now on, by name; one that the resumed checkpoint holds gets its state.

        FileFormatError if a state does not fit its part.
        """
        for name, part in parts.items():
            if not (hasattr(part, "state_dict") and hasattr(part, "load_state_dict")):
                raise ArgumentError(
                    f"a checkpoint holds what has state_dict() and load_state_dict(): {name} is "
                    f"{part!r:.60}"
                )
            self._parts[name] = part
            if name in self._saved:
                self._load(name, part, self._saved.pop(name))

    def _load(self, name: str, part: Part, state: Any) -> None:
        try:
            part.load_state_dict(state)
        except (TinynnError, LookupError, TypeError, ValueError, AttributeError) as error:
            raise FileFormatError(
                f"{self._place(self.resumed_from)} cannot be resumed: {name} does not fit "
                f"({type(error).__name__}: {error})"
            ) from error

    # -- when ---------------------------------------------------------------------------------

    def after_step(self) -> None:
        """To be called after every step of the optimizer: saves if it is time.

        Raises Interrupted, after a last checkpoint, when the training was asked to end.
        """
        self.steps += 1
        self.save_if_due()

    def save_if_due(self) -> None:
        """The same where no step was made: after an evaluation, say."""
        if self._stop.reason is not None:
            self.save()
            self._end_if_asked()
        if self._writing is not None and self._writing.done():
            self._finish_writing(complain=True)
        if self._writing is None and time.monotonic() - self._last >= self.every:
            self._start_writing()

    def _end_if_asked(self) -> None:
        if self._stop.reason is not None:
            raise Interrupted(
                f"{self._stop.reason}: ended after step {self.steps}; "
                f"{self._place(self._name())} is written, resume goes on from there"
            )

    def save(self) -> None:
        """Save now, and wait until it is written; StorageError if that fails."""
        self._finish_writing(complain=True)
        self._start_writing()
        self._finish_writing()

    def save_at_end(self) -> None:
        """The same after the last step: a failure is told, the result must not be lost by it."""
        self._finish_writing(complain=True)
        self._start_writing()
        self._finish_writing(complain=True)

    def _start_writing(self) -> None:
        """Copy all states now, and write them in the background: training may go on."""
        if self._saved:
            raise FileFormatError(
                f"{self._place(self.resumed_from)} holds {', '.join(sorted(self._saved))}, which "
                "nothing tracks here: track() them, or begin in another place"
            )
        captured = capture(
            {
                "steps": self.steps,
                "config": self.config,
                "versions": _versions(),
                "parts": {name: part.state_dict() for name, part in self._parts.items()},
            }
        )
        if self._writer is None:
            self._writer = ThreadPoolExecutor(1, thread_name_prefix="tinynn-checkpoint")
        self._writing = self._writer.submit(self._write, self._name(), captured)
        self._last = time.monotonic()

    def _write(self, name: str, captured: tuple[str, Arrays]) -> None:
        self._store.write(name, pack(captured))
        # files behind this one are of a future that was lost: they do not count
        until_now = [other for other in self._names() if other <= name]
        for old in until_now[: -self.keep]:
            self._store.delete(old)

    def _finish_writing(self, complain: bool = False) -> None:
        """Wait for the background; a failure is raised, or told where training can go on."""
        writing, self._writing = self._writing, None
        if writing is None:
            return
        try:
            writing.result()
        except StorageError as error:
            if not complain:
                raise
            say(f"NOT SAVED, going on: {error}")

    # -- resuming -----------------------------------------------------------------------------

    def _take_up(self, resume: str) -> None:
        """Read the checkpoint that ``resume`` names, if there is one."""
        names = self._names()
        if resume == "never" and names:
            raise ArgumentError(
                f"{self._store.place} holds checkpoints already, the last is {names[-1]}: resume "
                "(auto) goes on from it; or name another place"
            )
        if resume not in ("auto", "never"):
            names = [resume]
        state = self._newest_good(names)
        if state is None:
            return
        try:
            self.steps, self._saved = int(state["steps"]), dict(state["parts"])
            config, versions = dict(state["config"]), dict(state["versions"])
        except (LookupError, TypeError, ValueError) as error:
            raise FileFormatError(
                f"{self._place(self.resumed_from)} has a damaged header: {error}"
            ) from error
        self._check_config(config)
        say(f"going on from {self._place(self.resumed_from)}, step {self.steps}")
        other = {k: v for k, v in versions.items() if v != _versions().get(k, v)}
        if other:
            was = ", ".join(f"{name} {version}" for name, version in sorted(other.items()))
            say(f"it was made with {was}: the numbers may differ in the last bits from here on")

    def _newest_good(self, names: list[str]) -> dict[str, Any] | None:
        for name in reversed(names):
            try:
                state = unpack(self._store.read(name), self._place(name))
            except FileFormatError as error:
                if name == names[0]:
                    raise
                say(f"{error}; trying the one before")
            else:
                self.resumed_from = name
                return state
        return None

    def _check_config(self, config: dict[str, Any]) -> None:
        own = unpacked(self.config)
        differing = sorted(k for k in {*config, *own} if config.get(k) != own.get(k))
        if differing:
            changes = "; ".join(f"{k} was {config.get(k)!r}, is {own.get(k)!r}" for k in differing)
            raise FileFormatError(
                f"{self._place(self.resumed_from)} is of another run: {changes}. Repeat the "
                "options of that run, or begin in another place"
            )

    # -- the names of files -------------------------------------------------------------------

    def _names(self) -> list[str]:
        """The checkpoints that are there, the oldest first."""
        return [name for name in self._store.names() if _NAME.fullmatch(name)]

    def _name(self) -> str:
        return f"step-{self.steps:012d}.safetensors"

    def _place(self, name: str | None) -> str:
        return f"{self._store.place}/{name}"

    # -- as a context -------------------------------------------------------------------------

    def __enter__(self) -> Checkpoints:
        self._depth += 1
        if self._depth == 1:
            self._stack.enter_context(stop_on_signals(self._stop))
            if self.watch_spot:
                self._stack.enter_context(stop_on_spot_notice(self._stop, say))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._depth -= 1
        if self._depth:
            return
        try:
            if kind is not KeyboardInterrupt:  # that one ends at once
                self._finish_writing(complain=True)
            if kind is None and self._parts:
                if self._stop.reason is not None:
                    self.save_if_due()
                self.save_at_end()
        finally:
            self._stack.close()
            if self._writer is not None:
                self._writer.shutdown(wait=kind is not KeyboardInterrupt)
                self._writer = None


def unpacked(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration as it comes back from a file: tuples as lists."""
    import json

    copied: dict[str, Any] = json.loads(capture(config)[0])
    return copied


def say(text: str) -> None:
    """One line on the standard error stream, beside a progress bar if there is one."""
    from tqdm import tqdm

    tqdm.write(f"checkpoints: {' '.join(text.split())}", file=sys.stderr)


def _versions() -> dict[str, str]:
    """What decides the bits of a result, besides the device."""
    loaded = {name: sys.modules.get(name) for name in ("tinynn", "numpy", "cupy")}
    return {name: module.__version__ for name, module in loaded.items() if module is not None}
