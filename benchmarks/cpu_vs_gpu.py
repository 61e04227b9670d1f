"""Speedup of a GPU over the CPU of the same machine, by batch size, and the cost in dollars.

CPU and GPU alternate in one run, and medians are compared. Without a GPU only the CPU is measured,
and the reason is printed; an emulated GPU is not timed. See docs/gpu/rented-gpu.md for how to read
the results.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from answers import answers, load_instances, plot, table
from tqdm import tqdm
from vs_pytorch import plot_file, positive, quartile_spread

import tinynn
from tinynn import functional as F
from tinynn import nn, optim
from tinynn.autograd import Tensor
from tinynn.backend import get_backend
from tinynn.errors import TinynnError
from tinynn.files import output_file, write_report
from tinynn.gpucheck import limits
from tinynn.messages import say, show
from tinynn.vision.models import face_cnn, original_cnn

SLOWEST = 2.0  # seconds per step above which a device gets no larger batch
ROUND = 0.15  # approximate seconds per measurement


@dataclass(frozen=True)
class Subject:
    """A network and its input shape without the batch axis; ``classes`` is 0 for a single layer."""

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
    """The result for a network, batch size and device. Times are medians, in seconds per step."""

    subject: str
    work: str
    batch: int
    device: str
    step: float
    spread: float  # interquartile range relative to the median
    with_upload: float  # a step including the host-to-device copy of its batch
    issue: float  # time to launch all kernels of a step, without synchronization
    on_device: float | None  # between two CUDA events; None on a CPU
    upload_bytes: int
    operations: float  # floating-point operations of matrix products and convolutions
    least_bytes: float  # lower bound of the memory traffic
    launches: int | None = None

    @property
    def images_per_second(self) -> float:
        """Throughput without the host-to-device copy."""
        return self.batch / self.step


@dataclass
class Report:
    """All results, as written by ``--json``."""

    versions: dict[str, Any]
    devices: list[dict[str, Any]]
    why_no_gpu: str | None
    emulated: bool
    limits: dict[str, dict[str, float | None]] = field(default_factory=dict)
    cold_start: dict[str, float] = field(default_factory=dict)
    counts: list[dict[str, Any]] = field(default_factory=list)
    rows: list[Measured] = field(default_factory=list)
    stopped: dict[str, str] = field(default_factory=dict)  # reason for no larger batch


class Bench:
    """One network on one device, ready to be timed."""

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
        """Copy the batch to the device as the data loader does."""
        (images,) = self.uploads.receive(self.uploads.start(self.host))
        single_layer = self.work == "training" and not self.subject.classes
        return Tensor(images, requires_grad=single_layer)

    def step(self) -> None:
        """One step with a batch that is on the device already."""
        self.run(self.images)

    def upload_and_step(self) -> None:
        """One step including the host-to-device copy of its batch."""
        self.run(self.upload())

    def run(self, images: Tensor) -> None:
        """A training step or a forward pass."""
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

    def time(self, work: Callable[[], None], steps: int) -> float:
        """Seconds per step, including synchronization."""
        self.backend.synchronize()
        begin = time.perf_counter()
        for _ in range(steps):
            work()
        self.backend.synchronize()
        return (time.perf_counter() - begin) / steps

    def issue(self) -> float:
        """Seconds to launch all kernels of a step on an idle device."""
        self.backend.synchronize()
        begin = time.perf_counter()
        self.step()
        return time.perf_counter() - begin

    def on_device(self) -> float | None:
        """Seconds of one step between two CUDA events."""
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
        """Floating-point operations: 2 per multiply-add, times 3 in training."""
        times = 3 if self.work == "training" else 1
        return 2.0 * self.batch * self._summary().multiply_adds * times

    def least_bytes(self) -> float:
        """Lower bound of the memory traffic of a step.

        Each stored activation is written and read once and each parameter is read; in training the
        same holds for the gradients, plus the update of parameters and momentum buffers.
        Convolution, ReLU and max pooling count as one kernel, Flatten as none.
        """
        summary = self._summary()
        kinds = [layer.kind for layer in summary.layers]
        fused = ["Conv2d", "ReLU", "MaxPool2d"]
        written = sum(
            layer.activation_bytes
            for i, layer in enumerate(summary.layers)
            if kinds[i] != "Flatten" and fused not in (kinds[i : i + 3], kinds[i - 1 : i + 2])
        )
        activations = 2 * self.batch * written + self.host.nbytes
        parameters = 4 * summary.parameters
        if self.work == "inference":
            return float(activations + parameters)
        return float(2 * activations + 7 * parameters)

    def _summary(self) -> Any:
        return tinynn.summary(self.subject.make(), self.subject.shape)  # per input


def measure(benches: list[Bench], rounds: int) -> list[Measured]:
    """Measure all devices at one batch size, alternating between them."""
    steps, times = {}, {}
    for bench in benches:
        bench.time(bench.step, 2)  # warm-up
        steps[bench.device] = max(1, round(ROUND / bench.time(bench.step, 1)))
        times[bench.device] = [[], [], [], []]
    for _ in range(rounds):
        for bench in benches:
            count, into = steps[bench.device], times[bench.device]
            into[0].append(bench.time(bench.step, count))
            into[1].append(bench.time(bench.upload_and_step, count))
            into[2].append(bench.issue())
            into[3].append(bench.on_device())
    rows = []
    for bench in benches:
        step, with_upload, issue, on_device = times[bench.device]
        rows.append(
            Measured(
                bench.name,
                bench.work,
                bench.batch,
                bench.device,
                statistics.median(step),
                quartile_spread(step),
                statistics.median(with_upload),
                statistics.median(issue),
                None if on_device[0] is None else statistics.median(on_device),
                bench.host.nbytes,
                bench.operations(),
                bench.least_bytes(),
                None if bench.device == "cpu" else count_calls(bench)["launches"],
            )
        )
    return rows


def count_calls(bench: Bench) -> dict[str, Any]:
    """CUDA calls of one step: exact on an emulated device, a lower bound on a real one."""
    bench.step()
    with tinynn.trace(bench.device) as trace:
        bench.step()
    total = trace.total._asdict()
    names = ("launches", "library_calls", "bytes_up", "bytes_down", "synchronizations")
    return {name: total[name] for name in names}


def run(report: Report, arguments: argparse.Namespace, devices: list[str]) -> None:
    """Measure every network, kind of work and batch size."""
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
                except MemoryError as error:  # of the GPU, if there is one
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
    """Measure the peak rates of the device, unless its memory is too small."""
    backend = get_backend(device)
    try:
        report.limits[device] = {
            "launch": limits.launch_time(backend),
            "copy": limits.copy_bandwidth(backend),
            "upload": limits.upload_bandwidth(backend),
            "matmul": limits.matmul_peak(backend),
        }
    except MemoryError as error:
        report.stopped[f"the limits of {device}"] = str(error)


def start(
    report: Report, name: str, work: str, batch: int, able: list[str], cold: dict[str, float]
) -> Iterator[Bench]:
    """A bench for each device that has enough memory; its first step is the cold start."""
    for device in list(able):
        try:
            bench = Bench(name, work, batch, device)
            begin = time.perf_counter()
            bench.time(bench.step, 1)
        except MemoryError as error:
            able.remove(device)
            report.stopped[f"{name}, {work}, {device}"] = f"batch {batch}: {error}"
            continue
        key = f"{name}, {work}, {device}"
        if device != "cpu" and key not in report.cold_start:
            report.cold_start[key] = time.perf_counter() - begin
        yield bench


def progress(title: str, batches: list[int]) -> Any:
    """A progress bar on a terminal, a line of text elsewhere."""
    terminal = sys.stderr is not None and sys.stderr.isatty()
    if not terminal:
        say(f"measuring {title}")
    return tqdm(batches, desc=title, unit="batch", disable=not terminal)


def emulate(report: Report, arguments: argparse.Namespace, device: str) -> None:
    """Run every network once on an emulated device and count its CUDA calls."""
    for name in arguments.models:
        for work in arguments.work:
            bench = Bench(name, work, 2, device)
            report.counts.append({"subject": name, "work": work, "batch": 2, **count_calls(bench)})


# -- the command line -----------------------------------------------------------------------------


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Parse and check the command line."""
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
                        metavar="1,8,64", help="default: 1, 4, 16, ... until memory is full or a "
                        f"step takes more than {SLOWEST:g} s")  # fmt: skip
    parser.add_argument("--rounds", type=positive, default=7, help="rounds per device (default: 7)")
    parser.add_argument("--instance", choices=known, metavar="NAME",
                        help=f"instance type of this machine: {', '.join(known)}")  # fmt: skip
    parser.add_argument("--price", type=price, metavar="DOLLARS",
                        help="price per hour (default: from the price table)")  # fmt: skip
    parser.add_argument("--epochs", type=positive, default=30,
                        help="for the cost per trained model (default: 30)")  # fmt: skip
    parser.add_argument("--images", type=positive, default=10_000,
                        help="images per epoch, for the same cost (default: 10000)")  # fmt: skip
    parser.add_argument(
        "--require-gpu", action="store_true", help="fail (exit code 2) without a GPU"
    )
    parser.add_argument("--quick", action="store_true", help="two networks, two batch sizes")
    parser.add_argument(
        "--json", type=output_file, metavar="FILE", help="write all results as JSON"
    )
    parser.add_argument(
        "--plot", type=plot_file, metavar="FILE", help="plot throughput over batch size"
    )
    options = parser.parse_args(arguments)
    if options.quick:
        options.models, options.batch_sizes, options.rounds = ["face", "conv3x3"], [1, 16], 3
    return options


def batch_sizes(text: str) -> list[int]:
    """Comma-separated integers, sorted."""
    return sorted({positive(part) for part in text.split(",")})


def price(text: str) -> float:
    """A price in dollars above 0, for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"expected dollars per hour, above 0, got {text!r}")
    return value


def versions() -> dict[str, Any]:
    """Software versions, BLAS, threads and, if available, clock frequency."""
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
    """An empty report with the hardware, and the GPU to be measured, if any."""
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
    """Measure and print the results; Ctrl-C keeps those measured so far."""
    options = parse(arguments)
    report, gpu = find(options)
    show(str(tinynn.devices()))
    if gpu is None:
        show(f"\nNO GPU IS MEASURED: {report.why_no_gpu}")
        if options.require_gpu:
            say("error: --require-gpu is set")
            return 2
    code = 0
    try:
        if report.emulated and gpu is not None:
            show("\nEMULATED: the CPU emulates a GPU. Its calls are counted, nothing is timed.")
            emulate(report, options, gpu)
        devices = ["cpu"] if gpu is None or report.emulated else ["cpu", gpu]
        for device in devices if len(devices) > 1 else []:
            measure_limits(report, device)
        run(report, options, devices)
    except KeyboardInterrupt:
        say("interrupted: these are the results so far")
        code = 130
    show(table(report))
    show(answers(report, options))
    if options.json:
        content = json.dumps(asdict(report), indent=1, default=str).encode()
        code = write_report(options.json, content) or code
    if options.plot and report.rows:
        content = plot(report, options.plot.suffix.lstrip(".") or "png")
        code = write_report(options.plot, content) or code
    return code


if __name__ == "__main__":
    sys.exit(main())
