"""Which way a convolution on a CPU takes: by counting, or by hand."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

from tinynn.backend.window import Window
from tinynn.errors import ArgumentError

_GROUPS = (1, 2, 4, 6)  # rows of output that may be computed together
_MOST_PRODUCTS = 8  # of a group with some taps: with more, rounding errors grow
_NAMES = ("auto", "matrix", "winograd", "spectral")
_chosen = "auto"


def set_conv2d_algorithm(name: str) -> None:
    """How convolutions are computed on a CPU.

    "matrix": each row of the image times each row of the kernel. "winograd": some rows of output
    at a time, from combinations of rows, with fewer products; not where rows are dilated.
    "spectral": in the frequency domain, whatever the kernel; with a stride, dilation or groups as
    "winograd". "auto" (the default) counts multiplications: it takes "winograd", and for kernels of
    5 pixels and more "spectral" where that saves enough.

    Results differ by rounding. Where an image holds an infinity, the latter two give NaN in more
    pixels of that image.
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
    if window.dilation[0] > 1 or _chosen == "matrix":
        return 1
    return _fewest_products(window, rows)


@lru_cache(maxsize=256)
def _fewest_products(window: Window, rows: int) -> int:
    return min(_GROUPS, key=lambda group: row_products(window, rows, group))


def row_products(window: Window, rows: int, group: int) -> int:
    """How often a row of the image, or a combination of rows, meets one of the kernel."""
    taps, stride = window.kernel[0], window.stride[0]
    if group == 1:
        return rows * taps
    return -(-rows // group) * (len(runs_of_taps(taps, stride, group)) * (group - 1) + taps)


@lru_cache(maxsize=256)
def runs_of_taps(taps: int, stride: int, group: int) -> Sequence[range]:
    """The rows of a kernel that are combined with each other, for a group of rows of output.

    With a stride each residue of the image's rows meets its own rows of the kernel; those of a
    large kernel are cut, so that no run takes more than some products.
    """
    most = _MOST_PRODUCTS + 1 - group
    found: list[range] = []
    for phase in range(min(stride, taps)):
        rows = range(phase, taps, stride)
        count = -(-len(rows) // most)
        edges = [len(rows) * part // count for part in range(count + 1)]
        found += [rows[start:stop] for start, stop in pairwise(edges)]
    return tuple(found)
