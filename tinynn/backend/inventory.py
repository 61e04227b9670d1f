"""The devices of this machine."""

from __future__ import annotations

from typing import NamedTuple

from tinynn.backend.cpu import system
from tinynn.errors import DeviceError


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
        title = f"EMULATED: {self.title}" if self.emulated else self.title
        if self.compute_capability is None:
            parts = [title, f"{self.cores} cores"]
        else:
            capability = f"compute capability {self.compute_capability}"
            parts = [title, capability, f"{self.cores} multiprocessors"]
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
    """The CPU and all CUDA devices; if there are none, ``why_no_cuda`` states the reason.

    Imports CuPy if it is installed, but runs nothing on a GPU: whether a GPU works is tested when
    it is first used.

    Example:
        >>> print(tinynn.devices())
    """
    from tinynn.backend.cuda import setup  # here, so that ``import tinynn`` stays fast

    cpu = Device("cpu", *system.describe_cpu())
    try:
        cuda = setup.find_cuda()
    except DeviceError as error:
        return Devices([cpu], str(error))
    indices = range(cuda.device_count)
    gpus = [Device(f"cuda:{index}", *setup.describe_gpu(cuda, index)) for index in indices]
    return Devices([cpu, *gpus], None)
