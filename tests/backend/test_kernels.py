"""Every kernel of every backend agrees with the float64 reference, and repeats bit for bit."""

import numpy as np
import pytest

from tests.backend.reference import PLAIN
from tinynn.backend import Backend, get_backend
from tinynn.gpucheck import parity
from tinynn.gpucheck.cases import CHAINED, KERNELS, Case

NO_KERNELS = {
    "held_memory", "free_memory", "available_memory", "from_host", "to_host", "uploads",
    "synchronize", "peek", "session", "meter",
}  # fmt: skip


def test_no_kernel_is_missing() -> None:
    public = {name for name in vars(Backend) if not name.startswith("_")}
    names = {case.name for case in KERNELS}
    assert names == public - NO_KERNELS - set(Backend.__annotations__)
    assert names >= set(CHAINED)


@pytest.mark.parametrize("dtype", parity.TOLERANCE)
@pytest.mark.parametrize("case", KERNELS, ids=str)
def test_kernel(case: Case, dtype: str, device: str) -> None:
    expected = parity.run_kernel(case, PLAIN, "float64")
    backend = get_backend(device)
    results = parity.run_kernel(case, backend, dtype)
    assert parity.error(results, expected) < parity.TOLERANCE[dtype]
    for first, second in zip(results, parity.run_kernel(case, backend, dtype), strict=True):
        np.testing.assert_array_equal(first, second)
