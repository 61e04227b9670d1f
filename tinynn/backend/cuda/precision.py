"""The precision in which cuBLAS multiplies float32 matrices: float32 or TF32."""

from __future__ import annotations

import sys

from tinynn.arguments import choice

_PRECISIONS = ("float32", "tf32")
_chosen: str | None = None  # None: not set, CuPy's environment variable CUPY_TF32 decides


def set_matmul_precision(precision: str) -> None:
    """Set the precision of float32 matrix products on GPUs, for all devices and threads.

    With "tf32" tensor cores round the factors to 10 bits of mantissa and accumulate in float32.
    GPUs of compute capability 8.0 and up (A100, A10G, L4, H100) support it; others, and CPUs, stay
    in float32. It applies to cuBLAS: the library's own convolution kernels, which layers of few
    channels use, always compute in float32.

    Args:
        precision: "float32" (the default) or "tf32".

    Raises:
        ArgumentError: For any other precision.
    """
    global _chosen
    _chosen = choice("set_matmul_precision: precision", precision, *_PRECISIONS)
    if "cupy" in sys.modules:
        apply_matmul_precision()


def get_matmul_precision() -> str:
    """The precision of float32 matrix products on GPUs: "float32" or "tf32"."""
    return _chosen or "float32"


def apply_matmul_precision() -> None:
    """Pass the setting to CuPy, once it is imported."""
    if _chosen is None:
        return
    from cupy._core import _routines_linalg as linalg

    tf32 = _chosen == "tf32"
    linalg.set_compute_type("f", linalg.COMPUTE_TYPE_TF32 if tf32 else linalg.COMPUTE_TYPE_DEFAULT)
