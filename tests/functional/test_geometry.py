"""Window arguments: every notation gives the same window."""

from typing import Any

import pytest

from tinynn.backend import Window
from tinynn.errors import ArgumentError, ShapeError
from tinynn.functional.geometry import conv2d_window, conv_transpose2d_window, pool_window

IMAGE, WEIGHT = (2, 10, 11, 3), (3, 3, 3, 4)
PADDED = Window((3, 3), (2, 2), ((1, 1), (1, 1)))


@pytest.mark.parametrize(
    ("stride", "padding", "dilation"),
    [
        (2, 1, 1),
        ((2, 2), (1, 1), (1, 1)),
        ([2, 2], [1, 1], [1, 1]),  # not hashable, hence not cached
        (2, ((1, 1), (1, 1)), 1),
    ],
)
def test_notations_of_a_convolution(stride: Any, padding: Any, dilation: Any) -> None:
    assert conv2d_window("conv2d", IMAGE, WEIGHT, 1, stride, padding, dilation) == PADDED


def test_same_padding_depends_on_the_image() -> None:
    even = conv2d_window("conv2d", IMAGE, (2, 2, 3, 4), 1, 1, "same", 1)
    assert even.padding == ((0, 1), (0, 1))
    assert even.output_size(10, 11) == (10, 11)
    assert conv2d_window("conv2d", IMAGE, WEIGHT, 1, 2, "same", 1).output_size(10, 11) == (5, 6)


def test_pooling_steps_by_its_kernel() -> None:
    assert pool_window("max_pool2d", IMAGE, 2, None, 0, 1, False) == Window((2, 2), (2, 2))
    assert pool_window("max_pool2d", IMAGE, 2, None, 0, 1, True).output_size(10, 11) == (5, 6)


def test_transposed_convolution_inverts_the_size() -> None:
    window, size = conv_transpose2d_window("t", (2, 5, 6, 4), (3, 3), 1, 2, 1, (1, 0), 1)
    assert window == PADDED
    assert size == (10, 11)
    assert window.output_size(*size) == (5, 6)


@pytest.mark.parametrize(
    ("error", "stride", "padding", "dilation"),
    [
        (ArgumentError, 0, 0, 1),
        (ArgumentError, (1, 2, 3), 0, 1),
        (ArgumentError, 1, -1, 1),
        (ArgumentError, 1, "valid", 1),
        (ArgumentError, 1, 0, 1.5),
        (ShapeError, 1, 0, 8),
    ],
)
def test_invalid_arguments(
    error: type[Exception], stride: Any, padding: Any, dilation: Any
) -> None:
    with pytest.raises(error, match="conv2d"):
        conv2d_window("conv2d", IMAGE, WEIGHT, 1, stride, padding, dilation)
