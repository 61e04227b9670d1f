"""Find a usable GPU for the name "cuda", or explain why there is none.

Each check that can fail has one message: what was found, what is missing, what to run. CuPy is
imported here, when a CUDA device is first requested, and not earlier. Only names that exist in both
CuPy 13.6 and 14 are used; the one difference is in ``_preload_cuda11_wheels``.
"""

from __future__ import annotations

import os
import re
import sys
import warnings
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tinynn.errors import DeviceError
from tinynn.messages import warn

if TYPE_CHECKING:
    from importlib.metadata import Distribution


class Extra(NamedTuple):
    """One of the CUDA extras of pyproject.toml and what its CUDA version requires."""

    name: str
    driver: str  # NVIDIA driver release
    capability: tuple[int, int]  # lowest compute capability


EXTRAS = {  # by the major version of CUDA
    11: Extra("cuda11", "470 (a GPU later than a K80 takes newer ones too)", (3, 5)),
    12: Extra("cuda12", "525 or newer", (5, 0)),
    13: Extra("cuda13", "580 or newer", (7, 5)),
}


class Cuda(NamedTuple):
    """CuPy and the CUDA installation under it."""

    cupy: Any
    package: str  # the distribution: "cupy-cuda12x"
    extra: Extra
    emulated: bool
    device_count: int

    @property
    def title(self) -> str:
        """Version and distribution of CuPy."""
        return f"CuPy {self.cupy.__version__} ({self.package})"


@cache
def find_cuda() -> Cuda:
    """CuPy on a machine with at least one CUDA device; raises DeviceError with the reason."""
    found = _cupy_distributions()
    _warn_of_several(found)
    _preload_cuda11_wheels(found)
    cupy = _import_cupy(found)
    package = found[0].name if found else "cupy"
    extra = EXTRAS.get(cupy.cuda.driver.get_build_version() // 1000, EXTRAS[12])
    emulated = bool(found) and found[0].version.endswith("+cpuemu")
    cuda = Cuda(cupy, package, extra, emulated, 0)
    return cuda._replace(device_count=_count_devices(cuda))


# -- CuPy ------------------------------------------------------------------------------------------


def _cupy_distributions() -> list[Distribution]:
    """The installed distributions of the package ``cupy``; first the one that is imported."""
    from importlib.metadata import distributions

    found: dict[str, Distribution] = {}
    for distribution in distributions():  # in the order of sys.path
        if re.fullmatch(r"cupy(-cuda\w+|-rocm[\w-]*)?", distribution.name or ""):
            found.setdefault(distribution.name, distribution)
    return list(found.values())


def _warn_of_several(found: list[Distribution]) -> None:
    names = sorted(distribution.name for distribution in found)
    if len(names) > 1:
        warn(
            f"{' and '.join(names)} are both installed and overwrite each other's files: run "
            f"pip uninstall {' '.join(names)}, then {_install('cuda12')} (for a K80 '.[cuda11]')",
            RuntimeWarning,
            stacklevel=2,
        )


def _preload_cuda11_wheels(found: list[Distribution]) -> None:
    """Load NVIDIA's libraries from their wheels, which CuPy 13 does not search (14 does).

    The dynamic linker then finds a loaded library by its name.
    """
    if not found or found[0].name != "cupy-cuda11x":
        return
    import ctypes
    from importlib.metadata import PackageNotFoundError, distribution

    for wheel, libraries in _CUDA11_WHEELS.items():
        with suppress(PackageNotFoundError):  # the system may have the libraries
            files = {file.name: file for file in distribution(wheel).files or ()}
            for library in libraries:
                if library in files:
                    ctypes.CDLL(str(files[library].locate()), mode=ctypes.RTLD_GLOBAL)


_CUDA11_WHEELS = {  # dependencies first
    "nvidia-cuda-runtime-cu11": ("libcudart.so.11.0",),
    "nvidia-cuda-nvrtc-cu11": ("libnvrtc-builtins.so.11.8", "libnvrtc.so.11.2"),
    "nvidia-cublas-cu11": ("libcublasLt.so.11", "libcublas.so.11"),
    "nvidia-curand-cu11": ("libcurand.so.10",),
}


def _import_cupy(found: list[Distribution]) -> Any:
    try:
        with warnings.catch_warnings():  # CuPy's own warning of several distributions
            warnings.filterwarnings("ignore", message=r"[\s-]*CuPy may not function correctly")
            import cupy
    except ImportError as error:
        if found:
            problem = (
                f"{found[0].name} {found[0].version} is installed but cannot be imported "
                f"({_last_line(error)}): {_install(_extra_of(found[0].name))}, which installs its "
                "dependencies"
            )
        elif sys.platform == "darwin":
            problem = "a CUDA device needs CuPy, which is not available for macOS"
        else:
            problem = (
                f"a CUDA device needs CuPy, which is not installed: {_install('cuda12')} (driver "
                f"{EXTRAS[12].driver}) or, for a K80 (AWS p2) with driver 470, pip install -e "
                f"'.[cuda11]'{_python_for_cuda11()}"
            )
        raise _device_error(problem) from error
    return cupy


# -- the driver and its devices --------------------------------------------------------------------


def _count_devices(cuda: Cuda) -> int:
    runtime = cuda.cupy.cuda.runtime
    if runtime.driverGetVersion() == 0:
        raise _device_error(
            f"{cuda.title} is installed, but there is no NVIDIA driver: install driver "
            f"{cuda.extra.driver}; nvidia-smi lists the GPU once it is installed"
        )
    try:
        count = int(runtime.getDeviceCount())
    except runtime.CUDARuntimeError as error:
        insufficient_driver, no_device = 35, 100  # cudaError_t of driver_types.h
        if error.status == insufficient_driver:
            raise _device_error(_old_driver(cuda)) from error
        if error.status != no_device:
            raise _device_error(
                f"{cuda.title} and the {_driver_title(cuda)} do not work together ({error}): "
                "nvidia-smi may show more; a driver that was just updated needs a restart"
            ) from error
        count = 0
    if not count:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        hint = "" if visible is None else f"CUDA_VISIBLE_DEVICES={visible!r} may hide it; "
        raise _device_error(
            f"{cuda.title} and the {_driver_title(cuda)} are installed, but there is no GPU: "
            f"{hint}nvidia-smi should list one; {_for_a_k80(cuda)}"
        )
    return count


def _driver_title(cuda: Cuda) -> str:
    """The release of NVIDIA's driver, if Linux reports it, and its CUDA version."""
    version, release = cuda.cupy.cuda.runtime.driverGetVersion(), ""
    with suppress(OSError):
        text = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8")
        match = re.search(r"Kernel Module.*?\s(\d+\.\d+[.\d]*)", text)
        release = f"{match[1]} " if match else ""
    return f"NVIDIA driver {release}for CUDA {_dotted(version)}"


def _dotted(version: int) -> str:
    """A CUDA version in its usual form: 12060 is 12.6."""
    return f"{version // 1000}.{version % 1000 // 10}"


def _old_driver(cuda: Cuda) -> str:
    advice = f"install driver {cuda.extra.driver}"
    major = cuda.cupy.cuda.runtime.driverGetVersion() // 1000
    if major == 11:
        advice += f" or, {_for_a_k80(cuda)}"
    elif major in EXTRAS:
        advice += f", or {_change(cuda.package, EXTRAS[major].name)}"
    return (
        f"the {_driver_title(cuda)} is too old for {cuda.title}, which is built for CUDA "
        f"{_dotted(cuda.cupy.cuda.driver.get_build_version())}: {advice}"
    )


# -- one device ------------------------------------------------------------------------------------


def why_unfit(cuda: Cuda, index: int) -> str | None:
    """Why this version of CUDA does not support a device, or None if it does."""
    properties = cuda.cupy.cuda.runtime.getDeviceProperties(index)
    capability = (properties["major"], properties["minor"])
    if capability >= cuda.extra.capability:
        return None
    old = capability < EXTRAS[12].capability
    advice = _for_a_k80(cuda) if old else _change(cuda.package, "cuda12")
    return (
        f"cuda:{index}, a {_device_title(properties)}, has compute capability "
        f"{capability[0]}.{capability[1]}, and {cuda.title} needs "
        f"{'.'.join(map(str, cuda.extra.capability))} or newer: {advice}{_OR_CPU}"
    )


def describe_gpu(cuda: Cuda, index: int) -> tuple[Any, ...]:
    """Title, multiprocessors, bytes, versions, compute capability, emulated, why it is unusable."""
    runtime = cuda.cupy.cuda.runtime
    properties = runtime.getDeviceProperties(index)
    return (
        _device_title(properties),
        properties["multiProcessorCount"],
        properties["totalGlobalMem"],
        (cuda.title, f"CUDA {_dotted(runtime.runtimeGetVersion())}", _driver_title(cuda)),
        f"{properties['major']}.{properties['minor']}",
        is_emulated(cuda, index),
        why_unfit(cuda, index),
    )


def _device_title(properties: dict[str, Any]) -> str:
    """The model name of a GPU."""
    name = properties["name"]
    return name.decode(errors="replace") if isinstance(name, bytes) else str(name)


def is_emulated(cuda: Cuda, index: int) -> bool:
    """Whether a CPU executes the kernels: counts are right, times meaningless."""
    properties = cuda.cupy.cuda.runtime.getDeviceProperties(index)
    return cuda.emulated or _device_title(properties) == "CPU emulation of CUDA"


def smoke_test(cuda: Cuda, index: int) -> None:
    """Compile a kernel and multiply two matrices; DeviceError if a device fails at that."""
    cupy = cuda.cupy
    try:
        with cupy.cuda.Device(index):
            ones = cupy.ones((2, 2), dtype="float32")
            result = cupy.asnumpy(cupy.matmul(ones + ones, ones))
    except Exception as error:  # CuPy raises many types for what is missing
        raise _device_error(_first_failure(cuda, index, error)) from error
    if (result != 4).any():
        raise DeviceError(
            f"cuda:{index} computes a wrong matrix product: expected 4 for every element, got "
            f"{result.tolist()}; does the driver support {cuda.title}?"
        )


def _first_failure(cuda: Cuda, index: int, error: Exception) -> str:
    out_of_memory = 2  # cudaErrorMemoryAllocation
    if isinstance(error, MemoryError) or getattr(error, "status", 0) == out_of_memory:
        return (
            f"cuda:{index} has no free memory for a first computation ({_last_line(error)}): end "
            "the program that uses it (nvidia-smi lists them)"
        )
    match = _LIBRARY.search(str(error))
    if match:
        return (
            f"{cuda.title} finds a GPU, but not NVIDIA's {match[0].partition('.so')[0]}: "
            f"{_install(cuda.extra.name)}, which installs it"
        )
    return (
        f"a first computation on cuda:{index} fails with {cuda.title} and the "
        f"{_driver_title(cuda)} ({type(error).__name__}: {_last_line(error)}): "
        f"{_install(cuda.extra.name)} may install what is missing"
    )


_LIBRARY = re.compile(r"\blib\w+\.so[.\d]*\b|\b\w+64_\w+\.dll|\bcu\w+\.h\b")


# -- what to run -----------------------------------------------------------------------------------

_OR_CPU = '; or use device "cpu"'


def _device_error(problem: str) -> DeviceError:
    return DeviceError(problem + _OR_CPU)


def _install(extra: str) -> str:
    return f"from the checkout run pip install -e '.[{extra}]'"


def _change(package: str, extra: str) -> str:
    return f"run pip uninstall {package}, then from the checkout pip install -e '.[{extra}]'"


def _for_a_k80(cuda: Cuda) -> str:
    advice = "for a K80 (AWS p2), use driver 470 (newer ones do not support it)"
    if cuda.extra.name == "cuda11":
        return advice
    return f"{advice} and {_change(cuda.package, 'cuda11')}{_python_for_cuda11()}"


def _python_for_cuda11() -> str:
    return " (with Python 3.13 or older)" if sys.version_info >= (3, 14) else ""


def _extra_of(package: str) -> str:
    match = re.match(r"cupy-cuda(\d\d)", package)
    return EXTRAS.get(int(match[1]) if match else 12, EXTRAS[12]).name


def _last_line(error: BaseException) -> str:
    """The line of a long message that names the cause."""
    lines = [line.strip() for line in str(error).splitlines()]
    lines = [line for line in lines if line.strip("=-")] or [type(error).__name__]
    return lines[-1][:200]
