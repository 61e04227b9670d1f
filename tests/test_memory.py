"""Memory that is cached between steps."""

import gc
import threading
from collections.abc import Iterator

import numpy as np
import pytest

import tinynn
from tinynn import functional as F
from tinynn.backend.cpu import buffers
from tinynn.errors import ArgumentError


@pytest.fixture(autouse=True)
def restore() -> Iterator[None]:
    yield
    tinynn.memory.set_limit(1 << 28)


def step(device: str) -> None:
    x = tinynn.randn((4, 16, 16, 3), device=device)
    weight = tinynn.randn((3, 3, 3, 8), device=device).requires_grad_()
    F.conv2d_relu_max_pool2d(x, weight, padding=1).sum().backward()


def test_held_memory_can_be_freed(device: str) -> None:
    step(device)
    gc.collect()
    kinds = {"buffers"} if device == "cpu" else {"arrays", "free", "pinned"}
    assert set(tinynn.memory.held(device)) == kinds
    kept = "buffers" if device == "cpu" else "free"
    before = tinynn.memory.held(device)[kept]
    tinynn.memory.free(device)
    left = tinynn.memory.held(device)[kept]
    assert left < before
    assert left == 0 or device != "cpu"  # a pool keeps blocks that an array in use shares
    step(device)  # and everything is allocated again


def test_a_limit(device: str) -> None:
    if device != "cpu":
        pytest.skip("of the CPU's buffers")
    tinynn.memory.set_limit(0)
    step("cpu")
    assert tinynn.memory.held("cpu") == {"buffers": 0}
    tinynn.memory.set_limit(1 << 20)
    step("cpu")
    assert 0 < tinynn.memory.held("cpu")["buffers"] <= tinynn.get_num_threads() << 20
    for wrong in (-1, 1.5, True):
        with pytest.raises(ArgumentError, match="the bytes must be an integer >= 0"):
            tinynn.memory.set_limit(wrong)  # type: ignore[arg-type]


def test_freeing_while_another_thread_computes(device: str) -> None:
    if device != "cpu":
        pytest.skip("of the CPU's buffers")
    failures: list[BaseException] = []

    def compute() -> None:
        try:
            for _ in range(40):
                step("cpu")
        except BaseException as error:
            failures.append(error)

    worker = threading.Thread(target=compute)
    worker.start()
    while worker.is_alive():
        tinynn.memory.free("cpu")
        tinynn.memory.held("cpu")
    worker.join()
    assert not failures


def test_buffers_beyond_the_limit_are_not_cached(device: str) -> None:
    if device != "cpu":
        pytest.skip("of the CPU's buffers")
    shelf = buffers._this_thread.buffers

    def check() -> int:
        for rows in shelf.views.values():
            for name in ("output", "transformed"):
                assert np.may_share_memory(getattr(rows, name), shelf[name])
        return len(shelf.views)

    counts = []
    for limit in (0, 1 << 17, 200_000, 1 << 28):
        tinynn.memory.set_limit(limit)
        for size in (8, 32, 16):  # the second one's buffers are larger, or too large
            x = tinynn.randn((1, size, size, 8))
            F.conv2d(x, tinynn.ones((3, 3, 8, 8)), padding=1)
            counts.append(check())
    assert max(counts) > 1


def test_buffers_are_freed_with_their_thread(device: str) -> None:
    if device != "cpu":
        pytest.skip("of the CPU's buffers")
    tinynn.memory.free("cpu")
    worker = threading.Thread(target=step, args=("cpu",))
    worker.start()
    worker.join()
    gc.collect()
    held = tinynn.memory.held("cpu")["buffers"]
    step("cpu")
    assert tinynn.memory.held("cpu")["buffers"] > held
