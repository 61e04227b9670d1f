"""What a GPU brings over the CPU beside it: images a second from batch 1 on, and dollars.

CPU and GPU take turns in one run, and medians are compared. On a machine without a GPU the CPU is
measured and the reason said; a GPU that is emulated gets no figures of speed. See
docs/gpu/rented-gpu.md for how to read the result.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from answers import answers, load_instances, plot, table
from tqdm import tqdm

import tinynn
from tinynn import functional as F
from tinynn import nn, optim
from tinynn.autograd import Tensor
from tinynn.backend import get_backend
from tinynn.errors import TinynnError
from tinynn.gpucheck import limits
from tinynn.vision.models import face_cnn, original_cnn

SLOWEST = 2.0  # seconds: a device whose step takes longer gets no larger batch
TURN = 0.15  # seconds of one turn, about


@dataclass(frozen=True)
class Subject:
    """A network and the shape of one of its inputs; ``classes`` 0: a single layer."""

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    classes: int = 0


SUBJECTS = {
    "face": Subject(face_cnn, (48, 48, 3), 2),
    "original": Subject(original_cnn, (91, 91, 1), 2),
    "conv3x3": Subject(lambda: nn.Conv2d(32, 64, 3, padding="same"), (24, 24, 32)),
    "linear": Subject(lambda: nn.Linear(2304, 128), (2304,)),
    "batchnorm": Subject(lambda: nn.BatchNorm2d(32), (24, 24, 32)),
    "maxpool": Subject(lambda: nn.MaxPool2d(2), (48, 48, 16)),
}


@dataclass
class Measured:
    """One network at one batch size on one device. Times are medians, in seconds."""

    subject: str
    work: str
    batch: int
    device: str
    step: float
    spread: float  # distance of the quartiles in parts of the median
    with_upload: float  # a step that begins with the copy of its batch
    issue: float  # until the step was handed to the device, nobody waiting
    on_device: float | None  # between two events around it; None: a CPU
    upload_bytes: int
    operations: float  # floating-point, of matrix products and convolutions, counted
    least_bytes: float  # that have to be read and written at the very least
    launches: int | None = None

    @property
    def images_per_second(self) -> float:
        """Without the upload."""
        return self.batch / self.step


@dataclass
class Report:
    """All that was found; what ``--json`` writes."""

    versions: dict[str, Any]
    devices: list[dict[str, Any]]
    why_no_gpu: str | None
    emulated: bool
    limits: dict[str, dict[str, float | None]] = field(default_factory=dict)
    cold_start: dict[str, float] = field(default_factory=dict)
    counts: list[dict[str, Any]] = field(default_factory=list)
    rows: list[Measured] = field(default_factory=list)
    stopped: dict[str, str] = field(default_factory=dict)  # why no larger batch


class Bench:
    """One network on one device, ready to take a turn."""

    def __init__(self, name: str, work: str, batch: int, device: str) -> None:
        self.name, self.work, self.batch, self.device = name, work, batch, device
        self.subject, self.backend = SUBJECTS[name], get_backend(device)
        tinynn.manual_seed(0)
        self.model = self.subject.make().to(device).train(work == "training")
        host = np.random.default_rng(0).random((batch, *self.subject.shape), dtype=np.float32)
        self.host = host
        self.labels = Tensor(
            self.backend.from_host(np.arange(batch) % max(1, self.subject.classes))
        )
        self.uploads = self.backend.uploads()
        self.images = self.upload()
        self.optimizer: optim.SGD | None = None
        if work == "training" and any(True for _ in self.model.parameters()):
            self.optimizer = optim.SGD(self.model, learning_rate=1e-6, momentum=0.9)

    def upload(self) -> Tensor:
        """The batch, copied to the device as the loader does."""
        (images,) = self.uploads.receive(self.uploads.start(self.host))
        images = Tensor(images)
        return (
            images.requires_grad_()
            if self.work == "training" and not self.subject.classes
            else images
        )

    def step(self) -> None:
        """One step of the work."""
        self.run(self.images)

    def upload_and_step(self) -> None:
        """One step with a batch that comes from the host."""
        self.run(self.upload())

    def run(self, images: Tensor) -> None:
        """Training or inference with these images."""
        if self.work == "inference":
            with tinynn.no_grad():
                self.model(images)
            return
        if self.optimizer is not None:
            self.optimizer.zero_grad()
        images.grad = None
        out = self.model(images)
        if self.subject.classes:
            F.cross_entropy(out, self.labels).backward()
        else:
            out.backward(Tensor(self.backend.xp.ones_like(out.data)))
        if self.optimizer is not None:
            self.optimizer.step()

    def turn(self, work: Callable[[], None], steps: int) -> float:
        """Seconds a step, all of it waited for."""
        self.backend.synchronize()
        begin = time.perf_counter()
        for _ in range(steps):
            work()
        self.backend.synchronize()
        return (time.perf_counter() - begin) / steps

    def issue(self) -> float:
        """Seconds until one step is handed over to a device that has nothing else to do."""
        self.backend.synchronize()
        begin = time.perf_counter()
        self.step()
        return time.perf_counter() - begin

    def on_device(self) -> float | None:
        """Seconds of one step between two events."""
        if self.device == "cpu":
            return None
        cuda = self.backend.xp.cuda
        before, after = cuda.Event(), cuda.Event()
        before.record()
        self.step()
        after.record()
        after.synchronize()
        return float(cuda.get_elapsed_time(before, after)) / 1000

    def operations(self) -> float:
        """Of the products of a step: 2 for each multiply-add, three times as many in training."""
        times = 3 if self.work == "training" else 1
        return 2.0 * self.batch * self._summary().multiply_adds * times

    def least_bytes(self) -> float:
        """Each result that reaches memory written and read once, each parameter read; in training
        the gradients of both as well, and the update of parameter and velocity.

        Convolution, ReLU and pooling are one kernel, and Flatten is none."""
        found = self._summary()
        kinds = [layer.kind for layer in found.layers]
        joined = ["Conv2d", "ReLU", "MaxPool2d"]
        written = sum(
            layer.activation_bytes
            for i, layer in enumerate(found.layers)
            if kinds[i] != "Flatten" and joined not in (kinds[i : i + 3], kinds[i - 1 : i + 2])
        )
        activations = 2 * self.batch * written + self.host.nbytes
        parameters = 4 * found.parameters
        if self.work == "inference":
            return float(activations + parameters)
        return float(2 * activations + 7 * parameters)

    def _summary(self) -> Any:
        return tinynn.summary(self.subject.make(), self.subject.shape)  # of one input


def measure(benches: list[Bench], rounds: int) -> list[Measured]:
    """All devices at one batch size, by turns."""
    steps, turns = {}, {}
    for bench in benches:
        bench.turn(bench.step, 2)  # warm-up
        steps[bench.device] = max(1, round(TURN / bench.turn(bench.step, 1)))
        turns[bench.device] = [[], [], [], []]
    for _ in range(rounds):
        for bench in benches:
            times, into = steps[bench.device], turns[bench.device]
            into[0].append(bench.turn(bench.step, times))
            into[1].append(bench.turn(bench.upload_and_step, times))
            into[2].append(bench.issue())
            into[3].append(bench.on_device())
    rows = []
    for bench in benches:
        step, with_upload, issue, on_device = turns[bench.device]
        low, _, high = statistics.quantiles(step if len(step) > 1 else step * 2, n=4)
        rows.append(
            Measured(
                bench.name,
                bench.work,
                bench.batch,
                bench.device,
                statistics.median(step),
                (high - low) / statistics.median(step),
                statistics.median(with_upload),
                statistics.median(issue),
                None if on_device[0] is None else statistics.median(on_device),
                bench.host.nbytes,
                bench.operations(),
                bench.least_bytes(),
                None if bench.device == "cpu" else count(bench)["launches"],
            )
        )
    return rows


def count(bench: Bench) -> dict[str, Any]:
    """What one step asks of a GPU; exact on an emulated one, at least so many on a real one."""
    bench.step()
    with tinynn.trace(bench.device) as trace:
        bench.step()
    total = asdict(trace.total)
    names = ("launches", "library_calls", "bytes_up", "bytes_down", "synchronizations")
    return {name: total[name] for name in names}


def run(report: Report, arguments: argparse.Namespace, devices: list[str]) -> None:
    """Every network, every kind of work, every batch size."""
    for name in arguments.models:
        for work in arguments.work:
            cold: dict[str, float] = {}
            able = list(devices)
            for batch in progress(f"{name}, {work}", arguments.batch_sizes):
                benches = list(start(report, name, work, batch, able, cold))
                if not benches:
                    break
                try:
                    rows = measure(benches, arguments.rounds)
                except MemoryError as error:  # that of the GPU, unless there is none
                    full = able.pop()
                    report.stopped[f"{name}, {work}, {full}"] = f"batch {batch}: {error}"
                    continue
                report.rows += rows
                for row in rows:
                    if row.step > SLOWEST:
                        able.remove(row.device)
                        report.stopped[f"{name}, {work}, {row.device}"] = (
                            f"batch {batch}: a step takes {row.step:.1f} s"
                        )


def measure_limits(report: Report, device: str) -> None:
    """What the device can do at best; nothing where its memory is too small to find out."""
    try:
        report.limits[device] = {
            "launch": limits.launch_time(device),
            "copy": limits.copy_bandwidth(device),
            "upload": limits.upload_bandwidth(device),
            "matmul": limits.matmul_peak(device),
        }
    except MemoryError as error:
        report.stopped[f"the limits of {device}"] = str(error)


def start(
    report: Report, name: str, work: str, batch: int, able: list[str], cold: dict[str, float]
) -> Iterator[Bench]:
    """A bench for each device on which the batch fits; its first step is the cold start."""
    for device in list(able):
        try:
            bench = Bench(name, work, batch, device)
            begin = time.perf_counter()
            bench.turn(bench.step, 1)
        except MemoryError as error:
            able.remove(device)
            report.stopped[f"{name}, {work}, {device}"] = f"batch {batch}: {error}"
            continue
        key = f"{name}, {work}, {device}"
        if device != "cpu" and key not in report.cold_start:
            report.cold_start[key] = time.perf_counter() - begin
        yield bench


def progress(title: str, batches: list[int]) -> Any:
    """A bar on a terminal, a line elsewhere."""
    if not sys.stderr.isatty():
        print(f"measuring {title}", file=sys.stderr)
    return tqdm(batches, desc=title, unit="batch", disable=not sys.stderr.isatty())


def emulate(report: Report, arguments: argparse.Namespace, device: str) -> None:
    """Every network once on an emulated device: it runs, and this is what it asks for."""
    for name in arguments.models:
        for work in arguments.work:
            bench = Bench(name, work, 2, device)
            report.counts.append({"subject": name, "work": work, "batch": 2, **count(bench)})


# -- the command line -----------------------------------------------------------------------------


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The options, checked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    known = [entry["name"] for entry in load_instances()["instances"]]
    parser.add_argument("--device", default="cuda", help="the GPU: cuda (default), cuda:1")
    parser.add_argument("--models", nargs="+", choices=SUBJECTS, default=list(SUBJECTS),
                        help="networks and layers (default: all)", metavar="NAME")  # fmt: skip
    parser.add_argument("--work", nargs="+", choices=("training", "inference"),
                        default=["training", "inference"], help="default: both")  # fmt: skip
    parser.add_argument("--batch-sizes", type=batch_sizes, default=[4**n for n in range(8)],
                        metavar="1,8,64", help="default: 1, 4, 16, ... until it does not fit or a "
                        f"step takes more than {SLOWEST:g} s")  # fmt: skip
    parser.add_argument("--rounds", type=positive, default=7, help="turns of each (default: 7)")
    parser.add_argument("--instance", choices=known, metavar="NAME",
                        help=f"what this machine is: {', '.join(known)}")  # fmt: skip
    parser.add_argument("--price", type=price, metavar="DOLLARS",
                        help="of this machine an hour, instead of the price table's")  # fmt: skip
    parser.add_argument("--epochs", type=positive, default=30,
                        help="of the model in dollars per trained model (default: 30)")  # fmt: skip
    parser.add_argument("--images", type=positive, default=10_000,
                        help="in an epoch of that (default: 10000)")  # fmt: skip
    parser.add_argument("--require-gpu", action="store_true", help="no GPU is an error (exit 2)")
    parser.add_argument("--quick", action="store_true", help="two networks, two batch sizes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw throughput over batch size")
    options = parser.parse_args(arguments)
    for name in ("json", "plot"):  # what would otherwise be lost at the end
        path = getattr(options, name)
        if path is not None and not path.resolve().parent.is_dir():
            parser.error(f"--{name}: there is no folder {path.resolve().parent}")
    if options.plot is not None:
        if options.plot.suffix not in ("", ".png", ".svg", ".pdf"):
            parser.error(f"--plot draws .png, .svg or .pdf, got {options.plot.name}")
        if find_spec("matplotlib") is None:
            parser.error("--plot needs matplotlib: pip install -e '.[bench]'")
    if options.quick:
        options.models, options.batch_sizes, options.rounds = ["face", "conv3x3"], [1, 16], 3
    return options


def batch_sizes(text: str) -> list[int]:
    """Whole numbers with commas between them, in order."""
    return sorted({positive(part) for part in text.split(",")})


def positive(text: str) -> int:
    """A whole number above 0."""
    if not text.strip().isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got {text!r}")
    return int(text)


def price(text: str) -> float:
    """Dollars above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"expected dollars an hour, above 0, got {text!r}")
    return value


def versions() -> dict[str, Any]:
    """What measured: software, threads of the BLAS, the clock where it can be read."""
    import threadpoolctl

    blas = [f"{pool['internal_api']} {pool['version']}" for pool in threadpoolctl.threadpool_info()]
    clock = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_max_freq")
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(sys.argv),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "blas": blas,
        "threads": tinynn.get_num_threads(),
        "cpu_kilohertz_at_most": int(clock.read_text()) if clock.exists() else None,
        "platform": platform.platform(),
    }


def find(arguments: argparse.Namespace) -> tuple[Report, str | None]:
    """An empty report of this machine, and the GPU that can be measured."""
    machine = tinynn.devices()
    why, device = machine.why_no_cuda, None
    try:
        device = get_backend(arguments.device).device
    except TinynnError as error:
        why = str(error)
    if device == "cpu":
        why, device = "--device names the CPU", None
    full = "cuda:0" if device == "cuda" else device
    emulated = any(entry.name == full and entry.emulated for entry in machine)
    described = [entry._asdict() for entry in machine]
    recorded = versions()
    if device is not None:
        there: Any = get_backend(device)
        properties = there.xp.cuda.runtime.getDeviceProperties(there.index)
        recorded["gpu_kilohertz_at_most"] = properties.get("clockRate")
    return Report(recorded, described, why if device is None else None, emulated), device


def main(arguments: list[str] | None = None) -> int:
    """Measure, then say what was found; partial results are kept on Ctrl-C."""
    options = parse(arguments)
    report, gpu = find(options)
    print(tinynn.devices())
    if gpu is None:
        print(f"\nNO GPU IS MEASURED: {report.why_no_gpu}", flush=True)
        if options.require_gpu:
            print("--require-gpu makes that an error", file=sys.stderr)
            return 2
    code = 0
    try:
        if report.emulated and gpu is not None:
            print("\nEMULATED: a CPU plays the GPU. It counts, and nothing of it is timed.")
            emulate(report, options, gpu)
        devices = ["cpu"] if gpu is None or report.emulated else ["cpu", gpu]
        for device in devices if len(devices) > 1 else []:
            measure_limits(report, device)
        run(report, options, devices)
    except KeyboardInterrupt:
        print("\ninterrupted: this is what was measured so far", file=sys.stderr)
        code = 130
    print(table(report))
    print(answers(report, options))
    if options.json:
        write(options.json, json.dumps(asdict(report), indent=1, default=str).encode())
    if options.plot and report.rows:
        write(options.plot, plot(report, options.plot.suffix.lstrip(".") or "png"))
    return code


def write(path: Path, content: bytes) -> None:
    """All of it or nothing."""
    temporary = path.with_name(path.name + ".part")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    print(f"written: {path}")


if __name__ == "__main__":
    sys.exit(main())
