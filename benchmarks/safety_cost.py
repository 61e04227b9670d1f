"""Overhead of checkpoints and of the guard against NaN during training.

Alternates training steps of a model with and without them, in one process. Checkpoints are written
to a local folder in the background, as fit() does.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from models import MODELS
from vs_pytorch import positive

import tinynn
from tinynn import functional as F
from tinynn import nn, optim
from tinynn.files import output_file, write_report
from tinynn.messages import show
from tinynn.training import Checkpoints, MetricAccumulator

Step = Callable[[], None]


class Training:
    """A model, an optimizer, and one batch in memory."""

    def __init__(self, name: str, batch: int) -> None:
        tinynn.manual_seed(0)
        model = MODELS[name]
        self.model = model.build(nn)
        self.optimizer = optim.Adam(self.model, 1e-4)
        rng = np.random.default_rng(0)
        self.images = tinynn.tensor(rng.random((batch, *model.shape), dtype=np.float32))
        self.labels = tinynn.tensor(rng.integers(0, model.classes, batch))
        self.meter = MetricAccumulator()

    def plain(self) -> None:
        """A minimal training step."""
        self.optimizer.zero_grad()
        F.cross_entropy(self.model(self.images), self.labels).backward()
        self.optimizer.step()

    def guarded(self) -> None:
        """A step as in fit: metrics are accumulated, and the first NaN stops the updates."""
        self.optimizer.zero_grad()
        logits = self.model(self.images)
        loss = F.cross_entropy(logits, self.labels)
        self.meter.add(loss, logits, self.labels)
        loss.backward()
        self.optimizer.step(skip=self.meter.failed)
        self.meter.check(wait=False)


def seconds(work: Step) -> float:
    """The wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def guard(training: Training, rounds: int) -> dict[str, Any]:
    """Overhead of the guard relative to a plain step: median and quartiles over pairs of steps."""
    training.plain()
    training.guarded()
    pairs = []
    for number in range(rounds):
        order = (training.plain, training.guarded)
        first, second = (seconds(step) for step in (order if number % 2 else order[::-1]))
        pairs.append((first, second) if number % 2 else (second, first))
    ratios = sorted(guarded / plain - 1 for plain, guarded in pairs)
    return {"share": statistics.median(ratios), "quartiles": quartiles(ratios)}


def checkpoints(training: Training, rounds: int, block: int, every: float) -> dict[str, Any]:
    """Time that one checkpoint adds to a block of steps, and its share of the training time."""
    added, plain = [], []
    with tempfile.TemporaryDirectory() as folder, Checkpoints(folder, every=1e9) as saved:
        saved.track(model=training.model, optimizer=training.optimizer)

        def steps() -> None:
            for _ in range(block):
                training.plain()

        def steps_and_checkpoint() -> None:
            saved.every = 0.0  # due at the next step
            training.plain()
            saved.after_step()
            saved.every = 1e9
            for _ in range(block - 1):
                training.plain()
                saved.after_step()

        steps()
        for number in range(rounds):
            both = (steps, steps_and_checkpoint)
            one, other = (seconds(work) for work in (both if number % 2 else both[::-1]))
            without, with_one = (one, other) if number % 2 else (other, one)
            plain.append(without)
            added.append(with_one - without)
        saved.save()
        size = max(path.stat().st_size for path in Path(folder).iterdir())
    step = statistics.median(plain) / block
    extra = statistics.median(added)
    return {
        "bytes": size,
        "steps": extra / step,
        "share": extra / every,
        "quartiles": [value / every for value in quartiles(sorted(added))],
    }


def quartiles(values: list[float]) -> list[float]:
    """The first and the third quartile."""
    cuts = statistics.quantiles(values, n=4) if len(values) > 1 else [values[0]] * 3
    return [cuts[0], cuts[2]]


def main() -> int:
    """Run the benchmark and print its results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--model", choices=[*MODELS], default="face CNN")
    add("--batch", type=positive, default=64, help="batch size")
    add(
        "--rounds",
        type=positive,
        default=40,
        help="pairs of blocks; ten times as many pairs of steps",
    )
    add("--block", type=positive, default=10, help="steps per block")
    add("--every", type=float, default=60.0, help="checkpoint interval in seconds")
    add("--json", type=output_file, metavar="FILE", help="write the results to a file")
    options = parser.parse_args()
    training = Training(options.model, options.batch)
    found = {
        "guard": guard(training, 10 * options.rounds),
        "checkpoint": checkpoints(training, options.rounds, options.block, options.every),
    }
    low, high = found["guard"]["quartiles"]
    show(f"{options.model}, batch {options.batch}, {tinynn.get_num_threads()} threads")
    show(
        f"guard and metrics: {found['guard']['share']:+.2%} of a step, half of the pairs between "
        f"{low:+.2%} and {high:+.2%}"
    )
    cost = found["checkpoint"]
    low, high = cost["quartiles"]
    show(
        f"a checkpoint of {cost['bytes'] / 1e6:.1f} MB takes the time of {cost['steps']:.2f} "
        f"steps: {cost['share']:.3%} of the training time with one every {options.every:g} s, "
        f"half of them between {low:.3%} and {high:.3%}"
    )
    if options.json:
        return write_report(options.json, (json.dumps(found, indent=2) + "\n").encode())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
