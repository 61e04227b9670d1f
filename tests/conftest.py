"""``pytest --device cuda`` runs the tests of the numeric floors on a GPU (default: cpu)."""

import pytest

from tinynn.backend import get_backend
from tinynn.errors import DeviceError


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--device", default="cpu", help="where tensors of the tests live: cpu (default) or cuda"
    )


def pytest_configure(config: pytest.Config) -> None:
    try:
        get_backend(config.getoption("--device"))
    except DeviceError as error:
        raise pytest.UsageError(f"--device: {error}") from error


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> str:
    """The device that was asked for on the command line."""
    return request.config.getoption("--device")
