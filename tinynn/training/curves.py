"""Learning curves, drawn by matplotlib."""

from collections.abc import Sequence
from typing import Any

from tinynn.errors import ArgumentError
from tinynn.training.epoch_metrics import History

__all__ = ["plot_history"]

BLUE, ORANGE = "#2a6fbb", "#d9731a"


def plot_history(
    history: History, title: str = "", *, training: str = "training", validation: str = "validation"
) -> Any:
    """Plot loss and accuracy over the epochs. Needs matplotlib (``'.[examples]'``).

    Args:
        training: Label of the training curves.
        validation: Label of the validation curves.

    Returns:
        A matplotlib Figure; ``savefig`` writes it to a file.
    """
    figure, (left, right) = new_figure(columns=2, width=9.0, height=3.4)
    figure.suptitle(title, fontsize=11)
    for axes, name in ((left, "loss"), (right, "accuracy")):
        _line(axes, [epoch.named()[name] for epoch in history.training], BLUE, training)
        _line(axes, [epoch.named()[name] for epoch in history.validation], ORANGE, validation)
        axes.set(xlabel="epoch", ylabel=name)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    left.set_ylim(bottom=0)
    right.set_ylim(top=1.02)
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
