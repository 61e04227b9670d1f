"""Profile one step on a CPU: time by layer and by function, relative to the limits of the machine.

The limits are measured in the same run: the peak of matrix products and the bandwidth of copies.
With --calls, count Python function calls instead: the interpreter's overhead of an operation.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import numpy as np
from models import MODELS
from threadpoolctl import threadpool_limits
from vs_pytorch import inference, positive, training_step

import tinynn
from tinynn import functional as F
from tinynn import nn, optim
from tinynn.files import output_file, write_report
from tinynn.messages import show


def count_calls(work: Callable[[], object]) -> int:
    """Python function calls of one run, after three for warm-up; the same in every run.

    Comprehensions and generator expressions do not count: newer versions of Python inline them.
    """
    for _ in range(3):
        work()
    count = -1  # ``work`` itself

    def profile(frame: FrameType, event: str, argument: object) -> None:
        nonlocal count
        name = frame.f_code.co_name
        count += event == "call" and (name[0] != "<" or name == "<lambda>")

    gc.disable()  # it may call Python functions, at any time
    sys.setprofile(profile)
    try:
        work()
    finally:
        sys.setprofile(None)
        gc.enable()
    return count


def operations() -> dict[str, Callable[[], object]]:
    """Small operations, dominated by interpreter overhead."""
    rng = np.random.default_rng(0)

    def leaf(*shape: int) -> tinynn.Tensor:
        return tinynn.tensor(rng.standard_normal(shape).astype("float32"), requires_grad=True)

    a, b, x, weight = leaf(3), leaf(3), leaf(2, 8, 8, 3), leaf(3, 3, 3, 4)
    gradient = tinynn.ones((2, 6, 6, 4))
    layer, rows = nn.Linear(6, 8), leaf(5, 6)
    optimizer = optim.SGD(layer, 0.1, momentum=0.9)
    layer(rows).sum().backward()

    def convolve() -> None:
        x.grad = weight.grad = None
        F.conv2d(x, weight).backward(gradient)

    return {
        "a + b": lambda: a + b,
        "conv2d forward and backward": convolve,
        "Linear forward": lambda: layer(rows),
        "SGD step": optimizer.step,
    }


def print_calls() -> None:
    """One row for each operation."""
    tinynn.set_num_threads(1)  # all calls on the thread that counts
    for name, work in operations().items():
        show(f"{name:32}{count_calls(work):6} Python calls")


def seconds_of(work: Callable[[], object], turns: int = 5) -> float:
    """The median time of some runs, after one for warm-up."""
    work()
    times = []
    for _ in range(turns):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def limits(threads: int) -> dict[str, float]:
    """Multiply-adds per second of a large matrix product, bytes per second of a large copy."""
    side, size = 1536, 1 << 24
    a = np.ones((side, side), np.float32)
    product, source = np.empty_like(a), np.ones(size, np.float32)
    target = np.empty_like(source)
    with threadpool_limits(threads, user_api="blas"):
        matmul = seconds_of(lambda: np.matmul(a, a, out=product))
    copy = seconds_of(lambda: np.copyto(target, source))
    return {"multiply_adds": side**3 / matmul, "copied_bytes": 2 * source.nbytes / copy}


def rows_of(trace: tinynn.Trace, steps: int, work: dict[str, int]) -> list[dict[str, Any]]:
    """Layer, function, seconds per step, and multiply-adds where they are known.

    A backward pass counts twice, for the gradients of input and weight; the first layer counts
    once, because the gradient of the images is not computed.
    """
    first = next((path for path, count in work.items() if count), None)
    rows = []
    for (layer, function), totals in trace.rows.items():
        seconds = (totals.seconds or 0.0) / steps
        path = layer.split(" ")[0].split("..")[0]
        passes = 1 if not function.endswith("backward") or path == first else 2
        counted = work.get(path, 0) * passes if _multiplies(function) else 0
        rows.append(
            {"layer": layer, "function": function, "seconds": seconds, "multiply_adds": counted}
        )
    return sorted(rows, key=lambda row: -row["seconds"])


def _multiplies(function: str) -> bool:
    return function.startswith(("conv", "linear", "matmul"))


def table(rows: list[dict[str, Any]], peak: float, most: int) -> str:
    """The rows that took longest, and the sums by function."""
    total = sum(row["seconds"] for row in rows)
    lines = [f"{'layer':34}{'function':34}{'ms':>8}{'share':>8}{'of peak':>13}"]
    lines += [
        f"{row['layer'][:33]:34}{row['function']:34}" + _columns(row, total, peak)
        for row in rows[:most]
    ]
    if rows[most:]:
        rest = sum(row["seconds"] for row in rows[most:])
        lines.append(f"{f'{len(rows) - most} more':68}" + _columns({"seconds": rest}, total, peak))
    lines += ["", f"{'function':68}{'ms':>8}{'share':>8}{'of peak':>13}"]
    kinds: dict[str, dict[str, float]] = {}
    for row in rows:
        kind = kinds.setdefault(row["function"], {"seconds": 0.0, "multiply_adds": 0})
        kind["seconds"] += row["seconds"]
        kind["multiply_adds"] += row["multiply_adds"]
    for name, kind in sorted(kinds.items(), key=lambda item: -item[1]["seconds"]):
        if kind["seconds"] >= 0.005 * total:
            lines.append(f"{name:68}" + _columns(kind, total, peak))
    return "\n".join(lines)


def _columns(row: dict[str, Any], total: float, peak: float) -> str:
    seconds, counted = row["seconds"], row.get("multiply_adds", 0)
    part = f"{counted / seconds / peak:.0%}" if counted and seconds else ""
    return f"{1e3 * seconds:8.2f}{seconds / total:8.1%}{part:>13}"


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--model", choices=[*MODELS], default="face CNN")
    add("--batch", type=positive, default=64, help="images in a batch")
    add("--work", choices=("training", "inference"), default="training")
    add("--threads", type=positive, default=tinynn.get_num_threads(), help="CPU threads")
    add("--steps", type=positive, default=20, help="steps to trace")
    add("--rows", type=positive, default=16, help="rows to show")
    add("--json", type=output_file, metavar="FILE", help="write the measurements to a file")
    add(
        "--chrome",
        type=output_file,
        metavar="FILE",
        help="write a trace for Perfetto or chrome://tracing",
    )
    add("--calls", action="store_true", help="only count Python function calls")
    return parser.parse_args()


def main() -> int:
    """Trace some steps and print the profile."""
    arguments = parse_arguments()
    if arguments.calls:
        print_calls()
        return 0
    tinynn.set_num_threads(arguments.threads)
    tinynn.manual_seed(0)
    build, shape, classes = MODELS[arguments.model]
    model = build(nn).train(arguments.work == "training")
    rng = np.random.default_rng(0)
    images = tinynn.from_numpy(rng.random((arguments.batch, *shape), dtype=np.float32))
    labels = tinynn.from_numpy(rng.integers(0, classes, arguments.batch))
    if arguments.work == "training":
        optimizer = optim.SGD(model, learning_rate=0.01, momentum=0.9)
        work = training_step(model, optimizer, F, images, labels)
    else:
        work = inference(model, tinynn.no_grad, images)
    step = seconds_of(work, arguments.steps)
    most = limits(arguments.threads)
    counted = {
        layer.path: layer.multiply_adds
        for layer in tinynn.summary(model, shape, arguments.batch).layers
    }
    with tinynn.trace("cpu") as trace:
        for _ in range(arguments.steps):
            work()
    rows = rows_of(trace, arguments.steps, counted)
    show(
        f"{arguments.model}, {arguments.work}, batch {arguments.batch}, "
        f"{arguments.threads} threads: {1e3 * step:.2f} ms per step, "
        f"{arguments.batch / step:,.0f} images/s (untraced)\n"
    )
    show(table(rows, most["multiply_adds"], arguments.rows))
    least = sum(row["multiply_adds"] for row in rows) / most["multiply_adds"]
    show(
        f"\nLimits, measured now: matrix products {most['multiply_adds'] / 1e9:.0f} G multiply-adds"
        f"/s, copies {most['copied_bytes'] / 1e9:.0f} GB/s read and written. The step's "
        f"multiply-adds at that peak: {1e3 * least:.2f} ms, {least / step:.0%} of the step."
    )
    show("Above 100% of peak: convolutions by Winograd or FFT, which multiply less.")
    code = 0
    if arguments.json:
        profile = {"seconds": step, "limits": most, "rows": rows}
        code = write_report(arguments.json, json.dumps(profile, indent=1).encode())
    if arguments.chrome:
        trace.save_chrome(arguments.chrome)
    return code


if __name__ == "__main__":
    sys.exit(main())
