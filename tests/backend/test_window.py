"""The arithmetic of sliding windows."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinynn.backend import Window, same_padding
from tinynn.backend.cuda.geometry import Shape, packed, sliding
from tinynn.errors import ShapeError

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


@pytest.mark.parametrize(
    ("image", "size", "window", "outputs"),
    [
        ((1, 2**31, 1, 1), (1, 1), Window((1, 1), (2, 2)), 1),
        ((1, 46341, 46341, 1), (46341, 46341), Window((3, 3), padding=((1, 1), (1, 1))), 1),
        ((1, 9, 9, 2**20), (1, 1), Window((9, 9)), 32),
        ((1, 2**16, 2**16, 1), (1, 1), Window((2**16, 2**16)), 0),
    ],
)
def test_sizes_beyond_the_integers_of_a_cuda_kernel(
    image: Shape, size: Shape, window: Window, outputs: int
) -> None:
    with pytest.raises(ShapeError, match=r"2\*\*31"):
        sliding(image, size, window, outputs)


def test_sizes_within_the_integers_of_a_cuda_kernel() -> None:
    geometry = sliding((2**31 - 1, 2**15, 2**15, 1), (2**15, 2**15), Window((3, 3)), 8)
    assert packed(geometry)["images"] == 2**31 - 1
