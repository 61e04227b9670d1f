"""Which way a convolution on a CPU takes: by counting, or by hand."""

from __future__ import annotations

from tinynn.backend.windows import Window
from tinynn.errors import ArgumentError

_GROUPS = (1, 2, 4, 6)  # rows of output that may be computed together
_MOST_PRODUCTS = 8  # for a group, where rows are combined: with more, rounding errors grow
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


def rows_together(window: Window, rows: int) -> int:
    """How many rows of output to compute together, for the fewest products; 1: each by itself."""
    if window.stride != (1, 1) or window.dilation[0] > 1 or _chosen == "matrix":
        return 1
    allowed = [m for m in _GROUPS if m == 1 or m + window.kernel[0] - 1 <= _MOST_PRODUCTS]
    return min(allowed, key=lambda group: row_products(window, rows, group))


def row_products(window: Window, rows: int, group: int) -> int:
    """How often a row of the image, or a combination of rows, meets one of the kernel."""
    taps = window.kernel[0]
    return rows * taps if group == 1 else -(-rows // group) * (group + taps - 1)
