"""The arithmetic of sliding windows."""

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from tinynn.backend import Window, same_padding

sizes, kernels, steps = st.integers(1, 30), st.integers(1, 6), st.integers(1, 5)


def fits(size: int, padding: tuple[int, int], extent: int, stride: int) -> int:
    """Counted, not computed."""
    return len(range(0, size + sum(padding) - extent + 1, stride))


@settings(deadline=None)  # the machine may be busy
@given(sizes, kernels, steps, steps, st.integers(0, 3), st.integers(0, 3))
def test_output_size(
    size: int, kernel: int, stride: int, dilation: int, before: int, after: int
) -> None:
    window = Window((kernel, 1), (stride, 1), ((before, after), (0, 0)), (dilation, 1))
    extent = len(range(0, kernel * dilation, dilation)) and (kernel - 1) * dilation + 1
    assert window.extent[0] == extent
    assert window.output_size(size, 1) == (fits(size, (before, after), extent, stride), 1)


@settings(deadline=None)  # the machine may be busy
@given(sizes, kernels, steps)
def test_same_padding_gives_one_output_per_stride(size: int, extent: int, stride: int) -> None:
    before, after = same_padding(size, extent, stride)
    assert after - before in (0, 1)
    assert fits(size, (before, after), extent, stride) == math.ceil(size / stride) or (
        stride > extent and before == after == 0
    )


@settings(deadline=None)  # the machine may be busy
@given(sizes, kernels, steps, st.integers(0, 3))
def test_rounding_up_covers_the_image(size: int, kernel: int, stride: int, border: int) -> None:
    padding = min(border, kernel // 2)
    window = Window((kernel, 1), (stride, 1), ((padding, padding), (0, 0)))
    rounded = window.rounding_up(size, 1)
    count = rounded.output_size(size, 1)[0]
    last = (count - 1) * stride - padding
    assert last < size
    assert rounded.padding[0][0] == padding
    assert last + kernel >= size + padding or last + stride >= size


def test_taps_name_rows_and_columns_in_order() -> None:
    window = Window((2, 2), (3, 1), dilation=(2, 1))
    taps = [(i, j, list(range(9))[r], list(range(9))[c]) for i, j, r, c in window.taps(2, 3)]
    assert taps == [
        (0, 0, [0, 3], [0, 1, 2]),
        (0, 1, [0, 3], [1, 2, 3]),
        (1, 0, [2, 5], [0, 1, 2]),
        (1, 1, [2, 5], [1, 2, 3]),
    ]
