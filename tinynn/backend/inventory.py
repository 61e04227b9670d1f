"""The devices of this machine."""

from __future__ import annotations

# the search for a GPU is imported where it is used, so that ``import tinynn`` stays fast
import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tinynn.backend.cpu.system import usable_cores
from tinynn.errors import DeviceError

if TYPE_CHECKING:
    from tinynn.backend.cuda.setup import Cuda


class Device(NamedTuple):
    """A device and its properties; ``print`` it."""

    name: str  # "cpu", "cuda:0": the argument ``device=``
    title: str  # model name
    cores: int  # usable CPU cores, or multiprocessors
    memory: int | None  # bytes, of the whole device
    versions: tuple[str, ...]  # of the libraries that compute
    compute_capability: str | None = None  # of a GPU: "7.5"
    emulated: bool = False  # a CPU executes the kernels: counts are right, times meaningless
    problem: str | None = None  # why it is unusable

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
    """The CPU and all CUDA devices; if there is none of those, ``why_no_cuda`` says why.

    Imports CuPy if it is installed, but runs nothing on a GPU: whether a GPU works is tested when
    it is first used.

    Example:
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
    from tinynn.backend.cuda.setup import device_title, dotted, driver_title, is_emulated, why_unfit

    properties: dict[str, Any] = cuda.cupy.cuda.runtime.getDeviceProperties(index)
    runtime = dotted(cuda.cupy.cuda.runtime.runtimeGetVersion())
    return Device(
        f"cuda:{index}",
        device_title(properties),
        properties["multiProcessorCount"],
        properties["totalGlobalMem"],
        (cuda.title, f"CUDA {runtime}", driver_title(cuda)),
        f"{properties['major']}.{properties['minor']}",
        is_emulated(cuda, index),
        why_unfit(cuda, index),
    )
