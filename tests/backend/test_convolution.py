"""Convolutions of a backend, in all variants, compared with the reference kernels in float64."""

from typing import Any

import numpy as np
import pytest

from tests.backend.reference import PLAIN
from tinynn.backend import Backend, BatchNorm, NeedsGrad, PooledGrad, Window, get_backend

SAME = ((1, 1), (1, 1))
CASES = {  # name: (images, weight, window)
    "one channel, one image": ((1, 7, 5, 1), (3, 3, 1, 1), Window((3, 3))),
    "few channels": ((3, 9, 8, 3), (3, 3, 3, 16), Window((3, 3), padding=SAME)),
    "sizes that fill no tile": ((2, 11, 7, 5), (3, 2, 5, 19), Window((3, 2), padding=SAME)),
    "more outputs than a tile": ((2, 6, 6, 4), (3, 3, 4, 70), Window((3, 3))),
    "stride and dilation": ((2, 13, 12, 4), (3, 3, 4, 6), Window((3, 3), (2, 3), SAME, (2, 1))),
    "uneven padding": ((2, 6, 6, 2), (3, 3, 2, 4), Window((3, 3), (1, 2), ((0, 2), (3, 1)))),
    "padding that crops": (
        (2, 9, 9, 2),
        (3, 3, 2, 4),
        Window((3, 3), (1, 1), ((-1, 0), (1, -2))),
    ),
    "pointwise": ((2, 5, 4, 6), (1, 1, 6, 9), Window((1, 1))),
    "pointwise, strided": ((2, 5, 4, 6), (1, 1, 6, 9), Window((1, 1), (2, 2))),
    "many channels": ((2, 5, 6, 64), (3, 3, 64, 128), Window((3, 3), padding=SAME)),
    "many channels, strided": ((3, 7, 6, 57), (3, 3, 57, 130), Window((3, 3), (2, 2), SAME)),
    "groups": ((2, 6, 5, 16), (3, 3, 8, 20), Window((3, 3), padding=SAME, groups=2)),
    "depthwise": ((3, 17, 19, 40), (3, 3, 1, 40), Window((3, 3), (2, 1), padding=SAME, groups=40)),
    "depthwise, several outputs": ((2, 6, 5, 3), (3, 3, 1, 9), Window((3, 3), groups=3)),
    "large kernel": ((2, 20, 19, 4), (7, 7, 4, 5), Window((7, 7), padding=((3, 3), (3, 3)))),
    "thin groups": ((2, 9, 8, 6), (3, 3, 2, 6), Window((3, 3), (1, 2), ((1, 0), (2, 1)), groups=3)),
    "depthwise, cropping": (
        (2, 9, 9, 4),
        (3, 3, 1, 4),
        Window((3, 3), padding=((-1, 1), (0, -2)), groups=4),
    ),
    "stride beyond the kernel": ((2, 11, 9, 3), (2, 1, 3, 4), Window((2, 1), (3, 2))),
    "no images": ((0, 6, 5, 3), (3, 3, 3, 4), Window((3, 3))),
    "no images, many channels": ((0, 6, 5, 64), (3, 3, 64, 128), Window((3, 3))),
    "many pixels": ((4, 40, 40, 3), (3, 3, 3, 8), Window((3, 3), padding=SAME)),
}
TOLERANCE = {"float16": 2e-2, "float32": 2e-5, "float64": 1e-12}


def normal(*shape: int, dtype: str) -> np.ndarray:
    """Values that float16 represents exactly, so that every dtype gets the same ones."""
    numbers = np.random.default_rng(shape).standard_normal(shape).astype(np.float16)
    return numbers.astype(dtype)


def close(ours: np.ndarray, theirs: np.ndarray) -> None:
    scale = np.abs(theirs).max(initial=1)
    np.testing.assert_allclose(
        ours.astype(np.float64), theirs, rtol=0, atol=TOLERANCE[ours.dtype.name] * scale
    )


def compare(device: str, kernel: str, dtype: str, *arguments: Any) -> None:
    """Compare a kernel on the device with the plain reference in float64."""
    backend = get_backend(device)
    there = [
        backend.from_host(a.astype(dtype)) if isinstance(a, np.ndarray) else a for a in arguments
    ]
    ours, again = (getattr(backend, kernel)(*there) for _ in range(2))
    theirs = getattr(PLAIN, kernel)(*arguments)
    if not isinstance(theirs, tuple):
        ours, again, theirs = (ours,), (again,), (theirs,)
    for result, repeated, expected in zip(ours, again, theirs, strict=True):
        if expected is None:
            assert result is None
            continue
        assert result.shape == expected.shape
        assert result.dtype == dtype or result.dtype.kind == "i"
        if result.dtype == dtype:
            close(backend.to_host(result), expected)
        else:
            np.testing.assert_array_equal(backend.to_host(result), expected)
        np.testing.assert_array_equal(backend.to_host(result), backend.to_host(repeated))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_convolution_and_its_gradients(device: str, case: tuple[Any, ...], dtype: str) -> None:
    x_shape, w_shape, window = case
    x, weight = normal(*x_shape, dtype="float64"), normal(*w_shape, dtype="float64")
    bias = normal(w_shape[3], dtype="float64")
    size = window.output_size(*x_shape[1:3])
    grad = normal(x_shape[0], *size, w_shape[3], dtype="float64")
    compare(device, "conv2d", dtype, x, weight, bias, window)
    compare(device, "conv2d", dtype, x, weight, None, window)
    compare(device, "conv2d_input_gradient", dtype, grad, weight, window, x_shape)
    compare(device, "conv2d_weight_gradient", dtype, x, grad, window)
    for needs_grad in (NeedsGrad(True, True, True), NeedsGrad(False, True, False)):
        compare(device, "conv2d_gradients", dtype, x, weight, grad, window, needs_grad)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("outputs", [1, 20, 40])
@pytest.mark.parametrize("size", [(6, 6), (7, 9)])
def test_pooled_convolution(device: str, size: tuple[int, int], outputs: int, dtype: str) -> None:
    x = normal(3, *size, 3, dtype="float64")
    weight, bias = normal(3, 3, 3, outputs, dtype="float64"), normal(outputs, dtype="float64")
    window, pool = Window((3, 3), padding=SAME), Window((2, 2), (2, 2))
    backend = get_backend(device)
    there = [backend.from_host(a.astype(dtype)) for a in (x, weight, bias)]
    out, winner = backend.conv2d_relu_pool(*there, window, pool)
    expected, winners = PLAIN.conv2d_relu_pool(x, weight, bias, window, pool)
    close(backend.to_host(out), expected)
    if dtype != "float16":  # where rounding makes ties, the first one wins
        np.testing.assert_array_equal(backend.to_host(winner), winners)


@pytest.mark.parametrize("pool", [Window((3, 3), (2, 2)), Window((2, 2), (2, 2), ((0, 1), (0, 1)))])
def test_pooled_otherwise(device: str, pool: Window) -> None:
    x, weight = normal(2, 7, 7, 2, dtype="float64"), normal(3, 3, 2, 5, dtype="float64")
    compare(device, "conv2d_relu_pool", "float64", x, weight, None, Window((3, 3)), pool)


def test_pooled_in_groups(device: str) -> None:
    x, weight = normal(2, 8, 8, 4, dtype="float64"), normal(3, 3, 2, 6, dtype="float64")
    window, pool = Window((3, 3), groups=2), Window((2, 2), (2, 2))
    compare(device, "conv2d_relu_pool", "float64", x, weight, None, window, pool)


def test_nan_stays_in_its_window(device: str) -> None:
    x = normal(1, 8, 8, 1, dtype="float64")
    x[0, 1, 1, 0] = np.nan
    window, pool = Window((1, 3)), Window((2, 2), (2, 2))
    weight = normal(1, 3, 1, 2, dtype="float64")
    backend = get_backend(device)
    out, _ = backend.conv2d_relu_pool(
        backend.from_host(x), backend.from_host(weight), None, window, pool
    )
    expected, _ = PLAIN.conv2d_relu_pool(x, weight, None, window, pool)
    np.testing.assert_array_equal(np.isnan(backend.to_host(out)), np.isnan(expected))


def test_views(device: str) -> None:
    backend = get_backend(device)
    x, weight = normal(2, 6, 8, 3, dtype="float64"), normal(3, 3, 3, 4, dtype="float64")
    window = Window((3, 3))
    turned = backend.from_host(x).transpose(0, 2, 1, 3)[:, ::2]
    flipped = backend.from_host(weight)[::-1]
    out = backend.conv2d(turned, flipped, None, window)
    expected = PLAIN.conv2d(x.transpose(0, 2, 1, 3)[:, ::2], weight[::-1], None, window)
    close(backend.to_host(out), expected)


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("missing", [(1, 0), (0, 1), (1, 1)])
def test_fewer_pixels_of_gradient_than_windows_without_a_stride(
    device: str, missing: tuple[int, int], kernel: int
) -> None:
    """As in transposed convolution with a dilation and output padding."""
    window = Window((kernel, kernel), dilation=(2, 2))
    weight = normal(kernel, kernel, 3, 5, dtype="float64")
    full = window.output_size(9, 8)
    grad = normal(2, full[0] - missing[0], full[1] - missing[1], 5, dtype="float64")
    x = normal(2, 9, 8, 3, dtype="float64")
    compare(device, "conv2d_input_gradient", "float64", grad, weight, window, x.shape)
    compare(device, "conv2d_weight_gradient", "float64", x, grad, window)


def test_windows_entirely_on_the_padding(device: str) -> None:
    window = Window((3, 1), (1, 3), SAME)
    x, weight = normal(2, 8, 1, 3, dtype="float64"), normal(3, 1, 3, 4, dtype="float64")
    compare(device, "conv2d", "float64", x, weight, None, window)
    grad = normal(2, *window.output_size(8, 1), 4, dtype="float64")
    needs_grad = NeedsGrad(True, True, True)
    compare(device, "conv2d_gradients", "float64", x, weight, grad, window, needs_grad)


def test_fewer_pixels_of_gradient_than_windows(device: str) -> None:
    """As in transposed convolution with output padding: the last rows and columns are zero."""
    window = Window((3, 3), (2, 2), SAME)
    for channels, outputs in ((2, 3), (64, 128)):
        x = (2, 9, 9, channels)
        weight = normal(3, 3, channels, outputs, dtype="float64")
        grad = normal(2, 4, 4, outputs, dtype="float64")
        compare(device, "conv2d_input_gradient", "float64", grad, weight, window, x)
        image = normal(*x, dtype="float64")
        compare(device, "conv2d_weight_gradient", "float64", image, grad, window)


@pytest.mark.parametrize("size", [(5, 7), (6, 5)])
def test_pooling_that_rounds_up(device: str, size: tuple[int, int]) -> None:
    x, weight = normal(3, *size, 2, dtype="float64"), normal(3, 3, 2, 5, dtype="float64")
    window = Window((3, 3), padding=SAME)
    pool = Window((2, 2), (2, 2)).rounding_up(*size)
    compare(device, "conv2d_relu_pool", "float64", x, weight, None, window, pool)

    def gradients(backend: Backend) -> list[np.ndarray]:
        there = backend.from_host(x), backend.from_host(weight)
        out, winner = backend.conv2d_relu_pool(*there, None, window, pool)
        grad = backend.from_host(normal(*out.shape, dtype="float64"))
        needs_grad = NeedsGrad(True, True, True)
        pooled = PooledGrad(grad, out, winner, pool)
        found = backend.conv2d_relu_pool_gradients(*there, pooled, window, needs_grad)
        return [backend.to_host(array) for array in found]

    for ours, theirs in zip(gradients(get_backend(device)), gradients(PLAIN), strict=True):
        close(ours, theirs)


def test_strides_of_bias_and_weight(device: str) -> None:
    backend = get_backend(device)
    x, weight = normal(2, 6, 8, 3, dtype="float64"), normal(3, 3, 3, 8, dtype="float64")
    bias, window = normal(8, dtype="float64"), Window((3, 3))
    place = backend.from_host
    out = backend.conv2d(place(x), place(weight)[..., ::2], place(bias)[::2], window)
    close(backend.to_host(out), PLAIN.conv2d(x, weight[..., ::2], bias[::2], window))
    rows = backend.add_bias(place(np.zeros((3, 4))), place(bias)[::2])
    np.testing.assert_array_equal(backend.to_host(rows), np.zeros((3, 4)) + bias[::2])
    image = x.reshape(-1, 3)
    scale, shift = bias[:6:2], bias[1:7:2]
    theirs = PLAIN.batch_norm(image, BatchNorm(scale, shift, None, 0.1, 1e-5))
    norm = BatchNorm(place(bias)[:6:2], place(bias)[1:7:2], None, 0.1, 1e-5)
    ours = backend.batch_norm(place(image), norm)
    close(backend.to_host(ours.out), theirs.out)


def test_updates_of_parameters_in_any_memory_order(device: str) -> None:
    backend = get_backend(device)
    start, grad = normal(3, 4, dtype="float64"), normal(4, 3, dtype="float64").T
    parameter = backend.from_host(start).T.copy().T  # columns first
    velocity = backend.xp.zeros_like(parameter)

    def formula(p: Any, g: Any, v: Any) -> None:
        v *= 0.9
        v += g
        p -= 0.5 * v

    backend.update(formula, [[parameter], [backend.from_host(grad)], [velocity]])
    close(backend.to_host(parameter), start - 0.5 * grad)
    close(backend.to_host(velocity), grad)
