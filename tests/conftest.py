"""``pytest --device cuda`` runs the tests that compute with tensors on a GPU (default: CPU)."""

import signal

import pytest

import tinynn
from tinynn.backend import get_backend
from tinynn.errors import DeviceError


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--device",
        default="cpu",
        help="device of the tensors: cpu (default) or cuda",
    )


def pytest_configure(config: pytest.Config) -> None:
    try:
        get_backend(config.getoption("--device"))
    except DeviceError as error:
        raise pytest.UsageError(f"--device: {error}") from error


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """On a device other than the CPU, run only the tests that use it."""
    if config.getoption("--device") == "cpu":
        return
    chosen = [item for item in items if "device" in getattr(item, "fixturenames", ())]
    config.hook.pytest_deselected(items=[item for item in items if item not in set(chosen)])
    items[:] = chosen


@pytest.fixture(autouse=True, scope="session")
def usual_signals() -> None:
    """Signals have their usual effect, here and in child processes, also under ``nohup``."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(signal.Signals[name], signal.SIG_DFL)


@pytest.fixture(autouse=True)
def same_random_sequence() -> None:
    """Every test draws the same initial weights, whichever tests ran before it."""
    tinynn.manual_seed(0)


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> str:
    """The device named on the command line."""
    return request.config.getoption("--device")
