"""How fast tinynn is next to PyTorch on this machine's CPU, in one run, side by side.

Each library works in a process of its own and the two take turns, so that whatever else the machine
does slows both. What counts is the ratio of the medians. Needs the `bench` extra (PyTorch).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

Work = Callable[[], None]


def face_cnn(nn: Any) -> Any:
    """The face CNN from the layers of either library: their names and arguments are the same."""
    layers: list[Any] = []
    for inputs, outputs in ((3, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding="same"), nn.ReLU(), nn.MaxPool2d(2)]
    head = [nn.Flatten(), nn.Linear(6 * 6 * 64, 128), nn.ReLU(), nn.Linear(128, 2)]
    return nn.Sequential(*layers, *head)


def training_step(model: Any, optimizer: Any, functional: Any, images: Any, labels: Any) -> Work:
    """One step of training, as a user of either library writes it."""

    def train() -> None:
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()

    return train


def inference(model: Any, no_grad: Callable[[], Any], images: Any) -> Work:
    """One pass without gradients."""

    def infer() -> None:
        with no_grad():
            model(images)

    return infer


def tinynn_work(batch: int, training: bool, threads: int) -> Work:
    """The face CNN in tinynn."""
    import numpy as np

    import tinynn
    from tinynn import functional as F
    from tinynn import nn, optim

    tinynn.set_num_threads(threads)
    model = face_cnn(nn).train(training)
    rng = np.random.default_rng(0)
    images = tinynn.from_numpy(rng.random((batch, 48, 48, 3), dtype=np.float32))
    if not training:
        return inference(model, tinynn.no_grad, images)
    labels = tinynn.from_numpy(rng.integers(0, 2, batch))
    optimizer = optim.SGD(model, learning_rate=0.01, momentum=0.9)
    return training_step(model, optimizer, F, images, labels)


def torch_work(batch: int, training: bool, threads: int, channels_last: bool) -> Work:
    """The same network in PyTorch."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = face_cnn(nn).train(training)
    images, labels = torch.rand(batch, 3, 48, 48), torch.randint(0, 2, (batch,))
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
        images = images.to(memory_format=torch.channels_last)
    if not training:
        return inference(model, torch.no_grad, images)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    return training_step(model, optimizer, F, images, labels)


def worker(pipe: Connection, build: Callable[..., Work], arguments: tuple[Any, ...]) -> None:
    """Answer every number of steps with the seconds that they took."""
    work = build(*arguments)
    while steps := pipe.recv():
        start = time.perf_counter()
        for _ in range(steps):
            work()
        pipe.send((time.perf_counter() - start) / steps)


class Side:
    """A library in a process of its own, with as many threads as it was told."""

    def __init__(self, build: Callable[..., Work], arguments: tuple[Any, ...]) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=worker, args=(other, build, arguments), daemon=True)
        self.process.start()

    def run(self, steps: int) -> float:
        """Seconds a step."""
        self.pipe.send(steps)
        seconds: float = self.pipe.recv()
        return seconds

    def stop(self) -> None:
        """End the process."""
        self.pipe.send(0)
        self.process.join()


def compare(batch: int, training: bool, threads: int, rounds: int) -> dict[str, Any]:
    """Images a second of each side, from turns that alternate."""
    shared = (batch, training, threads)
    sides = {
        "tinynn": Side(tinynn_work, shared),
        "torch default": Side(torch_work, (*shared, False)),
        "torch channels_last": Side(torch_work, (*shared, True)),
    }
    for side in sides.values():
        side.run(3)  # warm-up
    steps = max(1, round(0.15 / sides["tinynn"].run(2)))
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            seconds[name].append(side.run(steps))
    for side in sides.values():
        side.stop()
    return {
        "model": "face CNN",
        "work": "training" if training else "inference",
        "batch": batch,
        "threads": threads,
        "rounds": rounds,
        "images_per_second": {n: batch / statistics.median(s) for n, s in seconds.items()},
        "spread": {n: quartile_spread(s) for n, s in seconds.items()},
    }


def quartile_spread(seconds: list[float]) -> float:
    """The distance of the quartiles in parts of the median."""
    low, middle, high = statistics.quantiles(seconds, n=4)
    return (high - low) / middle


def table(results: list[dict[str, Any]]) -> str:
    """Ratios for people."""
    names = list(results[0]["images_per_second"])
    head = f"{'':30}{'tinynn / torch':>16}  " + "".join(f"{name:>26}" for name in names)
    lines = [head, f"{'':30}{'(better form)':>16}  " + f"{'images/s (spread)':>26}" * len(names)]
    for result in results:
        speed = result["images_per_second"]
        ratio = speed["tinynn"] / max(v for n, v in speed.items() if n != "tinynn")
        title = f"{result['work']}, batch {result['batch']}, {result['threads']} threads"
        cells = "".join(f"{speed[n]:>16,.0f} (±{result['spread'][n] / 2:>5.0%})" for n in names)
        lines.append(f"{title:30}{ratio:>16.2f}  {cells}")
    return "\n".join(lines)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--batch", type=int, nargs="+", default=[64], help="images in a batch")
    parser.add_argument("--threads", type=int, nargs="+", default=[cores], help="CPU threads")
    parser.add_argument("--rounds", type=int, default=15, help="turns of each side")
    parser.add_argument(
        "--work", nargs="+", choices=("training", "inference"), default=["training", "inference"]
    )
    parser.add_argument("--json", metavar="FILE", help="write the figures to a file")
    return parser.parse_args()


def main() -> int:
    """Measure what was asked for and print a table."""
    arguments = parse_arguments()
    try:
        import torch  # noqa: F401
    except ImportError:
        print("PyTorch is not installed: pip install -e '.[bench]'", file=sys.stderr)
        return 2
    results = [
        compare(batch, work == "training", threads, arguments.rounds)
        for work in arguments.work
        for threads in arguments.threads
        for batch in arguments.batch
    ]
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    packages = {name: version(name) for name in ("numpy", "torch")}
    print(f"face CNN, float32, {machine}, {packages}; medians of {arguments.rounds} turns")
    print(table(results))
    if arguments.json:
        figures = {"machine": machine, "versions": packages, "results": results}
        Path(arguments.json).write_text(json.dumps(figures, indent=2), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
