"""Progress on standard error while a network trains."""

import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from typing import Any, TypeVar

from tinynn.messages import TERMINAL, is_descriptor, say
from tinynn.training.epoch_metrics import History
from tinynn.training.state import TrainingState

_T = TypeVar("_T")


class Progress:
    """A callback: a bar on a terminal or in a notebook, elsewhere a line per tenth of the epochs.

    Without a title it shows nothing. It never stops the training: what cannot be shown is not.
    """

    def __init__(self, title: str | None) -> None:
        self.title = title
        self._bar: Any = None

    def __call__(self, event: str, state: TrainingState) -> None:
        """Show the event."""
        if self.title is not None:
            with suppress(Exception):
                self._show(event, state)

    def close(self) -> None:
        """Leave the bar in its last state."""
        if self._bar is not None:
            with suppress(Exception):
                self._bar.close()

    def _show(self, event: str, state: TrainingState) -> None:
        if event == "start":
            batches = len(state.loader)
            done = len(state.history.training) * batches + state.position
            self._bar = _bar(self.title, state.epochs * batches, done)
        elif event == "step" and self._bar is not None:
            self._bar.update()
        elif event == "epoch":
            self._after_epoch(state)

    def _after_epoch(self, state: TrainingState) -> None:
        text, epoch = last_metrics(state.history), len(state.history.training)
        if self._bar is not None:
            self._bar.set_postfix_str(text)
        elif epoch % math.ceil(state.epochs / 10) == 0 or epoch == state.epochs:
            say(f"{self.title}: epoch {epoch}/{state.epochs}, {text}")


def track(items: Sequence[_T], title: str) -> Iterator[_T]:
    """The items, with a bar on a terminal or in a notebook; it never stops the loop."""
    bar: Any = None
    with suppress(Exception):
        bar = _bar(title, len(items))
    try:
        for item in items:
            yield item
            with suppress(Exception):  # also if there is no bar
                bar.update()
    finally:
        with suppress(Exception):
            bar.close()


def _bar(title: str | None, total: int, done: int = 0) -> Any:
    """A bar of tqdm; None if it could not be seen."""
    if not (sys.stderr.isatty() or _in_notebook()):
        return None
    # tqdm.auto would warn in a notebook without ipywidgets
    widgets = _in_notebook() and find_spec("ipywidgets") is not None
    return import_module("tqdm.notebook" if widgets else "tqdm").tqdm(
        total=total, initial=done, desc=title, file=TERMINAL if is_descriptor() else None
    )


def last_metrics(history: History) -> str:
    """The metrics of the last epoch in one line."""
    text = _described(history.training[-1].named())
    if history.is_validated(len(history.training)):
        measured = history.validation[-1].named()
        if "accuracy" in measured:
            del measured["loss"]
        text += f", validation {_described(measured).removeprefix('accuracy ')}"
    return text


def _described(values: dict[str, float]) -> str:
    percent = {"accuracy": ".1%"}
    return ", ".join(f"{name} {value:{percent.get(name, '.3f')}}" for name, value in values.items())


def _in_notebook() -> bool:
    shell: Any = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return getattr(shell, "kernel", None) is not None
