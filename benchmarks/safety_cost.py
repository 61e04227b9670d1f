"""What safety costs while a network trains: checkpoints, and the guard against NaN.

Steps of the face CNN with and without, by turns in one run. Checkpoints go to a folder of this
machine, in the background, as fit() writes them.
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
from tinynn.training import Checkpoints, MetricAccumulator

Step = Callable[[], None]


class Training:
    """A network, an optimizer, a batch that is there already."""

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
        """A step as one writes it by hand."""
        self.optimizer.zero_grad()
        F.cross_entropy(self.model(self.images), self.labels).backward()
        self.optimizer.step()

    def guarded(self) -> None:
        """A step as in fit: figures are added up, and the first NaN stops the updates."""
        self.optimizer.zero_grad()
        logits = self.model(self.images)
        loss = F.cross_entropy(logits, self.labels)
        self.meter.add(loss, logits, self.labels)
        loss.backward()
        self.optimizer.step(skip=self.meter.failed)
        self.meter.check(wait=False)


def seconds(work: Step) -> float:
    """How long it took."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def guard(training: Training, rounds: int) -> dict[str, Any]:
    """The median of step pairs, as a share of a plain step, with the quartiles."""
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
    """What one checkpoint adds to a block of steps, and its share of a run with one each time."""
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
    """The first and the third."""
    cuts = statistics.quantiles(values, n=4) if len(values) > 1 else [values[0]] * 3
    return [cuts[0], cuts[2]]


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--model", choices=[*MODELS], default="face CNN")
    add("--batch", type=positive, default=64, help="images in a batch")
    add("--rounds", type=positive, default=40, help="pairs of blocks; steps: ten times as many")
    add("--block", type=positive, default=10, help="steps around a checkpoint")
    add("--every", type=float, default=60.0, help="seconds between two checkpoints of a run")
    add("--json", metavar="FILE", help="write the figures to a file")
    options = parser.parse_args()
    training = Training(options.model, options.batch)
    found = {
        "guard": guard(training, 10 * options.rounds),
        "checkpoint": checkpoints(training, options.rounds, options.block, options.every),
    }
    low, high = found["guard"]["quartiles"]
    print(f"{options.model}, batch {options.batch}, {tinynn.get_num_threads()} threads")
    print(
        f"guard and figures: {found['guard']['share']:+.2%} of a step, half of the pairs between "
        f"{low:+.2%} and {high:+.2%}"
    )
    cost = found["checkpoint"]
    low, high = cost["quartiles"]
    print(
        f"a checkpoint of {cost['bytes'] / 1e6:.1f} MB takes the time of {cost['steps']:.2f} "
        f"steps: {cost['share']:.3%} of the run with one every {options.every:g} s, half of them "
        f"between {low:.3%} and {high:.3%}"
    )
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
