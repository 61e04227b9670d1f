"""Every kernel of every backend gives what the reference gives in float64, in each run the same."""

import numpy as np
import pytest

from tests.backend.reference import PLAIN
from tinynn.backend import Backend, get_backend
from tinynn.gpucheck import parity

NO_KERNELS = {
    "held_memory", "free_memory", "available_memory", "from_host", "to_host", "uploads",
    "synchronize", "peek",
}  # fmt: skip


def test_no_kernel_is_missing() -> None:
    public = {name for name in vars(Backend) if not name.startswith("_")}
    assert {kernel.name for kernel in parity.kernels()} == public - NO_KERNELS - set(
        Backend.__annotations__
    )


@pytest.mark.parametrize("dtype", parity.TOLERANCE)
@pytest.mark.parametrize("number", range(len(parity.kernels())))
def test_kernel(number: int, dtype: str, device: str) -> None:
    kernel = parity.kernels()[number]
    expected = parity.call_kernel(kernel, PLAIN, "float64")
    backend = get_backend(device)
    ours = parity.call_kernel(kernel, backend, dtype)
    assert parity.error(ours, expected) < parity.TOLERANCE[dtype], kernel.name
    for one, again in zip(ours, parity.call_kernel(kernel, backend, dtype), strict=True):
        np.testing.assert_array_equal(one, again)
