"""Winograd F(m, r): the matrices, and which m is chosen."""

import numpy as np
import pytest

import tinynn
from tinynn.backend import Window
from tinynn.backend.cpu.convolution import choice
from tinynn.backend.cpu.convolution.rows import Layout
from tinynn.backend.cpu.convolution.winograd import count_products, transforms

CASES = [
    (outputs, taps, stride)
    for outputs in (2, 4, 6)
    for taps in (*range(1, 12), 31)
    for stride in range(1, 4)
]


def m_of(window: Window, rows: int) -> int:
    """The output rows that are computed together."""
    height = (rows - 1) * window.stride[0] + window.extent[0]
    shapes = (1, height, 40, 2), (1, rows, window.output_size(height, 40)[1], 2)
    problem = choice.problem(*shapes, window, np.dtype("float32"))
    layout = choice.weight_gradient(problem)
    assert isinstance(layout, Layout)
    return layout.m


def correlated(d: np.ndarray, g: np.ndarray, outputs: int, stride: int) -> np.ndarray:
    """By the definition."""
    return np.stack([d[i * stride : i * stride + len(g)].T @ g for i in range(outputs)])


@pytest.mark.parametrize(("outputs", "taps", "stride"), CASES)
def test_matrices_compute_a_correlation(outputs: int, taps: int, stride: int) -> None:
    matrices = transforms(outputs, taps, stride, np.dtype("float64"))
    rng = np.random.default_rng(outputs + 10 * taps + 100 * stride)
    d, g = rng.standard_normal((matrices.input.shape[1], 5)), rng.standard_normal(taps)
    products = (matrices.kernel @ g)[:, None] * (matrices.input @ d)
    expected = correlated(d, g, outputs, stride)
    np.testing.assert_allclose(matrices.output @ products, expected, atol=1e-12)


@pytest.mark.parametrize(("outputs", "taps", "stride"), CASES)
def test_as_many_products_as_were_counted(outputs: int, taps: int, stride: int) -> None:
    matrices = transforms(outputs, taps, stride, np.dtype("float32"))
    assert len(matrices.kernel) == count_products(outputs, taps, stride, outputs)


@pytest.mark.parametrize(
    ("kernel", "stride", "rows", "m", "products"),
    [
        (3, 1, 48, 6, 64),
        (3, 1, 32, 4, 48),  # as many products as with six, and smaller errors
        (3, 1, 2, 2, 4),
        (3, 1, 1, 1, 3),
        (3, 2, 12, 6, 26),
        (5, 1, 28, 4, 56),
        (7, 1, 28, 4, 91),  # split into two filters
        (10, 1, 92, 4, 368),
        (11, 2, 28, 4, 140),
        (1, 1, 28, 1, 28),
        (2, 2, 28, 1, 56),  # each kernel row has input rows of its own
    ],
)
def test_the_fewest_products_are_chosen(
    kernel: int, stride: int, rows: int, m: int, products: int
) -> None:
    assert m_of(Window((kernel, kernel), (stride, stride)), rows) == m
    assert count_products(rows, kernel, stride, m) == products


def test_not_with_dilated_rows_or_where_it_is_switched_off() -> None:
    assert m_of(Window((3, 3), dilation=(2, 1)), 48) == 1
    assert m_of(Window((3, 3), dilation=(1, 2)), 48) == 6
    tinynn.set_conv2d_algorithm("matrix")
    try:
        assert m_of(Window((3, 3)), 48) == 1
    finally:
        tinynn.set_conv2d_algorithm("auto")


@pytest.mark.parametrize(("outputs", "taps", "stride"), CASES)
def test_float32_stays_near(outputs: int, taps: int, stride: int) -> None:
    """Errors are some roundings of the largest result, not hundreds."""
    rng = np.random.default_rng(0)
    d64 = rng.standard_normal(((outputs - 1) * stride + taps, 4096))
    g64 = rng.standard_normal(taps)
    matrices = transforms(outputs, taps, stride, np.dtype("float32"))
    d, g = d64.astype(np.float32), g64.astype(np.float32)
    ours = matrices.output @ ((matrices.kernel @ g)[:, None] * (matrices.input @ d))
    expected = correlated(d.astype(np.float64), g.astype(np.float64), outputs, stride)
    assert ours.dtype == np.float32
    assert np.abs(ours - expected).max() < 30 * np.finfo(np.float32).eps * np.abs(expected).max()
