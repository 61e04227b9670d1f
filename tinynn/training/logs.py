"""Callbacks that log training metrics to files.

A file is rewritten atomically after each epoch, from the whole history: after a resume it has
neither gaps nor duplicate lines. A log that cannot be written is an error before the first step;
later it is reported, and the training continues.
"""

import csv
import io
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tinynn import files
from tinynn.errors import ArgumentError, StorageError
from tinynn.files import FilePath
from tinynn.messages import reason, say
from tinynn.training.state import Callback, TrainingState

__all__ = ["log_csv", "log_json_lines", "log_tensorboard"]

Rows = list[dict[str, float]]
_REMOTE = ("s3://", "gs://")  # of tensorboardX


def log_csv(path: FilePath) -> Callback:
    """A CSV table with one row per epoch and a header row."""

    def table(rows: Rows) -> str:
        text = io.StringIO()
        columns = dict.fromkeys(key for row in reversed(rows) for key in row)
        writer = csv.DictWriter(text, list(columns), restval="")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()

    return _rewrite(path, table)


def log_json_lines(path: FilePath) -> Callback:
    """One JSON object per line and epoch."""
    return _rewrite(path, lambda rows: "".join(json.dumps(row) + "\n" for row in rows))


def _rewrite(path: FilePath, text: Callable[[Rows], str]) -> Callback:
    target = Path(_absolute(path))

    def write(event: str, state: TrainingState) -> None:
        if event == "start":
            with _required(target):
                files.make_folder(target.parent)
                files.check_writable(target)
                if target.is_fifo():
                    raise ArgumentError("it is a pipe, whose reader could stop the training")
        elif event == "epoch":
            with _reported(target):
                files.make_folder(target.parent)
                files.write_atomically(target, text(state.history.rows()).encode())

    return write


def log_tensorboard(folder: FilePath) -> Callback:
    """Scalars for TensorBoard: needs ``pip install -e '.[tensorboard]'``.

    After a resume, TensorBoard hides what an earlier process logged after the checkpoint.
    """
    try:
        from tensorboardX import event_file_writer, summary
        from tensorboardX.proto import event_pb2
    except ImportError as error:
        raise ArgumentError("TensorBoard needs pip install -e '.[tensorboard]'") from error
    target = _absolute(folder, _REMOTE)
    writer: Any = None

    def add(**content: Any) -> None:
        writer.write_event(event_pb2.Event(wall_time=time.time(), **content))

    def write(event: str, state: TrainingState) -> None:
        nonlocal writer
        done = len(state.history.training)
        if event == "start":
            with _required(target):
                if not target.startswith(_REMOTE):
                    files.make_folder(Path(target))
                # a SummaryWriter has a thread that hangs when the disk is full
                writer = event_file_writer.EventsWriter(f"{target}/events")
                if done:  # 1 is START
                    add(step=done + 1, session_log=event_pb2.SessionLog(status=1))
                writer.flush()
        elif event == "epoch":
            with _reported(target):
                for name, value in list(state.history.rows()[-1].items())[1:]:  # without "epoch"
                    add(step=done, summary=summary.scalar(name.replace("_", "/", 1), value))
                writer.flush()
        elif event == "end":
            with _reported(target):
                writer.close()

    return write


def _absolute(path: FilePath, remote: tuple[str, ...] = ()) -> str:
    """The same file after the program has changed its working directory; ~ is home."""
    with _required(path):
        text = files.path_text(path)
        return text if text.startswith(remote) else str(files.local_path(text).absolute())


@contextmanager
def _required(path: FilePath) -> Iterator[None]:
    """Turn a failure into a StorageError that names the log."""
    try:
        yield
    except (OSError, ArgumentError) as error:
        raise StorageError(f"cannot write the log {path}: {reason(error)}") from error


@contextmanager
def _reported(path: FilePath) -> Iterator[None]:
    """Report a failure and continue."""
    try:
        yield
    except Exception as error:
        say(f"log {path} NOT WRITTEN, continuing: {reason(error)}")
