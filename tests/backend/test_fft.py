"""Convolutions by FFT: all tilings, and when they are chosen."""

from collections.abc import Iterator

import numpy as np
import pytest

import tinynn
from tests.backend.reference import PLAIN
from tinynn import functional as F
from tinynn.backend import NeedsGrad, Window, get_backend
from tinynn.backend.cpu import tuning
from tinynn.backend.cpu.convolution import choice, fft
from tinynn.errors import ArgumentError

SAME = ((4, 5), (4, 5))
CASES = {
    "even kernel": ((3, 21, 18, 2), (10, 10, 2, 3), Window((10, 10), padding=SAME)),
    "flat kernel": ((2, 9, 20, 3), (1, 9, 3, 2), Window((1, 9))),
    "cropping": ((1, 24, 22, 1), (5, 6, 1, 4), Window((5, 6), padding=((-2, 1), (3, -3)))),
    "much padding": ((1, 6, 7, 2), (5, 5, 2, 1), Window((5, 5), padding=((9, 0), (0, 8)))),
    "one pixel": ((2, 5, 5, 2), (5, 5, 2, 2), Window((5, 5))),
}  # fmt: skip


@pytest.fixture
def algorithm() -> Iterator[None]:
    yield
    tinynn.set_conv2d_algorithm("auto")


def tiling(window: Window, size: tuple[int, int], channels: int, outputs: int, images: int):
    """The plan for an output of this size: a tiling, or another method."""
    height, width = (n + e - 1 for n, e in zip(size, window.extent, strict=True))
    problem = choice.problem(
        (images, height, width, channels), (images, *size, outputs), window, np.dtype("float32")
    )
    found = choice.forward(problem)
    return found if isinstance(found, fft.Tiling) else None


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [(12, 12), (16, 24), (32, 16)])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_equals_the_reference(case, size, dtype) -> None:
    x_shape, w_shape, window = case
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal(x_shape), rng.standard_normal(w_shape)
    expected = PLAIN.conv2d(x, weight, None, window)
    grad = rng.standard_normal(expected.shape)
    cut = fft.tiling_of(size, window.kernel, expected.shape[1:3])
    assert cut is not None
    x_, weight_, grad_ = (array.astype(dtype) for array in (x, weight, grad))
    out = np.empty(expected.shape, dtype)
    fft.conv2d(x_, weight_, window, cut, out)
    image, kernel = fft.gradients(x_, weight_, grad_, window, cut, (True, True))
    for ours, theirs in (
        (out, expected),
        (image, PLAIN.conv2d_input_gradient(grad, weight, window, x_shape)),
        (kernel, PLAIN.conv2d_weight_gradient(x, grad, window)),
    ):
        assert ours is not None
        assert ours.dtype == dtype
        scale = max(1.0, np.abs(theirs).max())
        np.testing.assert_allclose(
            ours, theirs, atol=scale * (3e-6 if dtype == "float32" else 1e-13)
        )


def test_a_batch_in_several_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    x_shape, w_shape, window = CASES["even kernel"]
    x, weight = np.ones(x_shape) + np.arange(3)[:, None, None, None], np.ones(w_shape)
    cut = fft.tiling_of((16, 16), window.kernel, (21, 18))
    assert cut is not None
    whole, parts = (np.empty((3, 21, 18, 3)) for _ in range(2))
    fft.conv2d(x, weight, window, cut, whole)
    one = fft.gradients(x, weight, whole, window, cut, (True, True))
    monkeypatch.setattr(tuning, "FFT_SPECTRA_BYTES", 1)
    fft.conv2d(x, weight, window, cut, parts)
    several = fft.gradients(x, weight, whole, window, cut, (True, True))
    for ours, theirs in zip((parts, *several), (whole, *one), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def test_only_the_gradients_that_are_needed() -> None:
    x_shape, w_shape, window = CASES["even kernel"]
    cut = fft.tiling_of((16, 16), window.kernel, (21, 18))
    arrays = np.ones(x_shape), np.ones(w_shape), np.ones((3, 21, 18, 3))
    assert cut is not None
    image, kernel = fft.gradients(*arrays, window, cut, (True, False))
    assert image is not None
    assert kernel is None
    image, kernel = fft.gradients(*arrays, window, cut, (False, True))
    assert image is None
    assert kernel is not None


def test_large_kernels_are_chosen_and_small_ones_are_not() -> None:
    same = Window((10, 10), padding=SAME)
    assert tiling(same, (46, 46), 32, 64, 16)
    assert tiling(Window((3, 3)), (46, 46), 32, 64, 16) is None
    assert tiling(same._replace(stride=(2, 2)), (23, 23), 32, 64, 16) is None
    assert tiling(same, (91, 91), 1, 32, 16) is None, "one channel has little to multiply"
    assert tiling(Window((5, 5)), (14, 14), 128, 128, 1) is None, "the weight costs too much"


@pytest.mark.usefixtures("algorithm")
def test_an_algorithm_can_be_set() -> None:
    window = Window((3, 3))
    tinynn.set_conv2d_algorithm("spectral")
    assert tinynn.get_conv2d_algorithm() == "fft"
    assert tiling(window, (6, 6), 2, 2, 1)
    x, weight = tinynn.randn((2, 8, 9, 3)), tinynn.randn((3, 3, 3, 4))
    by_fft = F.conv2d(x, weight).numpy()
    tinynn.set_conv2d_algorithm("matrix")
    assert tiling(Window((10, 10)), (46, 46), 32, 64, 16) is None
    by_matrix = F.conv2d(x, weight).numpy()
    np.testing.assert_allclose(by_fft, by_matrix, atol=2e-5)
    with pytest.raises(
        ArgumentError, match=r'"auto" or "matrix" or "winograd" or "fft".* got \'direct\''
    ):
        tinynn.set_conv2d_algorithm("direct")


@pytest.mark.usefixtures("algorithm")
@pytest.mark.parametrize("count", [1, 3])
def test_results_do_not_depend_on_the_number_of_threads(count: int) -> None:
    before = tinynn.get_num_threads()
    tinynn.set_conv2d_algorithm("fft")
    backend, rng = get_backend("cpu"), np.random.default_rng(0)
    x = rng.standard_normal((5, 20, 20, 3)).astype(np.float32)
    weight = rng.standard_normal((7, 7, 3, 4)).astype(np.float32)
    window = Window((7, 7), padding=((3, 3), (3, 3)))

    def results():
        out = backend.conv2d(x, weight, None, window)
        return out, *backend.conv2d_gradients(x, weight, out, window, NeedsGrad(True, True, True))

    try:
        tinynn.set_num_threads(2)
        expected = results()
        tinynn.set_num_threads(count)
        for ours, theirs in zip(results(), expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    finally:
        tinynn.set_num_threads(before)
