"""Callbacks that log training metrics to files.

A file is rewritten atomically after each epoch, from the whole history: after a resume it has
neither gaps nor duplicate lines.
"""

import csv
import io
import json
import os
from collections.abc import Callable
from typing import Any

from tinynn.errors import ArgumentError
from tinynn.files import FilePath, write_atomically
from tinynn.training.state import Callback, TrainingState

__all__ = ["log_csv", "log_json_lines", "log_tensorboard"]

Rows = list[dict[str, float]]


def log_csv(path: FilePath) -> Callback:
    """A CSV table with one row per epoch and a header row."""

    def table(rows: Rows) -> str:
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[-1]), restval="", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()

    return _rewrite(path, table)


def log_json_lines(path: FilePath) -> Callback:
    """One JSON object per line and epoch."""
    return _rewrite(path, lambda rows: "".join(json.dumps(row) + "\n" for row in rows))


def _rewrite(path: FilePath, text: Callable[[Rows], str]) -> Callback:
    def write(event: str, state: TrainingState) -> None:
        if event == "epoch":
            write_atomically(path, text(state.history.rows()).encode())

    return write


def log_tensorboard(folder: FilePath) -> Callback:
    """Scalars for TensorBoard: needs ``pip install -e '.[tensorboard]'``.

    After a resume, TensorBoard hides what an earlier process logged after the checkpoint.
    """
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise ArgumentError("TensorBoard needs pip install -e '.[tensorboard]'") from error
    writer: Any = None

    def write(event: str, state: TrainingState) -> None:
        nonlocal writer
        done = len(state.history.training)
        if event == "start":
            writer = SummaryWriter(os.fspath(folder), purge_step=done + 1 if done else None)
        elif event == "epoch":
            for name, value in state.history.rows()[-1].items():
                if name != "epoch":
                    writer.add_scalar(name.replace("_", "/", 1), value, done)
            writer.flush()
        elif event == "end":
            writer.close()

    return write
