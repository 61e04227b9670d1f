"""Which way a convolution on a CPU takes: by counting, or by hand."""

from __future__ import annotations

from tinynn.errors import ArgumentError

_NAMES = ("auto", "matrix", "winograd", "spectral")
_chosen = "auto"


def set_conv2d_algorithm(name: str) -> None:
    """How convolutions without stride, dilation and groups are computed on a CPU.

    "matrix": the pixels under the kernel times the weight. "winograd": kernels of three rows with
    four products for two rows of output, in place of six; others as in "matrix". "spectral": in the
    frequency domain, whatever the kernel. "auto" (the default) counts multiplications: it takes
    "winograd", and for kernels of 5 pixels and more "spectral" where that saves enough. Results
    differ by rounding.
    """
    global _chosen
    if name not in _NAMES:
        names = ", ".join(f'"{known}"' for known in _NAMES)
        raise ArgumentError(f"set_conv2d_algorithm expects one of {names}, got {name!r}")
    _chosen = name


def get_conv2d_algorithm() -> str:
    """What ``set_conv2d_algorithm`` was called with last, or "auto"."""
    return _chosen
