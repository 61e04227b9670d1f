"""Ctrl-C at any moment: contexts that the interrupted code was in are left, and none is entered."""

import gc
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import tinynn
from tinynn import functional as F
from tinynn import memory, nn
from tinynn.backend import tracing
from tinynn.backend.cpu.threads import _blas, parallel, single_threaded_blas
from tinynn.nn import fusion, init
from tinynn.nn.module import observe
from tinynn.precision import is_autocast

pytestmark = [
    pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs signal.setitimer"),
    pytest.mark.skipif(
        threading.current_thread() is not threading.main_thread(), reason="needs the main thread"
    ),
]

MODEL = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.MaxPool2d(2))
IMAGES = tinynn.tensor(np.random.default_rng(0).random((2, 10, 10, 1), dtype=np.float32))


def in_context(make: Callable[[], Any]) -> Callable[[], None]:
    def run() -> None:
        with make():
            pass

    return run


def train() -> None:
    MODEL(IMAGES).sum().backward()


def infer() -> None:
    with tinynn.no_grad(), nn.constant_weights(), MODEL.in_mode(training=False):
        MODEL(IMAGES)


WORKS: dict[str, Callable[[], object]] = {
    "no_grad": in_context(tinynn.no_grad),
    "decorator": tinynn.no_grad()(lambda: None),
    "enable_grad": in_context(tinynn.enable_grad),
    "autocast": in_context(tinynn.autocast),
    "default_device": in_context(lambda: tinynn.default_device("cpu")),
    "in_mode": in_context(lambda: MODEL.in_mode(training=False)),
    "constant_weights": in_context(nn.constant_weights),
    "skip_initialization": in_context(lambda: init.skip_initialization(7)),
    "observe": in_context(lambda: observe([(MODEL, lambda module, inputs, output: output)])),
    "trace": in_context(tinynn.trace),
    "session": in_context(IMAGES.backend.session),
    "convolution": lambda: F.conv2d(IMAGES, MODEL[0].weight),
    "matmul": lambda: IMAGES @ IMAGES.permute(0, 1, 3, 2),
    "training": train,
    "inference": infer,
}


def state() -> dict[str, object]:
    return {
        "recording": tinynn.is_grad_enabled(),
        "autocast": is_autocast(),
        "block of a device": tinynn.backend.registry._block.get(),
        "training": [module.training for module in MODEL.modules()],
        "folds": fusion._folds.get(),
        "allowance": memory.allowance.get(),
        "observed": MODEL.is_observed,
        "traced": tracing.active,
        "BLAS": [library.num_threads for library in _blas.libraries],
        "holders": len(_blas.holders),
    }


@pytest.fixture
def alarm() -> Iterator[None]:
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    gc.disable()  # an interrupt within a callback of the collector (hypothesis has one) is lost
    yield
    gc.enable()
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(params=[1, 2], ids=["1 thread", "2 threads"])
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    """With 2 threads the workers contend for the GIL, which widens the gaps between operations."""
    count = tinynn.get_num_threads()
    tinynn.set_num_threads(request.param)
    yield
    tinynn.set_num_threads(count)


def interrupt(work: Callable[[], object], rng: random.Random) -> KeyboardInterrupt:
    """Repeat some work until a signal raises KeyboardInterrupt in it."""
    try:
        # again only if the first is lost: a second one may interrupt the end of a context
        signal.setitimer(signal.ITIMER_REAL, rng.uniform(50e-6, 1e-3), 10.0)
        while True:
            work()
    except KeyboardInterrupt as error:
        return error  # a notebook keeps it, and with the traceback all frames
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


@pytest.mark.parametrize("name", WORKS)
def test_no_context_stays_entered(name: str, alarm: None, threads: None) -> None:
    with single_threaded_blas():
        pass  # finds the libraries
    work, rng, right = WORKS[name], random.Random(0), state()
    kept: list[KeyboardInterrupt] = []
    for _ in range(80):
        kept[:] = [interrupt(work, rng)]
        assert state() == right


def test_parallel_waits_for_its_workers(alarm: None) -> None:
    """After an interrupt no worker writes to an array that the caller may use again."""
    writing: list[int] = []  # by workers

    def write(item: int) -> None:
        if threading.current_thread() is threading.main_thread():  # may be interrupted anywhere
            time.sleep(0.002)
            return
        writing.append(item)
        try:
            time.sleep(0.002)
        finally:
            writing.remove(item)

    count = tinynn.get_num_threads()
    tinynn.set_num_threads(3)
    for seed in range(10):
        interrupt(lambda: parallel(write, range(30)), random.Random(seed))
        assert writing == []
    tinynn.set_num_threads(count)
