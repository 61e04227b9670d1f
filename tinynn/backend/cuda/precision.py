"""What cuBLAS makes of float32 factors."""

from __future__ import annotations

import sys

from tinynn.errors import ArgumentError

_PRECISIONS = ("float32", "tf32")
_chosen: str | None = None  # None: nobody asked, CuPy's environment variable CUPY_TF32 decides


def set_matmul_precision(precision: str) -> None:
    """Let GPUs round the float32 factors of matrix products to 10 bits of mantissa: "tf32".

    "float32" is the default and takes it back. Only GPUs of compute capability 8.0 and up (A100,
    A10G, L4, H100) know TF32; others, and CPUs, go on in float32. Sums are made in float32 either
    way. The library's own convolution kernels, for layers of few channels, always compute in
    float32; this is about the products that cuBLAS makes. For all devices and threads.
    """
    global _chosen
    if precision not in _PRECISIONS:
        raise ArgumentError(f"expected a precision of {_PRECISIONS}, got {precision!r}")
    _chosen = precision
    if "cupy" in sys.modules:
        apply_matmul_precision()


def get_matmul_precision() -> str:
    """What ``set_matmul_precision`` chose: "float32" or "tf32"."""
    return _chosen or "float32"


def apply_matmul_precision() -> None:
    """Tell CuPy, once it is there."""
    if _chosen is None:
        return
    from cupy._core import _routines_linalg as linalg

    tf32 = _chosen == "tf32"
    linalg.set_compute_type("f", linalg.COMPUTE_TYPE_TF32 if tf32 else linalg.COMPUTE_TYPE_DEFAULT)
