"""Devices by name ("cpu", "cuda", "cuda:1"), their backends, and the default device."""

from __future__ import annotations

import copyreg
import os
import re
import threading
from contextlib import AbstractContextManager
from typing import Any, overload

import numpy as np

from tinynn.backend.cpu.backend import NumpyBackend
from tinynn.backend.reference import Backend
from tinynn.errors import DeviceError
from tinynn.scoped import Scoped

_CPU = -1  # CUDA devices count from 0
_backends: dict[int, Backend] = {}
_opening = threading.Lock()


def get_backend(device: str) -> Backend:
    """The backend of a device; DeviceError if this machine has no such device."""
    match = re.fullmatch(r"(cpu)|cuda(?::(\d+))?", device) if isinstance(device, str) else None
    if match is None:
        raise DeviceError(f'expected a device "cpu", "cuda" or "cuda:<number>", got {device!r}')
    index = _CPU if match[1] else int(match[2] or 0)
    return _backends.get(index) or _open(index)


def backend_of(array: Any) -> Backend | None:
    """The backend of an array, or None if it is neither NumPy's nor CuPy's."""
    if isinstance(array, np.ndarray):
        return _backends.get(_CPU) or _open(_CPU)
    if type(array).__module__.partition(".")[0] == "cupy":
        return _backends.get(array.device.id) or _open(array.device.id)
    return None


def _open(index: int) -> Backend:
    """Create the backend of a device, unless another thread has just done so."""
    with _opening:  # two threads must not create two: tensors compare backends by identity
        if index not in _backends:
            backend = NumpyBackend() if index == _CPU else _open_cuda(index)
            copyreg.pickle(type(backend), _reduce)
            _backends[index] = backend
        return _backends[index]


def _reduce(backend: Backend) -> tuple[Any, ...]:
    """Copies and pickles of a tensor share the one backend of its device."""
    return get_backend, (backend.device,)


def _open_cuda(index: int) -> Backend:
    """The backend of a CUDA device that has passed a smoke test."""
    from tinynn.backend.cuda.setup import find_cuda, smoke_test, why_unfit

    cuda = find_cuda()
    if index >= cuda.device_count:
        names = ", ".join(f"cuda:{number}" for number in range(cuda.device_count))
        raise DeviceError(f"there is no device cuda:{index}: CUDA devices here: {names}")
    problem = why_unfit(cuda, index)
    if problem is not None:
        raise DeviceError(problem)
    smoke_test(cuda, index)
    if cuda.device_count == 1:
        from tinynn.backend.cuda.backend import CupyBackend

        return CupyBackend(index)
    from tinynn.backend.cuda.several_gpus import OneOfSeveral

    return OneOfSeveral(index)


# -- default device --------------------------------------------------------------------------------


class _Process:
    default: Backend | None = None  # None: TINYNN_DEVICE has not been read yet


_block: Scoped[Backend | None] = Scoped("default_device", None)


@overload
def default_device() -> str: ...
@overload
def default_device(device: str) -> AbstractContextManager[None]: ...
def default_device(device: str | None = None) -> str | AbstractContextManager[None]:
    """The device of new tensors and parameters for which none is given.

    Without an argument, returns its name, as set by the innermost ``with`` block, else by
    ``set_default_device``, else by the environment variable TINYNN_DEVICE (read once), else "cpu".
    With an argument, returns a context in which the default is another device, on this thread only.
    Existing tensors stay where they are, and functions compute on the device of their operands.

    Example:
        >>> with tinynn.default_device("cuda:1"):
        ...     model = nn.Linear(8, 2)
    """
    if device is not None:  # a missing device is an error here, not in the block
        backend = get_backend(device)
        return _block.block(lambda before: backend)
    return default_backend().device


def set_default_device(device: str) -> None:
    """Create new tensors and parameters on a device, on every thread of this process."""
    _Process.default = get_backend(device)


def default_backend() -> Backend:
    """The backend of the default device."""
    return _block.get() or _Process.default or _from_environment()


def _from_environment() -> Backend:
    device = os.environ.get("TINYNN_DEVICE") or "cpu"
    try:
        _Process.default = get_backend(device)
    except DeviceError as error:
        raise DeviceError(f"the environment variable TINYNN_DEVICE={device!r}: {error}") from error
    return _Process.default
