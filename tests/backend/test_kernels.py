"""Every kernel of every backend agrees with the float64 reference, and repeats bit for bit."""

import pytest

from tinynn.backend import Backend, get_backend
from tinynn.gpucheck.cases import CHAINED, KERNELS, Case
from tinynn.gpucheck.parity import TABLES, TOLERANCE

NO_KERNELS = {
    "held_memory", "free_memory", "available_memory", "from_host", "to_host", "uploads",
    "synchronize", "peek", "session", "meter",
}  # fmt: skip


def test_no_kernel_is_missing() -> None:
    public = {name for name in vars(Backend) if not name.startswith("_")}
    names = {case.name for case in KERNELS}
    assert names == public - NO_KERNELS - set(Backend.__annotations__)
    assert names >= set(CHAINED)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("case", KERNELS, ids=str)
def test_kernel(case: Case, dtype: str, device: str) -> None:
    assert TABLES["kernels"].error(case, get_backend(device), dtype) < TOLERANCE[dtype]
