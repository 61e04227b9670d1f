"""Measure the speedup of each optimization of the CPU kernels, alternating with and without it."""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from models import MODELS
from numpy.lib.stride_tricks import sliding_window_view
from vs_pytorch import positive, training_step

import tinynn
from tinynn import functional as F
from tinynn import nn, optim
from tinynn.backend import Window, get_backend
from tinynn.backend.cpu import elementwise
from tinynn.backend.cpu.threads import single_threaded_blas
from tinynn.messages import show


class Comparison(NamedTuple):
    """Two implementations with the same result."""

    name: str
    baseline: Callable[[], object]
    optimized: Callable[[], object]


def normal(*shape: int) -> np.ndarray:
    """Standard normal float32 values."""
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def row_products(size: int, inputs: int, outputs: int) -> Comparison:
    """A 3×3 convolution by im2col and one GEMM, and by products of image rows without a copy."""
    x, weight = normal(8, size, size, inputs), normal(3, 3, inputs, outputs)
    window = Window((3, 3), padding=((1, 1), (1, 1)))
    out = np.empty((8, size, size, outputs), np.float32)
    padded = np.zeros((8, size + 2, size + 2, inputs), np.float32)
    columns = np.empty((8, size, size, 3, 3, inputs), np.float32)
    patches = sliding_window_view(padded, (3, 3), (1, 2)).transpose(0, 1, 2, 4, 5, 3)

    def im2col() -> np.ndarray:
        with single_threaded_blas():
            padded[:, 1:-1, 1:-1] = x
            np.copyto(columns, patches)
            flat = columns.reshape(-1, 9 * inputs)
            np.matmul(flat, weight.reshape(-1, outputs), out=out.reshape(-1, outputs))
        return out

    def rows() -> np.ndarray:
        tinynn.set_conv2d_algorithm("matrix")
        result = get_backend("cpu").conv2d(x, weight, None, window)
        tinynn.set_conv2d_algorithm("auto")
        return result

    return Comparison(f"row products instead of im2col, {inputs} to {outputs}", im2col, rows)


def algorithms(name: str, names: tuple[str, str], sizes: tuple[int, int, int, int]) -> Comparison:
    """A convolution with its gradients by two algorithms."""
    size, kernel, inputs, outputs = sizes
    x = tinynn.tensor(normal(16, size, size, inputs), requires_grad=True)
    weight = tinynn.tensor(normal(kernel, kernel, inputs, outputs), requires_grad=True)
    grad = tinynn.tensor(normal(16, size, size, outputs))

    def run(algorithm: str) -> None:
        tinynn.set_conv2d_algorithm(algorithm)
        F.conv2d(x, weight, padding="same").backward(grad)
        tinynn.set_conv2d_algorithm("auto")

    name = f"{name}, {kernel}x{kernel}, {inputs} to {outputs}, {size}x{size} pixels"
    return Comparison(name, lambda: run(names[0]), lambda: run(names[1]))


def winograd(*sizes: int) -> Comparison:
    """Winograd F(m, r) along the rows, compared with one product for each kernel row."""
    size, kernel, inputs, outputs = sizes
    return algorithms("Winograd", ("matrix", "winograd"), (size, kernel, inputs, outputs))


def fft(*sizes: int) -> Comparison:
    """FFT compared with Winograd."""
    size, kernel, inputs, outputs = sizes
    return algorithms("FFT", ("winograd", "fft"), (size, kernel, inputs, outputs))


def small_products() -> Comparison:
    """One GEMM with many rows, and a batch of GEMMs small enough to need no packing."""
    rows, weight = normal(18432, 144), normal(144, 32)
    out = np.empty((18432, 32), np.float32)
    parts, results = rows.reshape(-1, 192, 144), out.reshape(-1, 192, 32)

    def run(a: np.ndarray, product: np.ndarray) -> None:
        with single_threaded_blas():
            np.matmul(a, weight, out=product)

    name = "GEMMs small enough to need no packing"
    return Comparison(name, lambda: run(rows, out), lambda: run(parts, results))


def fused_pooling(size: int, inputs: int, outputs: int) -> Comparison:
    """Convolution, ReLU and max pooling with their gradients, separate and fused."""
    x = tinynn.tensor(normal(32, size, size, inputs), requires_grad=True)
    weight = tinynn.tensor(normal(3, 3, inputs, outputs), requires_grad=True)
    grad = tinynn.tensor(normal(32, size // 2, size // 2, outputs))

    def separate() -> None:
        F.max_pool2d(F.relu(F.conv2d(x, weight, padding=1)), 2).backward(grad)

    def fused() -> None:
        F.conv2d_relu_max_pool2d(x, weight, padding=1).backward(grad)

    name = f"convolution, ReLU, pooling fused, {inputs} to {outputs}"
    return Comparison(name, separate, fused)


def fused_batch_norm() -> Comparison:
    """Batch norm and ReLU with their gradients, separate and fused."""
    x = tinynn.tensor(normal(64, 32, 32, 16), requires_grad=True)
    grad = tinynn.tensor(normal(*x.shape))

    def separate() -> None:
        F.relu(F.batch_norm(x, training=True)).backward(grad)

    def fused() -> None:
        F.batch_norm(x, training=True, relu=True).backward(grad)

    return Comparison("batch norm and ReLU fused", separate, fused)


def long_rows() -> Comparison:
    """A row of 512 elements broadcast over a matrix, and the same row repeated to 8192."""
    x, result = (elementwise.empty((1 << 17,), np.float32) for _ in range(2))
    x[:], row = normal(len(x)), normal(512)
    repeated = elementwise.repeat_row(row, np.float32)

    def short() -> None:
        np.multiply(x.reshape(-1, 512), row, out=result.reshape(-1, 512))

    name = "broadcast rows of 8192 elements instead of 512"
    return Comparison(
        name, short, lambda: elementwise.broadcast_row(np.multiply, x, repeated, result)
    )


def prefetch() -> Comparison:
    """Rows of several images in turn, from main memory, without and with a prefetch."""
    batches = [normal(64, 32, 512) for _ in range(16)]  # more than any cache holds
    rows, lines = np.empty((32, 8, 512), np.float32), np.empty(8 * 32 * 32, np.float32)

    def run(first_prefetch: bool) -> None:
        for batch in batches:
            for first in range(0, 64, 8):
                tile = batch[first : first + 8]
                if first_prefetch:
                    np.copyto(lines, tile.reshape(-1)[::16])
                np.copyto(rows, tile.transpose(1, 0, 2))

    return Comparison("prefetch in memory order", lambda: run(False), lambda: run(True))


def aligned() -> Comparison:
    """An elementwise product of arrays 16 bytes past a cache line, and aligned to one."""
    x, result = (elementwise.empty(((1 << 17) + 4,), np.float32) for _ in range(2))
    x[:] = normal(len(x))

    def run(first: int) -> None:
        part = slice(first, first + (1 << 17))
        np.multiply(x[part], x[part], out=result[part])

    return Comparison("arrays aligned to a cache line", lambda: run(4), lambda: run(0))


def step_of(name: str, images_gradient: bool = False) -> Callable[[], None]:
    """A training step of a network with a batch of 64."""
    build, shape, classes = MODELS[name]
    model = build(nn)
    images = tinynn.tensor(normal(64, *shape), requires_grad=images_gradient)
    labels = tinynn.from_numpy(np.arange(64) % classes)
    optimizer = optim.SGD(model, learning_rate=0.01, momentum=0.9)
    return training_step(model, optimizer, F, images, labels)


def unneeded_gradient() -> Comparison:
    """A training step with and without the gradient of the images."""
    name = "no gradient of the first layer's images"
    return Comparison(name, step_of("face CNN", images_gradient=True), step_of("face CNN"))


def threads(count: int, name: str) -> Comparison:
    """Training on one thread and on several; some steps in a row, as a core may have to wake up."""
    step = step_of(name)

    def run(number: int) -> None:
        tinynn.set_num_threads(number)
        for _ in range(8):
            step()
        tinynn.set_num_threads(count)

    return Comparison(f"{count} threads, {name}", lambda: run(1), lambda: run(count))


def comparisons(count: int) -> Iterator[Comparison]:
    """All of them, one at a time; ``kept_memory``, which needs processes, is separate."""
    yield row_products(48, 3, 16)
    yield row_products(24, 16, 32)
    yield row_products(12, 32, 64)
    yield winograd(24, 3, 16, 32)
    yield winograd(12, 3, 32, 64)
    yield winograd(28, 5, 32, 32)
    yield winograd(91, 10, 1, 32)
    yield small_products()
    yield fused_pooling(48, 3, 16)
    yield fused_pooling(24, 16, 32)
    yield unneeded_gradient()
    yield fused_batch_norm()
    yield long_rows()
    yield prefetch()
    yield aligned()
    yield fft(28, 5, 32, 32)
    yield fft(28, 7, 32, 32)
    yield fft(46, 10, 32, 64)
    if count > 1:
        yield threads(count, "face CNN")
        yield threads(count, "residual network")


def speedups(comparison: Comparison, rounds: int) -> list[float]:
    """baseline time / optimized time, round by round."""
    steps = max(1, round(0.05 / _seconds(comparison.baseline, 2)))
    _seconds(comparison.optimized, 2)
    times = [
        (_seconds(comparison.baseline, steps), _seconds(comparison.optimized, steps))
        for _ in range(rounds)
    ]
    return [baseline / optimized for baseline, optimized in times]


def _seconds(work: Callable[[], Any], steps: int) -> float:
    start = time.perf_counter()
    for _ in range(steps):
        work()
    return (time.perf_counter() - start) / steps


def kept_memory(rounds: int) -> list[float]:
    """A step of the face CNN in processes whose allocator keeps freed memory or returns it."""
    code = (
        "import time, cpu_ideas; step = cpu_ideas.step_of('face CNN')\n"
        "for turn in range(12):\n"
        "    if turn == 4: start = time.perf_counter()\n"
        "    step()\n"
        "print(time.perf_counter() - start)"
    )
    here = Path(__file__).resolve().parent

    def run(keep: str) -> float:
        environment = {**os.environ, "TINYNN_KEEP_MEMORY": keep}
        command = [sys.executable, "-c", code]
        done = subprocess.run(
            command, env=environment, cwd=here, check=True, capture_output=True, text=True
        )
        return float(done.stdout)

    return [run("0") / run("1") for _ in range(min(rounds, 5))]


def main() -> int:
    """Print one line for each comparison: median speedup and quartiles."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--rounds", type=positive, default=9, help="measurements of each pair")
    parser.add_argument(
        "--threads", type=positive, default=tinynn.get_num_threads(), help="CPU threads"
    )
    parser.add_argument(
        "--only", metavar="TEXT", default="", help="comparisons with this text in their name"
    )
    arguments = parser.parse_args()
    tinynn.set_num_threads(arguments.threads)
    kept = "freed memory kept for the next step, face CNN"
    known = arguments.only in kept
    show(f"{'speedup':>64}  quartiles")
    for comparison in comparisons(arguments.threads):
        if arguments.only in comparison.name:
            known = True
            show_speedup(comparison.name, speedups(comparison, arguments.rounds))
    if arguments.only in kept:
        show_speedup(kept, kept_memory(arguments.rounds))
    if not known:
        parser.error(f"no comparison has {arguments.only!r} in its name; without --only all run")
    return 0


def show_speedup(name: str, values: list[float]) -> None:
    """Print one line."""
    low, high = min(values), max(values)
    if len(values) > 1:
        low, _, high = statistics.quantiles(values, n=4)
    show(f"{name:58}{statistics.median(values):6.2f}  {low:.2f}-{high:.2f}")


if __name__ == "__main__":
    sys.exit(main())
