"""Logs, histories and learning curves."""

import csv
import json
import math
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.training.scenario import EPOCHS, train
from tinynn.errors import ArgumentError, Interrupted
from tinynn.training import (
    Checkpoints,
    EpochMetrics,
    History,
    TrainingState,
    log_csv,
    log_json_lines,
    log_tensorboard,
    plot_history,
)


def test_a_table(tmp_path: Path) -> None:
    history = train(callbacks=[log_csv(tmp_path / "log.csv")]).history
    with (tmp_path / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert float(rows[1]["validation_correct"]) == history.validation[1].metrics["correct"]
    assert float(rows[2]["training_loss"]) == history.training[2].loss
    assert "learning_rate" in rows[0]


def test_json_lines(tmp_path: Path) -> None:
    history = train(callbacks=[log_json_lines(tmp_path / "log.jsonl")]).history
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert rows == history.rows()


def test_a_resumed_log_has_neither_gaps_nor_duplicates(tmp_path: Path) -> None:
    def end(event: str, state: TrainingState) -> None:
        if event == "step" and state.steps == 8:
            signal.raise_signal(signal.SIGTERM)

    log = log_csv(tmp_path / "log.csv")
    with pytest.raises(Interrupted):
        train(Checkpoints(tmp_path), callbacks=[log, end])
    train(Checkpoints(tmp_path), callbacks=[log])
    train(callbacks=[log_csv(tmp_path / "undisturbed.csv")])
    assert (tmp_path / "log.csv").read_text() == (tmp_path / "undisturbed.csv").read_text()


def test_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    train(callbacks=[log_tensorboard(tmp_path)])
    (events,) = tmp_path.iterdir()
    content = events.read_bytes()
    for name in (b"training/loss", b"validation/accuracy", b"learning/rate"):
        assert content.count(name) == EPOCHS


def test_tensorboard_that_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ArgumentError, match=r"pip install -e '\.\[tensorboard\]'"):
        log_tensorboard(tmp_path)


def test_a_history_comes_back() -> None:
    history = History(
        [EpochMetrics(1.5, 0.5), EpochMetrics(0.5, 1.0)],
        [EpochMetrics(2.0, 0.25, {"auc": 0.7})],
        [0.1, 0.01],
    )
    again = History()
    again.load_state_dict(json.loads(json.dumps(history.state_dict())))
    assert again == history


def test_curves() -> None:
    figure = plot_history(train().history, "Title of $a^$", training="$b_$", validation="test")
    figure.canvas.draw()  # a $ is no formula
    left, right = figure.axes
    assert [line.get_label() for line in left.lines] == ["$b_$", "test"]
    assert len(right.lines[1].get_ydata()) == EPOCHS


def test_plots_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ArgumentError, match="plots need matplotlib"):
        plot_history(History())


class TestEarlyStopping:
    def run(self, losses: list[float], **options: Any) -> tuple[History, np.ndarray, list[Any]]:
        """A training run with given validation losses, and the weights after each epoch."""
        weights: list[np.ndarray] = []
        made_up = iter(losses)

        def pretend(event: str, state: TrainingState) -> None:
            if event == "epoch":
                weights.append(state.model.state_dict()["6.weight"].numpy().copy())

        import tinynn.training.state as state

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(state, "evaluate", lambda *_: EpochMetrics(next(made_up), 0.5))
            trained = train(epochs=len(losses), callbacks=[pretend], **options)
        return trained.history, trained.model.state_dict()["6.weight"].numpy(), weights

    def test_the_best_weights_are_kept(self) -> None:
        history, kept, weights = self.run([3.0, 1.0, 2.0, 4.0], keep_best="loss")
        assert len(history.validation) == 4
        np.testing.assert_array_equal(kept, weights[1])

    def test_the_last_weights_by_default(self) -> None:
        _, kept, weights = self.run([3.0, 1.0, 2.0, 4.0], keep_best=None)
        np.testing.assert_array_equal(kept, weights[3])

    def test_patience(self) -> None:
        history, kept, weights = self.run([3.0, 1.0, 2.0, 4.0, 0.5], keep_best="loss", patience=2)
        assert len(history.validation) == 4
        np.testing.assert_array_equal(kept, weights[1])

    def test_a_metric_without_a_value_does_not_improve(self) -> None:
        values = iter([math.nan, 1.0, math.nan, math.nan, 2.0])
        history = train(
            epochs=5, metrics={"auc": lambda *_: next(values)}, keep_best="auc", patience=2
        ).history
        assert len(history.validation) == 4
        never = {"auc": lambda *_: math.nan}
        history = train(epochs=5, metrics=never, keep_best="auc", patience=2).history
        assert len(history.validation) == 3

    def test_a_run_stopped_early_stays_stopped(self, tmp_path: Path) -> None:
        steps: list[str] = []
        for _ in range(2):
            steps.clear()
            train(
                Checkpoints(tmp_path), epochs=30, patience=1, keep_best="loss",
                callbacks=[lambda event, state: steps.append(event)],
            )  # fmt: skip
        assert steps == ["start", "end"]

    def test_a_callback_may_end_it(self) -> None:
        def enough(event: str, state: TrainingState) -> None:
            if event == "epoch" and state.history.training[-1].loss < 100:
                state.stop = "good enough"

        assert len(train(callbacks=[enough]).history.training) == 1

    def test_an_unknown_metric(self) -> None:
        with pytest.raises(
            ArgumentError, match='keep_best must be "loss" or "accuracy" or "correct", got \'auc\''
        ):
            train(keep_best="auc")

    def test_no_patience(self) -> None:
        with pytest.raises(ArgumentError, match="patience must be an integer >= 1, got 0"):
            train(patience=0)
