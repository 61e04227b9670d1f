"""The interpreter's overhead: Python function calls of small operations, which do not vary."""

import sys
from pathlib import Path

import pytest

import tinynn

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import profile_step

MAXIMUM = {
    "a + b": 7,
    "conv2d forward and backward": 200,
    "Linear forward": 40,
    "SGD step": 14,
}


@pytest.fixture(autouse=True)
def one_thread():
    """All calls happen on the thread that counts them."""
    threads = tinynn.get_num_threads()
    tinynn.set_num_threads(1)
    yield
    tinynn.set_num_threads(threads)


def test_every_operation_has_a_maximum() -> None:
    assert set(profile_step.operations()) == set(MAXIMUM)


@pytest.mark.parametrize("name", MAXIMUM)
def test_calls(name: str) -> None:
    work = profile_step.operations()[name]
    calls = profile_step.count_calls(work)
    assert calls == profile_step.count_calls(work)
    assert calls <= MAXIMUM[name]


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    profile_step.print_calls()
    rows = capsys.readouterr().out.splitlines()
    assert [row[:32].rstrip() for row in rows] == list(MAXIMUM)
