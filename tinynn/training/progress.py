"""What a person sees while a network trains."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tinynn.training.history import History

if TYPE_CHECKING:
    from tinynn.training.loop import Run


@contextmanager
def progress(description: str | None) -> Iterator[Progress]:
    """A callback that shows how far the training is: nothing without a description."""
    shown = Progress(description)
    try:
        yield shown
    finally:
        shown.close()


class Progress:
    """A bar on a terminal and in a notebook; elsewhere a plain line for each tenth of the way."""

    def __init__(self, description: str | None) -> None:
        self.title = description
        self._bar: Any = None

    def __call__(self, event: str, run: Run) -> None:
        """The callback."""
        if self.title is None:
            return
        if event == "start" and shows_bars():
            self._bar = _bar_class()(
                total=run.epochs * len(run.loader),
                initial=len(run.history.training) * len(run.loader) + run.position,
                desc=self.title,
            )
        elif event == "step" and self._bar is not None:
            self._bar.update()
        elif event == "epoch":
            self._after_epoch(run)

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.close()

    def _after_epoch(self, run: Run) -> None:
        text, epoch = in_words(run.history), len(run.history.training)
        if self._bar is not None:
            self._bar.set_postfix_str(text)
        elif epoch % math.ceil(run.epochs / 10) == 0 or epoch == run.epochs:
            sys.stderr.write(f"{self.title}: epoch {epoch}/{run.epochs}, {text}\n")


def shows_bars() -> bool:
    """Whether somebody can see a bar grow."""
    return sys.stderr.isatty() or _in_notebook()


def in_words(history: History) -> str:
    """The figures of the last epoch."""
    loss, right, _ = history.training[-1]
    text = f"loss {loss:.3f}, accuracy {right:.1%}"
    if history.validation:
        text += f", validation {history.validation[-1].accuracy:.1%}"
        text += "".join(f", {k} {v:.3f}" for k, v in history.validation[-1].metrics.items())
    return text


def _in_notebook() -> bool:
    shell: Any = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return getattr(shell, "kernel", None) is not None


def _bar_class() -> Any:
    from importlib.util import find_spec

    if _in_notebook() and find_spec("ipywidgets") is not None:
        from tqdm.notebook import tqdm as notebook_bar

        return notebook_bar
    from tqdm import tqdm

    return tqdm
