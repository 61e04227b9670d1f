"""Devices by name."""

import sys

import numpy as np
import pytest

from tinynn.backend import backend_of, get_backend
from tinynn.errors import DeviceError


def test_each_device_has_one_backend(device: str) -> None:
    backend = get_backend(device)
    assert get_backend(device) is backend
    assert backend_of(backend.xp.zeros(3)) is backend
    assert backend.device == device


def test_other_objects_belong_to_no_device() -> None:
    assert backend_of([1.0]) is None
    assert backend_of(np.float32(1)) is None


@pytest.mark.parametrize("name", ["", "gpu", "CPU", "cuda:", "cuda:-1", "cuda:x", 0, None])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(DeviceError, match='"cpu", "cuda" or "cuda:<number>"'):
        get_backend(name)


def test_a_missing_library_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)  # what import finds is nothing
    with pytest.raises(DeviceError, match=r"needs CuPy.*cuda12.*cuda11.*or use device \"cpu\""):
        get_backend("cuda:7")


def test_a_device_that_is_not_there(device: str) -> None:
    if device == "cpu":
        pytest.skip("needs CuPy")
    with pytest.raises(DeviceError, match="no device cuda:99"):
        get_backend("cuda:99")


def test_arrays_go_there_and_back(device: str) -> None:
    backend = get_backend(device)
    array = np.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(backend.to_host(backend.from_host(array)), array)
