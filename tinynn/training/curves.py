"""Learning curves, drawn by matplotlib."""

import math
from collections.abc import Sequence
from typing import Any

from tinynn.errors import ArgumentError
from tinynn.training.epoch_metrics import History

__all__ = ["plot_history"]

BLUE, ORANGE = "#2a6fbb", "#d9731a"


def plot_history(
    history: History, title: str = "", *, training: str = "training", validation: str = "validation"
) -> Any:
    """Plot the loss, and the accuracy if there is one. Needs matplotlib (``'.[examples]'``).

    Args:
        training: Label of the training curves.
        validation: Label of the validation curves.

    Returns:
        A matplotlib Figure; ``savefig`` writes it to a file.
    """
    both = ((history.training, BLUE, training), (history.validation, ORANGE, validation))
    accuracies = any("accuracy" in epoch.named() for epochs, *_ in both for epoch in epochs)
    names = ["loss", "accuracy"] if accuracies else ["loss"]
    figure, panels = new_figure(columns=len(names), width=4.5 * len(names), height=3.4)
    figure.suptitle(title, fontsize=11, parse_math=False)  # a title may contain $
    for axes, name in zip(panels, names, strict=True):
        for epochs, color, label in both:
            values = [epoch.named().get(name, math.nan) for epoch in epochs]
            _line(axes, values, color, label)
        axes.set(xlabel="epoch", ylabel=name)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        for text in axes.legend(frameon=False).get_texts():
            text.set_parse_math(False)
    if panels[0].dataLim.ymin >= 0:
        panels[0].set_ylim(bottom=0)
    if accuracies:
        panels[1].set_ylim(top=1.02)
    return figure


def new_figure(columns: int, width: float, height: float) -> tuple[Any, Any]:
    """A figure on the Agg canvas, which needs no display and no pyplot, and its axes."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ArgumentError("plots need matplotlib: pip install -e '.[examples]'") from error
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, columns, squeeze=False)[0]


def _line(axes: Any, values: Sequence[float], color: str, label: str) -> None:
    if values:
        axes.plot(range(1, len(values) + 1), values, color=color, label=label, linewidth=1.6)
