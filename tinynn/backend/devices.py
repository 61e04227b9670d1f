"""Devices by name: "cpu", "cuda", "cuda:1", and the backend that computes on each."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import numpy as np

from tinynn.backend.base import Backend
from tinynn.backend.numpy import NumpyBackend
from tinynn.errors import DeviceError


def get_backend(device: str) -> Backend:
    """The one backend of a device; DeviceError if there is no such device here."""
    match = re.fullmatch(r"(cpu)|cuda(?::(\d+))?", device) if isinstance(device, str) else None
    if match is None:
        raise DeviceError(f'expected a device "cpu", "cuda" or "cuda:<number>", got {device!r}')
    return _cpu() if match[1] else _cuda(int(match[2] or 0))


def backend_of(array: Any) -> Backend | None:
    """The backend that an array belongs to, or None if it is no array of ours."""
    if isinstance(array, np.ndarray):
        return _cpu()
    if type(array).__module__.partition(".")[0] == "cupy":
        return _cuda(array.device.id)
    return None


@cache
def _cpu() -> Backend:
    return NumpyBackend()


@cache
def _cuda(index: int) -> Backend:
    try:
        import cupy
    except ImportError as error:
        raise DeviceError(
            "a CUDA device needs CuPy, which is not installed: from the checkout run "
            "pip install -e '.[cuda12]' (driver 525 or newer) or, for a K80, "
            "pip install -e '.[cuda11]'; or use device \"cpu\""
        ) from error
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise DeviceError(f"CuPy is installed but finds no usable NVIDIA GPU: {error}") from error
    if index >= count:
        raise DeviceError(f"there is no device cuda:{index}: CUDA devices here: {count}")
    from tinynn.backend.cupy import CupyBackend

    return CupyBackend(index)
