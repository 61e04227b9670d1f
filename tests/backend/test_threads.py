"""The thread pool of the CPU kernels, the BLAS limit, and the usable cores."""

import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import tinynn
from tinynn.backend.cpu import threads
from tinynn.backend.cpu.system import cpu_quota, usable_cores
from tinynn.backend.cpu.threads import _blas, parallel, single_threaded_blas
from tinynn.errors import ArgumentError

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def restore() -> Iterator[None]:
    count = tinynn.get_num_threads()
    yield
    tinynn.set_num_threads(count)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_every_item_runs_once(count: int) -> None:
    tinynn.set_num_threads(count)
    done: list[int] = []
    parallel(done.append, range(100))
    assert sorted(done) == list(range(100))
    assert tinynn.get_num_threads() == count


@pytest.mark.parametrize("count", [1, 3])
def test_an_exception_reaches_the_caller(count: int) -> None:
    tinynn.set_num_threads(count)

    def fail(item: int) -> None:
        if item == 7:
            raise ZeroDivisionError(item)

    with pytest.raises(ZeroDivisionError):
        parallel(fail, range(10))
    done: list[int] = []
    parallel(done.append, range(10))
    assert len(done) == 10


def test_several_threads_can_call_at_once() -> None:
    tinynn.set_num_threads(2)
    done: list[int] = []
    callers = [threading.Thread(target=parallel, args=(done.append, range(50))) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(timeout=60)
    assert len(done) == 200


def test_calls_can_be_nested() -> None:
    tinynn.set_num_threads(3)
    done: list[int] = []
    parallel(lambda _: parallel(done.append, range(20)), range(20))
    assert len(done) == 400


def test_workers_inherit_numpy_errstate() -> None:
    tinynn.set_num_threads(2)
    together = threading.Barrier(2)
    found: list[str] = []

    def record(item: int) -> None:
        together.wait(60)  # one thread cannot run both
        found.append(np.geterr()["over"])

    for choice in ("raise", "ignore"):
        with np.errstate(over=choice):
            parallel(record, range(2))
    assert found == ["raise", "raise", "ignore", "ignore"]


def test_workers_keep_no_reference_to_their_work() -> None:
    tinynn.set_num_threads(2)
    array = np.ones(9)
    gone = weakref.ref(array)
    parallel(lambda item, array=array: array.sum(), range(2))  # type: ignore[misc]
    del array
    assert gone() is None


def test_blas_is_limited_to_one_thread_within_the_context_only() -> None:
    with single_threaded_blas():
        before = list(_blas.usual)
    for _ in range(2):  # a second time as well
        with single_threaded_blas():
            with single_threaded_blas():
                pass
            assert {library.num_threads for library in _blas.libraries or ()} == {1}
        assert [library.num_threads for library in _blas.libraries or ()] == before


def test_an_interrupt_reaches_the_caller() -> None:
    tinynn.set_num_threads(2)

    def interrupt(item: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        parallel(interrupt, range(10))


@pytest.mark.parametrize("allowed", [0, 1, 2])
def test_a_system_without_more_threads_means_fewer(
    allowed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tinynn.set_num_threads(5)
    start = threading.Thread.start
    started: list[threading.Thread] = []

    def limited(thread: threading.Thread) -> None:
        if len(started) >= allowed:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threads, "_pool", threads._Pool())
    threads._pool.chosen = 5
    monkeypatch.setattr(threading.Thread, "start", limited)
    for _ in range(3):
        done: list[int] = []
        parallel(done.append, range(50))
        assert sorted(done) == list(range(50))
    assert len(started) == allowed


def test_the_number_of_threads_may_fall_while_a_kernel_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The caller waits for no worker that was never started."""
    counts = iter([4, 4])
    monkeypatch.setattr(threads, "_pool", threads._Pool())
    monkeypatch.setattr(threads, "get_num_threads", lambda: next(counts, 1))
    done: list[int] = []
    caller = threading.Thread(target=parallel, args=(done.append, range(50)), daemon=True)
    caller.start()
    caller.join(timeout=20)
    assert not caller.is_alive()
    assert sorted(done) == list(range(50))


def test_a_process_exits_with_idle_workers() -> None:
    code = (
        "import tinynn; from tinynn.backend.cpu.threads import parallel; tinynn.set_num_threads(3);"
        "parallel(print, range(4))"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


@pytest.mark.parametrize("count", [0, -1, 1.5, True, "2"])
def test_the_number_of_threads_is_a_whole_number(count: object) -> None:
    with pytest.raises(ArgumentError, match="must be an integer >= 1"):
        tinynn.set_num_threads(count)  # type: ignore[arg-type]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_has_its_own_workers() -> None:
    tinynn.set_num_threads(2)
    parallel(lambda item: None, range(4))
    child = os.fork()
    if child == 0:
        done: list[int] = []
        parallel(done.append, range(4))
        os._exit(0 if len(done) == 4 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_forked_within_the_limit_has_the_usual_threads_of_blas() -> None:
    with single_threaded_blas():
        usual = list(_blas.usual)
        libraries = _blas.libraries
        child = os.fork()
        if child == 0:
            os._exit(0 if [library.num_threads for library in libraries] == usual else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize(
    ("files", "group", "cores"),
    [
        ({}, "", float("inf")),
        ({"cpu.max": "max 100000"}, "", float("inf")),
        ({"cpu.max": "150000 100000"}, "", 1.5),
        ({"a/b/cpu.max": "max 100000", "a/cpu.max": "400000 100000"}, "a/b", 4),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, "", float("inf")),
        ({"cpu/cpu.cfs_quota_us": "200000", "cpu/cpu.cfs_period_us": "100000"}, "", 2),
        ({"cpu.max": "nonsense"}, "", float("inf")),
    ],
)
def test_cpu_quota_of_a_cgroup(
    tmp_path: Path, files: dict[str, str], group: str, cores: float
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert cpu_quota(tmp_path, group) == cores


def test_at_least_one_core_is_usable() -> None:
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)
