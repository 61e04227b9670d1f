"""Throughput of tinynn relative to PyTorch on the CPU of this machine.

Each library runs in its own process and they alternate, so that other load on the machine affects
all of them equally. PyTorch is measured in its default memory format and in channels_last; the
ratio refers to the faster of the two. Requires the `bench` extra (PyTorch).
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from models import MODELS, Model, one_convolution

from tinynn.files import output_file, write_report
from tinynn.messages import say, show

Work = Callable[[], None]
SIDES = ("tinynn", "torch default", "torch channels_last")


class Case(NamedTuple):
    """A workload that all sides run."""

    model: str
    batch: int
    training: bool
    threads: int
    sweep: tuple[int, int, int, int] | None = None  # size, inputs, outputs, kernel

    @property
    def network(self) -> Model:
        """The named network, or the single convolution of a sweep."""
        return MODELS[self.model] if self.sweep is None else one_convolution(*self.sweep)

    @property
    def title(self) -> str:
        """The row label in the table."""
        work = "training" if self.training else "inference"
        return f"{self.model}, {work}, batch {self.batch}, {_threads(self.threads)}"


def _threads(count: int) -> str:
    return f"{count} thread{'s' * (count != 1)}"


# -- in each process ------------------------------------------------------------------------------


def training_step(model: Any, optimizer: Any, functional: Any, images: Any, labels: Any) -> Work:
    """One training step, as a user of either library writes it."""

    def train() -> None:
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()

    return train


def inference(model: Any, no_grad: Callable[[], Any], images: Any) -> Work:
    """One forward pass without gradients."""

    def infer() -> None:
        with no_grad():
            model(images)

    return infer


def tinynn_work(case: Case) -> Work:
    """The workload in tinynn."""
    import numpy as np

    import tinynn
    from tinynn import functional as F
    from tinynn import nn, optim

    tinynn.set_num_threads(case.threads)
    tinynn.manual_seed(0)
    build, shape, classes = case.network
    model = build(nn).train(case.training)
    rng = np.random.default_rng(0)
    images = tinynn.from_numpy(rng.random((case.batch, *shape), dtype=np.float32))
    if not case.training:
        return inference(model, tinynn.no_grad, images)
    labels = tinynn.from_numpy(rng.integers(0, classes, case.batch))
    optimizer = optim.SGD(model, learning_rate=0.01, momentum=0.9)
    return training_step(model, optimizer, F, images, labels)


def torch_work(case: Case, channels_last: bool) -> Work:
    """The workload in PyTorch."""
    import warnings

    import torch
    from torch import nn
    from torch.nn import functional as F

    warnings.filterwarnings("ignore", message="Using padding='same'")
    torch.set_num_threads(case.threads)
    torch.manual_seed(0)
    build, shape, classes = case.network
    model = build(nn).train(case.training)
    images = torch.rand(case.batch, *shape[2:], *shape[:2])
    if channels_last and images.ndim == 4:
        model = model.to(memory_format=torch.channels_last)
        images = images.to(memory_format=torch.channels_last)
    if not case.training:
        return inference(model, torch.no_grad, images)
    labels = torch.randint(0, classes, (case.batch,))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    return training_step(model, optimizer, F, images, labels)


def resident(field: str = "VmRSS") -> int | None:
    """Resident memory of this process in bytes (VmHWM: peak so far); None except on Linux."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(field)), None)


def worker(pipe: Connection, side: str, case: Case) -> None:
    """Send the peak memory of the first steps, then seconds per step for each number of steps."""
    if side == "tinynn":
        import tinynn.nn  # noqa: F401, the memory of the library itself is not counted
    else:
        import torch  # noqa: F401
    before = resident()
    work = tinynn_work(case) if side == "tinynn" else torch_work(case, side.endswith("last"))
    for _ in range(3):
        work()
    peak = resident("VmHWM")
    pipe.send(None if before is None or peak is None else peak - before)
    while steps := pipe.recv():
        start = time.perf_counter()
        for _ in range(steps):
            work()
        pipe.send((time.perf_counter() - start) / steps)


# -- alternation ----------------------------------------------------------------------------------


class Side:
    """A library in its own process."""

    def __init__(self, name: str, case: Case) -> None:
        self.name = name
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=worker, args=(other, name, case), daemon=True)
        self.process.start()
        other.close()
        self.peak: int | None = self._receive()

    def run(self, steps: int) -> float:
        """Seconds per step."""
        self.pipe.send(steps)
        return float(self._receive())

    def _receive(self) -> Any:
        try:
            return self.pipe.recv()
        except EOFError:
            self.process.join()
            raise SystemExit(f"{self.name}: exit code {self.process.exitcode}") from None

    def stop(self) -> None:
        """End the process."""
        self.pipe.send(0)
        self.process.join()


def compare(case: Case, rounds: int) -> dict[str, Any]:
    """Throughput and peak memory of each side, measured in alternating rounds."""
    names = SIDES if len(case.network.shape) == 3 else SIDES[:2]
    sides = {name: Side(name, case) for name in names}
    steps = {name: max(1, round(0.12 / side.run(2))) for name, side in sides.items()}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            seconds[name].append(side.run(steps[name]))
    for side in sides.values():
        side.stop()
    theirs = [seconds[name] for name in names[1:]]
    by_round = [
        min(others) / ours for ours, *others in zip(seconds["tinynn"], *theirs, strict=True)
    ]
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    peaks = {name: side.peak for name, side in sides.items()}
    return {
        **case._asdict(),
        "title": case.title,
        "rounds": rounds,
        "seconds": medians,
        "images_per_second": {name: case.batch / value for name, value in medians.items()},
        "spread": {name: quartile_spread(values) for name, values in seconds.items()},
        "ratio": min(medians[name] for name in names[1:]) / medians["tinynn"],
        "ratio_quartiles": quartiles(by_round)[::2],
        "peak_bytes": peaks,
        "memory_ratio": memory_ratio(peaks),
    }


def memory_ratio(peaks: dict[str, int | None]) -> float | None:
    """Peak memory of PyTorch, in its smaller memory format, relative to tinynn."""
    theirs = [peak for name, peak in peaks.items() if name != "tinynn" and peak]
    return min(theirs) / peaks["tinynn"] if theirs and peaks["tinynn"] else None


def quartiles(values: list[float]) -> list[float]:
    """The three quartiles; a single value is repeated."""
    return statistics.quantiles(values, n=4) if len(values) > 1 else values * 3


def quartile_spread(seconds: list[float]) -> float:
    """The interquartile range relative to the median."""
    low, middle, high = quartiles(seconds)
    return (high - low) / middle


# -- output ---------------------------------------------------------------------------------------

_HEAD = ("ratio", "quartiles", "memory", "tinynn", "torch", "channels_last")


def line(result: dict[str, Any]) -> str:
    """A table row: speedup with quartiles, ratio of peak memory, throughputs."""
    low, high = result["ratio_quartiles"]
    memory = result["memory_ratio"]
    speeds = result["images_per_second"]
    cells = [f"{result['ratio']:.2f}", f"{low:.2f}-{high:.2f}", f"{memory:.1f}" if memory else "-"]
    cells += [f"{speeds[name]:,.0f}" if name in speeds else "-" for name in SIDES]
    return f"{result['title']:60}" + "".join(f"{cell:>14}" for cell in cells)


def head() -> str:
    """The table heading."""
    return f"{'images/s; ratio: throughput relative to PyTorch':60}" + "".join(
        f"{name:>14}" for name in _HEAD
    )


def plot(results: list[dict[str, Any]], path: Path, title: str) -> int:
    """A bar per case, with the quartiles over the rounds; returns an exit code."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 0.36 * len(results) + 1.6), layout="constrained")
    axes = figure.subplots()
    ratios = [result["ratio"] for result in results]
    errors = [
        [max(0.0, r["ratio"] - r["ratio_quartiles"][0]) for r in results],
        [max(0.0, r["ratio_quartiles"][1] - r["ratio"]) for r in results],
    ]
    colors = ["#2a7f62" if ratio >= 1 else "#b5523b" for ratio in ratios]
    axes.barh([r["title"] for r in results], ratios, xerr=errors, color=colors)
    axes.axvline(1, color="black", linewidth=1)
    axes.invert_yaxis()
    axes.set_xlabel("throughput relative to PyTorch (faster memory format)")
    axes.set_title(title, fontsize=10)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix.lstrip(".") or "png", dpi=120)
    return write_report(path, buffer.getvalue())


# -- cases ----------------------------------------------------------------------------------------

_SWEEPS = {
    "batch": [(n, (24, 16, 32, 3)) for n in (1, 4, 16, 64, 256)],
    "image size": [(16, (size, 16, 32, 3)) for size in (8, 16, 32, 64, 128)],
    "channels": [(16, (24, c, c, 3)) for c in (4, 16, 64, 128, 256)],
    "kernel": [(16, (32, 16, 32, k)) for k in (1, 3, 5, 7, 9, 11)],
}


def swept(batch: int, sizes: tuple[int, int, int, int], threads: int) -> Case:
    """A single convolution of a sweep."""
    size, inputs, outputs, kernel = sizes
    name = f"{kernel}x{kernel}, {inputs} to {outputs}, {size}x{size} pixels"
    return Case(name, batch, True, threads, sizes)


def cases(arguments: argparse.Namespace) -> Iterator[Case]:
    """All cases selected on the command line."""
    for threads in arguments.threads:
        for name in arguments.models:
            for work in arguments.work:
                for batch in arguments.batch:
                    yield Case(name, batch, work == "training", threads)
        for axis in arguments.sweep:
            yield from (swept(batch, sizes, threads) for batch, sizes in _SWEEPS[axis])


def positive(text: str) -> int:
    """An integer >= 1, for argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected an integer >= 1, got {text}")
    return value


def plot_file(text: str) -> Path:
    """A file for a plot, for argparse."""
    path = output_file(text)
    if path.suffix not in ("", ".png", ".svg", ".pdf"):
        raise argparse.ArgumentTypeError(f"plots are .png, .svg or .pdf, got {path.name!r}")
    if find_spec("matplotlib") is None:
        raise argparse.ArgumentTypeError("requires matplotlib: pip install -e '.[bench]'")
    return path


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse and check the command line."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--models", nargs="*", choices=[*MODELS], default=[*MODELS], help="networks to run")
    add("--batch", type=positive, nargs="+", default=[1, 32, 64, 256], help="batch sizes")
    add("--threads", type=positive, nargs="+", default=sorted({1, cores}), help="CPU threads")
    add("--work", nargs="+", choices=("training", "inference"), default=["training", "inference"])
    add("--sweep", nargs="+", choices=[*_SWEEPS], default=[], help="sweeps of one convolution")
    add("--rounds", type=positive, default=9, help="rounds per side")
    add("--quick", action="store_true", help="only the face CNN, batch 8, two rounds")
    add("--json", type=output_file, metavar="FILE", help="write the results as JSON")
    add("--plot", type=plot_file, metavar="FILE", help="plot the ratios (requires matplotlib)")
    parsed = parser.parse_args(arguments)
    if parsed.quick:
        parsed.models, parsed.batch, parsed.rounds = ["face CNN"], [8], 2
    return parsed


def main() -> int:
    """Measure all cases and print each row as soon as it is complete."""
    arguments = parse_arguments()
    try:
        import torch  # noqa: F401
    except ImportError:
        say("PyTorch is not installed: pip install -e '.[bench]'")
        return 2
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    packages = {name: version(name) for name in ("numpy", "torch")}
    title = f"float32, {machine}, " + ", ".join(f"{n} {v}" for n, v in packages.items())
    show(f"{title}; medians of {arguments.rounds} rounds\n{head()}")
    results, code = [], 0
    for case in cases(arguments):
        results.append(compare(case, arguments.rounds))
        show(line(results[-1]))
        if arguments.json:
            contents = {"machine": machine, "versions": packages, "results": results}
            code = write_report(arguments.json, json.dumps(contents, indent=1).encode())
    if arguments.plot and results:
        code = plot(results, arguments.plot, title) or code
    return code


if __name__ == "__main__":
    sys.exit(main())
