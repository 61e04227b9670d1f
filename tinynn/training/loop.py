"""The training loop.

``fit`` does what a hand-written loop does and owns neither data nor model nor schedule: ``fit`` and
``TrainingState.train_step`` can be copied and changed.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing, nullcontext
from typing import Literal

from tinynn.errors import ArgumentError
from tinynn.nn import Module
from tinynn.optim import Optimizer
from tinynn.training.checkpoints import Checkpoints
from tinynn.training.early_stopping import BestEpoch
from tinynn.training.epoch_metrics import History
from tinynn.training.iteration import counted_steps, pairs, unmoved
from tinynn.training.micro_batches import choose_micro_batch
from tinynn.training.progress import Progress
from tinynn.training.protocols import Loader, LossFunction, Metric, checked_metrics
from tinynn.training.state import Callback, TrainingState

__all__ = ["fit"]


def fit(
    model: Module,
    loader: Loader,
    optimizer: Optimizer,
    loss_function: LossFunction,
    *,
    epochs: int,
    validation: Loader | None = None,
    metrics: Mapping[str, Metric] | None = None,
    micro_batch: int | Literal["auto"] | None = None,
    keep_best: str | None = None,
    patience: int | None = None,
    checkpoints: Checkpoints | None = None,
    callbacks: Sequence[Callback] = (),
    description: str | None = "training",
) -> History:
    """Train ``model`` for ``epochs`` passes over ``loader``; restore its mode at the end.

    Args:
        validation: A loader for validation after each epoch, in evaluation mode.
        metrics: Further validation metrics by name: functions of (logits, labels).
        micro_batch: Accumulate the gradients of a batch over micro-batches of this size. The step
            equals a step with the whole batch up to rounding, except that batch norm normalizes
            each micro-batch by itself. "auto" finds the largest size that fits into memory.
        keep_best: "loss", "accuracy" or the name of a metric. Training ends with the weights of
            the epoch with the smallest loss, or the largest value of any other metric, in
            validation if there is one.
        patience: Early stopping: end after this many epochs without improvement of ``keep_best``
            (default: the loss).
        checkpoints: Where to save and resume, exactly and even within an epoch.
        callbacks: Called as ``callback(event, state)`` with the :class:`TrainingState`; a callback
            that sets ``state.stop`` ends the training after the epoch.
        description: Title of the progress on standard error: a bar on a terminal or in a notebook,
            about ten lines elsewhere. None: no progress.

    Raises:
        NonFiniteError: The loss became infinite or NaN; names layer and step. On a CPU it is
            raised in that step; on a GPU, to avoid synchronization, at the end of the epoch or at
            the next checkpoint. The parameters are still those from before that step.
        Interrupted: ``checkpoints`` received a signal or a preemption notice.

    Example:
        >>> history = fit(model, loader, optim.Adam(model, 1e-3), F.cross_entropy, epochs=10)
    """
    if not isinstance(checkpoints, Checkpoints | None):
        raise ArgumentError(f'checkpoints must be Checkpoints("folder"), got {checkpoints!r:.80}')
    if not (isinstance(callbacks, Iterable) and all(map(callable, callbacks := tuple(callbacks)))):
        raise ArgumentError(f"callbacks must be a sequence of functions, got {callbacks!r:.80}")
    metrics = checked_metrics(metrics)
    metric = "loss" if keep_best is None else keep_best
    best = BestEpoch(metric, patience, keeps_weights=keep_best is not None)
    best.check("loss", "accuracy", *metrics)
    state = TrainingState(
        model, loader, optimizer, loss_function, epochs, validation, metrics, best
    )
    state.micro_batch = choose_micro_batch(micro_batch, model, loader, loss_function)
    with (
        model.in_mode(training=True),
        counted_steps(loader),
        closing(Progress(description)) as progress,
        checkpoints or nullcontext(),
    ):
        callbacks = (progress, *callbacks)
        if checkpoints is not None:
            checkpoints.track(**state.parts())
        with unmoved(loader):
            state.notify("start", callbacks)
        while not state.is_over():
            for images, labels in pairs(loader):
                state.train_step(images, labels)
                state.notify("step", callbacks)
                if checkpoints is not None:
                    checkpoints.after_step()
            state.end_epoch()
            state.notify("epoch", callbacks)
            if checkpoints is not None:
                checkpoints.save_if_due()
        if checkpoints is not None:
            checkpoints.save_at_end()
        best.restore(model)
        state.notify("end", callbacks)
    return state.history
