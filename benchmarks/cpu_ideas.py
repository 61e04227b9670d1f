"""What each idea behind the speed on a CPU brings, measured by turns with and without it."""

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


class Idea(NamedTuple):
    """Two ways to the same result."""

    name: str
    plain: Callable[[], object]
    better: Callable[[], object]


def normal(*shape: int) -> np.ndarray:
    """Random numbers."""
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def by_rows(size: int, inputs: int, outputs: int) -> Idea:
    """3x3: the pixels under the kernel copied together, or rows multiplied where they lie."""
    x, weight = normal(8, size, size, inputs), normal(3, 3, inputs, outputs)
    window = Window((3, 3), padding=((1, 1), (1, 1)))
    out = np.empty((8, size, size, outputs), np.float32)
    padded = np.zeros((8, size + 2, size + 2, inputs), np.float32)
    columns = np.empty((8, size, size, 3, 3, inputs), np.float32)
    seen = sliding_window_view(padded, (3, 3), (1, 2)).transpose(0, 1, 2, 4, 5, 3)

    def im2col() -> np.ndarray:
        with single_threaded_blas():
            padded[:, 1:-1, 1:-1] = x
            np.copyto(columns, seen)
            flat = columns.reshape(-1, 9 * inputs)
            np.matmul(flat, weight.reshape(-1, outputs), out=out.reshape(-1, outputs))
        return out

    def rows() -> np.ndarray:
        tinynn.set_conv2d_algorithm("matrix")
        result = get_backend("cpu").conv2d(x, weight, None, window, 1)
        tinynn.set_conv2d_algorithm("auto")
        return result

    return Idea(f"rows where they lie, {inputs} to {outputs} channels", im2col, rows)


def combined_rows(size: int, kernel: int, inputs: int, outputs: int) -> Idea:
    """A convolution and its gradients, with a product for each row of the kernel and with fewer."""
    return algorithms("rows combined", ("matrix", "winograd"), (size, kernel, inputs, outputs))


def small_products() -> Idea:
    """One product of many rows, or many of as few as BLAS multiplies without packing."""
    rows, weight = normal(18432, 144), normal(144, 32)
    out = np.empty((18432, 32), np.float32)
    parts, targets = rows.reshape(-1, 192, 144), out.reshape(-1, 192, 32)

    def run(a: np.ndarray, product: np.ndarray) -> None:
        with single_threaded_blas():
            np.matmul(a, weight, out=product)

    name = "products small enough to need no packing"
    return Idea(name, lambda: run(rows, out), lambda: run(parts, targets))


def fused(size: int, inputs: int, outputs: int) -> Idea:
    """Convolution, ReLU and pooling with their gradients, one by one and in one."""
    x = tinynn.tensor(normal(32, size, size, inputs), requires_grad=True)
    weight = tinynn.tensor(normal(3, 3, inputs, outputs), requires_grad=True)

    grad = tinynn.tensor(normal(32, size // 2, size // 2, outputs))

    def apart() -> None:
        F.max_pool2d(F.relu(F.conv2d(x, weight, padding=1)), 2).backward(grad)

    def joined() -> None:
        F.conv2d_relu_max_pool2d(x, weight, padding=1).backward(grad)

    return Idea(f"convolution, ReLU, pooling in one, {inputs} to {outputs}", apart, joined)


def normalized() -> Idea:
    """Batch norm and ReLU with their gradients."""
    x = tinynn.tensor(normal(64, 32, 32, 16), requires_grad=True)

    grad = tinynn.tensor(normal(*x.shape))

    def apart() -> None:
        F.relu(F.batch_norm(x, training=True)).backward(grad)

    def joined() -> None:
        F.batch_norm(x, training=True, relu=True).backward(grad)

    return Idea("batch norm and ReLU in one", apart, joined)


def long_runs() -> Idea:
    """A row of 512 numbers against many rows, as it is and repeated to 8192."""
    x, result = (elementwise.empty((1 << 17,), np.float32) for _ in range(2))
    x[:], row = normal(len(x)), normal(512)
    repeated = elementwise.repeat_row(row, np.float32)

    def short() -> None:
        np.multiply(x.reshape(-1, 512), row, out=result.reshape(-1, 512))

    name = "a row spread over an array in runs of 8192, not 512"
    return Idea(name, short, lambda: elementwise.broadcast_row(np.multiply, x, repeated, result))


def glance() -> Idea:
    """Rows of several images by turns, from main memory, with a look at each cache line before."""
    batches = [normal(64, 32, 512) for _ in range(16)]  # more than any cache holds
    rows, seen = np.empty((32, 8, 512), np.float32), np.empty(8 * 32 * 32, np.float32)

    def run(look: bool) -> None:
        for batch in batches:
            for first in range(0, 64, 8):
                tile = batch[first : first + 8]
                if look:
                    np.copyto(seen, tile.reshape(-1)[::16])
                np.copyto(rows, tile.transpose(1, 0, 2))

    return Idea("a glance in the order of memory first", lambda: run(False), lambda: run(True))


def aligned() -> Idea:
    """A product of elements in arrays that begin at a cache line, and 16 bytes behind one."""
    x, result = (elementwise.empty(((1 << 17) + 4,), np.float32) for _ in range(2))
    x[:] = normal(len(x))

    def run(first: int) -> None:
        part = slice(first, first + (1 << 17))
        np.multiply(x[part], x[part], out=result[part])

    return Idea("arrays that begin at a cache line", lambda: run(4), lambda: run(0))


def algorithms(name: str, names: tuple[str, str], sizes: tuple[int, int, int, int]) -> Idea:
    """A convolution and its gradients, computed in two ways."""
    size, kernel, inputs, outputs = sizes
    x = tinynn.tensor(normal(16, size, size, inputs), requires_grad=True)
    weight = tinynn.tensor(normal(kernel, kernel, inputs, outputs), requires_grad=True)
    grad = tinynn.tensor(normal(16, size, size, outputs))

    def run(algorithm: str) -> None:
        tinynn.set_conv2d_algorithm(algorithm)
        F.conv2d(x, weight, padding="same").backward(grad)
        tinynn.set_conv2d_algorithm("auto")

    name = f"{name}, {kernel}x{kernel}, {inputs} to {outputs}, {size}x{size} pixels"
    return Idea(name, lambda: run(names[0]), lambda: run(names[1]))


def spectral(size: int, kernel: int, inputs: int, outputs: int) -> Idea:
    """The frequency domain against combined rows."""
    return algorithms("frequencies", ("winograd", "spectral"), (size, kernel, inputs, outputs))


def step_of(name: str, images_gradient: bool = False) -> Callable[[], None]:
    """A training step of one of the networks, with 64 images."""
    build, shape, classes = MODELS[name]
    model = build(nn)
    images = tinynn.tensor(normal(64, *shape), requires_grad=images_gradient)
    labels = tinynn.from_numpy(np.arange(64) % classes)
    optimizer = optim.SGD(model, learning_rate=0.01, momentum=0.9)
    return training_step(model, optimizer, F, images, labels)


def not_asked_for() -> Idea:
    """A training step with the gradient of the images and without."""
    name = "no gradient of the first layer's images"
    return Idea(name, step_of("face CNN", images_gradient=True), step_of("face CNN"))


def threads(count: int, name: str) -> Idea:
    """Training on one thread and on several; some steps in a row, as a core may have to wake up."""
    step = step_of(name)

    def run(number: int) -> None:
        tinynn.set_num_threads(number)
        for _ in range(8):
            step()
        tinynn.set_num_threads(count)

    return Idea(f"{count} threads, {name}", lambda: run(1), lambda: run(count))


def ideas(count: int) -> Iterator[Idea]:
    """All of them but the memory's, which takes processes."""
    yield by_rows(48, 3, 16)
    yield by_rows(24, 16, 32)
    yield by_rows(12, 32, 64)
    yield combined_rows(24, 3, 16, 32)
    yield combined_rows(12, 3, 32, 64)
    yield combined_rows(28, 5, 32, 32)
    yield combined_rows(91, 10, 1, 32)
    yield small_products()
    yield fused(48, 3, 16)
    yield fused(24, 16, 32)
    yield not_asked_for()
    yield normalized()
    yield long_runs()
    yield glance()
    yield aligned()
    yield spectral(28, 5, 32, 32)
    yield spectral(28, 7, 32, 32)
    yield spectral(46, 10, 32, 64)
    if count > 1:
        yield threads(count, "face CNN")
        yield threads(count, "residual network")


def gains(idea: Idea, rounds: int) -> list[float]:
    """How many times faster, turn by turn."""
    steps = max(1, round(0.05 / _seconds(idea.plain, 2)))
    _seconds(idea.better, 2)
    turns = [(_seconds(idea.plain, steps), _seconds(idea.better, steps)) for _ in range(rounds)]
    return [plain / better for plain, better in turns]


def _seconds(work: Callable[[], Any], steps: int) -> float:
    start = time.perf_counter()
    for _ in range(steps):
        work()
    return (time.perf_counter() - start) / steps


def kept_memory(rounds: int) -> list[float]:
    """A step of the face CNN in processes that keep freed memory and that do not."""
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
    """A line for each idea."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--rounds", type=positive, default=9, help="turns with and without")
    parser.add_argument("--threads", type=positive, default=tinynn.get_num_threads())
    parser.add_argument("--only", metavar="TEXT", default="", help="ideas with this in their name")
    arguments = parser.parse_args()
    tinynn.set_num_threads(arguments.threads)
    kept = "freed memory kept for the next step, face CNN"
    known = arguments.only in kept
    print(f"{'times faster':>64}  quartiles")
    for idea in ideas(arguments.threads):
        if arguments.only in idea.name:
            known = True
            show(idea.name, gains(idea, arguments.rounds))
    if arguments.only in kept:
        show(kept, kept_memory(arguments.rounds))
    if not known:
        parser.error(f"no idea has {arguments.only!r} in its name; without --only all are shown")
    return 0


def show(name: str, values: list[float]) -> None:
    """One line."""
    low, high = min(values), max(values)
    if len(values) > 1:
        low, _, high = statistics.quantiles(values, n=4)
    print(f"{name:58}{statistics.median(values):6.2f}  {low:.2f}-{high:.2f}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
