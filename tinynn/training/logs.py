"""Callbacks that write down what ``fit`` measured, for people and for other programs.

A file is written anew after each epoch, whole or not at all, from the history of the run: a run
that was resumed has no gap in it and no line twice.
"""

from __future__ import annotations

import csv
import io
import json
import os
from typing import TYPE_CHECKING, Any

from tinynn.errors import ArgumentError
from tinynn.files import write_atomically

if TYPE_CHECKING:
    from tinynn.training.loop import Callback, Run


def log_csv(path: str | os.PathLike[str]) -> Callback:
    """A table: one line per epoch, the names of the columns in the first."""

    def write(event: str, run: Run) -> None:
        if event == "epoch":
            rows = run.history.rows()
            text = io.StringIO()
            table = csv.DictWriter(text, list(rows[-1]), restval="", extrasaction="ignore")
            table.writeheader()
            table.writerows(rows)
            write_atomically(path, text.getvalue().encode())

    return write


def log_json_lines(path: str | os.PathLike[str]) -> Callback:
    """One JSON object per line and epoch."""

    def write(event: str, run: Run) -> None:
        if event == "epoch":
            lines = [json.dumps(row) + "\n" for row in run.history.rows()]
            write_atomically(path, "".join(lines).encode())

    return write


def log_tensorboard(folder: str | os.PathLike[str]) -> Callback:
    """Scalars for TensorBoard, by its own writer: needs ``pip install -e '.[tensorboard]'``.

    A resumed run hides what an earlier process wrote behind the checkpoint.
    """
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise ArgumentError(
            "log_tensorboard needs tensorboardX: pip install -e '.[tensorboard]'"
        ) from error
    writer: Any = None

    def write(event: str, run: Run) -> None:
        nonlocal writer
        done = len(run.history.training)
        if event == "start":
            writer = SummaryWriter(os.fspath(folder), purge_step=done + 1 if done else None)
        elif event == "epoch":
            for name, value in run.history.rows()[-1].items():
                if name != "epoch":
                    writer.add_scalar(name.replace("_", "/", 1), value, done)
            writer.flush()
        elif event == "end":
            writer.close()

    return write
