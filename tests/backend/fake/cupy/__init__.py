"""The part of CuPy that opening a GPU uses, on a machine that the variable FAKE describes."""

import json
import os
from types import SimpleNamespace

import numpy as np

MACHINE = json.loads(os.environ["FAKE"])
if "import_error" in MACHINE:
    raise ImportError(MACHINE["import_error"])
__version__ = "14.2.0"


class CUDARuntimeError(RuntimeError):
    """An error of the CUDA runtime, with its number."""

    def __init__(self, status):
        super().__init__(f"cudaError {status}")
        self.status = status


class DynamicLibNotFoundError(RuntimeError):
    """Raised by cuda-pathfinder, with which CuPy 14 finds libraries."""


class Device:
    """One GPU, as a context."""

    def __init__(self, index):
        self.index = index

    def __enter__(self):
        if "missing" in MACHINE:
            raise DynamicLibNotFoundError(f'Failure finding "{MACHINE["missing"]}"')
        if "status_of_first_use" in MACHINE:
            raise CUDARuntimeError(MACHINE["status_of_first_use"])

    def __exit__(self, *error):
        pass


def get_device_count():
    if "status" in MACHINE:
        raise CUDARuntimeError(MACHINE["status"])
    return len(MACHINE["capabilities"])


def get_device_properties(index):
    major, minor = MACHINE["capabilities"][index]
    return {
        "name": b"Tesla X1",
        "major": major,
        "minor": minor,
        "totalGlobalMem": 12 << 30,
        "multiProcessorCount": 13,
    }


def is_available():
    raise AssertionError("13.6 raises on the first call, 14 says False")


ndarray = np.ndarray
ones = np.ones
asnumpy = np.asarray


def matmul(a, b):
    return np.matmul(a, b) + MACHINE.get("matmul_is_off_by", 0)


cuda = SimpleNamespace(
    Device=Device,
    is_available=is_available,
    driver=SimpleNamespace(get_build_version=lambda: MACHINE["cuda"]),
    runtime=SimpleNamespace(
        CUDARuntimeError=CUDARuntimeError,
        driverGetVersion=lambda: MACHINE["driver"],
        runtimeGetVersion=lambda: MACHINE["cuda"],
        getDeviceCount=get_device_count,
        getDeviceProperties=get_device_properties,
    ),
)
