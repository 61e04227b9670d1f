"""What devices there are, in words."""

from __future__ import annotations

# import tinynn is to be quick: the search for a GPU is imported by the functions that search
import os
import platform
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tinynn.backend.cpu.system import usable_cores
from tinynn.errors import DeviceError

if TYPE_CHECKING:
    from tinynn.backend.cuda.setup import Cuda


class Device(NamedTuple):
    """A device and what is worth knowing of it; ``print`` it."""

    name: str  # "cpu", "cuda:0": what a ``device=`` takes
    title: str  # the model
    cores: int  # usable cores of a CPU, multiprocessors of a GPU
    memory: int | None  # bytes, of the whole device
    versions: tuple[str, ...]  # of the software that computes
    compute_capability: str | None = None  # of a GPU: "7.5"
    emulated: bool = False  # a CPU that plays a GPU: it counts right, its times mean nothing
    problem: str | None = None  # why it cannot be used

    def __str__(self) -> str:
        parts = [f"EMULATED: {self.title}" if self.emulated else self.title]
        if self.compute_capability is None:
            parts.append(f"{self.cores} cores")
        else:
            parts.append(f"compute capability {self.compute_capability}")
            parts.append(f"{self.cores} multiprocessors")
        if self.memory is not None:
            parts.append(f"{self.memory / 2**30:.1f} GiB")
        text = f"{self.name:<8}{', '.join([*parts, *self.versions])}"
        return text if self.problem is None else f"{text}\n        not usable: {self.problem}"


class Devices(list[Device]):
    """The devices of a machine and, if none of them is a CUDA device, ``why_no_cuda``."""

    def __init__(self, devices: list[Device], why_no_cuda: str | None) -> None:
        super().__init__(devices)
        self.why_no_cuda = why_no_cuda

    def __str__(self) -> str:
        lines = [str(device) for device in self]
        if self.why_no_cuda is not None:
            lines.append(f"{'no cuda':<8}{self.why_no_cuda}")
        return "\n".join(lines)

    __repr__ = __str__


def devices() -> Devices:
    """The CPU and every CUDA device, and why there is no CUDA device if there is none.

    Looks for CuPy and imports it. It starts nothing on a GPU: whether one really computes shows
    when it is first used.

    >>> print(tinynn.devices())
    """
    from tinynn.backend.cuda.setup import find_cuda

    try:
        cuda = find_cuda()
    except DeviceError as error:
        return Devices([_cpu()], str(error))
    return Devices([_cpu(), *(_gpu(cuda, index) for index in range(cuda.device_count))], None)


def _cpu() -> Device:
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    versions = (f"NumPy {np.__version__}", f"{blas.get('name')} {blas.get('version')}")
    return Device("cpu", _cpu_title(), usable_cores(), _main_memory(), versions)


def _cpu_title() -> str:
    from pathlib import Path

    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:  # not Linux
        pass
    return platform.processor() or platform.machine()


def _main_memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows and others do not tell
        return None


def _gpu(cuda: Cuda, index: int) -> Device:
    from tinynn.backend.cuda.setup import device_title, dotted, driver_title, why_unfit

    properties: dict[str, Any] = cuda.cupy.cuda.runtime.getDeviceProperties(index)
    title = device_title(properties)
    runtime = dotted(cuda.cupy.cuda.runtime.runtimeGetVersion())
    return Device(
        f"cuda:{index}",
        title,
        properties["multiProcessorCount"],
        properties["totalGlobalMem"],
        (cuda.title, f"CUDA {runtime}", driver_title(cuda)),
        f"{properties['major']}.{properties['minor']}",
        cuda.emulated or title == "CPU emulation of CUDA",
        why_unfit(cuda, index),
    )
