"""Devices by name: "cpu", "cuda", "cuda:1"; the backend of each, and where new tensors are born."""

from __future__ import annotations

import copyreg
import os
import re
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any, overload

import numpy as np

from tinynn.backend.cpu.backend import NumpyBackend
from tinynn.backend.reference import Backend
from tinynn.errors import DeviceError

_CPU = -1  # among the numbers of CUDA devices
_backends: dict[int, Backend] = {}
_making = threading.Lock()


def get_backend(device: str) -> Backend:
    """The one backend of a device; DeviceError if there is no such device here."""
    match = re.fullmatch(r"(cpu)|cuda(?::(\d+))?", device) if isinstance(device, str) else None
    if match is None:
        raise DeviceError(f'expected a device "cpu", "cuda" or "cuda:<number>", got {device!r}')
    return _backend(_CPU if match[1] else int(match[2] or 0))


def backend_of(array: Any) -> Backend | None:
    """The backend that an array belongs to, or None if it is no array of ours."""
    if isinstance(array, np.ndarray):
        return _backend(_CPU)
    if type(array).__module__.partition(".")[0] == "cupy":
        return _backend(array.device.id)
    return None


def _backend(index: int) -> Backend:
    found = _backends.get(index)
    if found is None:
        with _making:  # two threads must not get two backends: tensors compare them
            found = _backends.get(index)
            if found is None:
                found = NumpyBackend() if index == _CPU else _open(index)
                copyreg.pickle(type(found), _reduce)
                _backends[index] = found
    return found


def _reduce(backend: Backend) -> tuple[Any, ...]:
    """Copies and pickles of a tensor share the one backend of its device."""
    return get_backend, (backend.device,)


def _open(index: int) -> Backend:
    """A CUDA device that has been seen to compute."""
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


# -- where new tensors are born --------------------------------------------------------------------


class _Process:
    default: Backend | None = None  # None: not asked for yet, TINYNN_DEVICE decides


_block: ContextVar[Backend | None] = ContextVar("default_device", default=None)


@overload
def default_device() -> str: ...
@overload
def default_device(device: str) -> AbstractContextManager[None]: ...
def default_device(device: str | None = None) -> str | AbstractContextManager[None]:
    """Where tensors and parameters are born whose maker names no device.

    Without an argument: its name, which is that of the innermost ``with`` block, else that of
    ``set_default_device``, else the environment variable TINYNN_DEVICE (read once), else "cpu".
    With one: a ``with`` block in which it is another, on the thread that runs the block only.
    It moves nothing: what computes is always the device of the operands.

    >>> with tinynn.default_device("cuda:1"):
    ...     model = nn.Linear(8, 2)
    """
    if device is not None:  # one that is not there is said here, not in the block
        return _default_block(get_backend(device))
    return default_backend().device


def set_default_device(device: str) -> None:
    """Have new tensors and parameters born on a device, on every thread of this process."""
    _Process.default = get_backend(device)


def default_backend() -> Backend:
    """The backend of the default device."""
    return _block.get() or _Process.default or _from_environment()


@contextmanager
def _default_block(backend: Backend) -> Iterator[None]:
    token = _block.set(backend)
    try:
        yield
    finally:
        _block.reset(token)


def _from_environment() -> Backend:
    device = os.environ.get("TINYNN_DEVICE") or "cpu"
    try:
        _Process.default = get_backend(device)
    except DeviceError as error:
        raise DeviceError(f"the environment variable TINYNN_DEVICE={device!r}: {error}") from error
    return _Process.default
