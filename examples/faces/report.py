"""Results of an experiment as files: ``report.json`` and PNG images."""

from __future__ import annotations

import atexit
import io
import json
import math
import os
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tinynn.errors import DataError
from tinynn.files import write_atomically
from tinynn.messages import printable
from tinynn.training import History, plot_history
from tinynn.training.curves import new_figure

LONGEST_LABEL = 30  # characters

# -- files -----------------------------------------------------------------------------------------


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON.

    Names of files are decoded by ``os.fsdecode``; bytes that are not UTF-8 become escaped
    surrogates, of which ``os.fsencode`` makes the same bytes again.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    write_atomically(path, (text + "\n").encode(errors="backslashreplace"))


def curve(history: History) -> dict[str, list[float | None]]:
    """Loss and accuracy as lists with one value per epoch, for ``report.json``; None for NaN."""
    lists: dict[str, list[float | None]] = {}
    for name, epochs in (("training", history.training), ("validation", history.validation)):
        if epochs:
            lists[f"{name}_loss"] = [_rounded(metrics.loss) for metrics in epochs]
            lists[f"{name}_accuracy"] = [_rounded(metrics.accuracy) for metrics in epochs]
    return lists


def _rounded(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None


# -- pictures --------------------------------------------------------------------------------------


def png(photo: npt.NDArray[np.uint8]) -> bytes:
    """Encode ``photo``, uint8 (H, W, 1) or (H, W, 3), as PNG."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(photo[:, :, 0] if photo.shape[2] == 1 else photo).save(file, "PNG")
    return file.getvalue()


def plot_curves(history: History, title: str) -> bytes:
    """Plot loss and accuracy over the epochs, as PNG."""
    return _encoded(
        plot_history(history, title, training="training (augmented)", validation="test")
    )


def plot_confusion(matrix: npt.NDArray[np.int64], people: Sequence[str]) -> bytes:
    """Plot the confusion matrix, as PNG: one row per true and one column per predicted person."""
    size = min(9.0, 2.4 + 0.17 * len(people))
    figure, (axes,) = new_figure(columns=1, width=size, height=size)
    axes.imshow(matrix, cmap="Blues", vmin=0)
    fontsize = 7 if len(people) > 10 else 10
    names = [_label(name) for name in people]
    text = {"fontsize": fontsize, "parse_math": False}  # a name may contain $
    axes.set_xticks(range(len(people)), names, rotation=90, **text)
    axes.set_yticks(range(len(people)), names, **text)
    axes.set(xlabel="predicted person", ylabel="true person")
    for row, column in zip(*np.nonzero(matrix), strict=True):
        count = int(matrix[row, column])
        color = "white" if count > matrix.max() / 2 else "black"
        style = {"ha": "center", "va": "center", "fontsize": fontsize, "color": color}
        axes.text(column, row, str(count), **style)
    return _encoded(figure)


def prepare_plots(folder: Path) -> None:
    """Draw a first plot, so that what keeps matplotlib from it is reported before training.

    Without a home, or a directory for temporary files, its caches are in ``folder``.
    """
    try:
        Path.home()
        tempfile.gettempdir()
    except (RuntimeError, OSError):
        caches = tempfile.mkdtemp(prefix=".matplotlib-", dir=folder)
        atexit.register(shutil.rmtree, caches, ignore_errors=True)
        os.environ["MPLCONFIGDIR"] = caches
    try:
        plot_confusion(np.eye(2, dtype=np.int64), ("a", "b"))
    except Exception as error:  # of its settings or its fonts
        raise DataError(f"matplotlib cannot draw: {error}") from error


def _label(name: str) -> str:
    shown = printable(name)
    return shown if len(shown) <= LONGEST_LABEL else shown[: LONGEST_LABEL - 1] + "…"


def _encoded(figure: Any) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of characters that the font lacks
        figure.savefig(file, format="png", dpi=130)
    return file.getvalue()
