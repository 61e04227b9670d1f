"""The kernels of NumpyBackend agree with the reference kernels of Backend."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinynn
from tests.backend.reference import PLAIN
from tinynn.backend import BatchNorm, NeedsGrad, PooledGrad, Window, get_backend
from tinynn.backend.cpu import buffers, elementwise, tiles, tuning
from tinynn.backend.cpu.convolution import choice
from tinynn.backend.cpu.convolution.rows import Layout

FAST = get_backend("cpu")
TINY, SMALL = st.integers(1, 3), st.integers(0, 3)


@pytest.fixture
def threads() -> Iterator[None]:
    count = tinynn.get_num_threads()
    yield
    tinynn.set_num_threads(count)


@pytest.fixture(autouse=True, scope="module")
def poisoned() -> Iterator[None]:
    """Fill new arrays with NaN, so that an element that no kernel writes is detected."""

    def empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        array = usual(shape, dtype)
        array.reshape(-1).view(np.uint8)[...] = 0xFF
        return array

    usual = elementwise.empty
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(elementwise, "empty", empty)
        yield


def pairs(numbers: st.SearchStrategy[int]) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(numbers, numbers)


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...], Window]:
    """The shapes of images and weight, and a window that fits."""
    groups = draw(st.sampled_from([1, 1, 1, 2]))
    channels, outputs = draw(TINY), groups * draw(TINY)
    window = Window(
        draw(pairs(st.integers(1, 4))),
        draw(pairs(TINY)),
        draw(pairs(pairs(SMALL))),
        draw(pairs(TINY)),
        groups,
    )
    size = [
        max(1, extent - sum(padding)) + draw(st.integers(0, 5))
        for extent, padding in zip(window.extent, window.padding, strict=True)
    ]
    x = (draw(st.integers(0, 3)), *size, groups * channels)
    return x, (*window.kernel, channels, outputs), window


@st.composite
def pools(draw: st.DrawFn) -> tuple[tuple[int, ...], Window]:
    kernel = draw(st.sampled_from([(2, 2), (2, 2), (1, 1), (3, 2), (2, 3), (3, 3)]))
    stride = draw(st.one_of(st.just(kernel), pairs(TINY)))
    padding = tuple((draw(st.integers(0, k // 2)), draw(st.integers(0, k))) for k in kernel)
    size = [k + draw(st.integers(0, 5)) for k in kernel]
    return (draw(SMALL), *size, draw(TINY)), Window(kernel, stride, padding)


def clear_plans() -> None:
    """Forget how convolutions are cut into tiles."""
    for cached in (
        tiles.cut_tiles,
        Layout.tiles.fget,  # type: ignore[attr-defined]
        choice.gradients,
        choice.pooled_gradients,
    ):
        cached.cache_clear()


def normal(*shape: int, dtype: str = "float64") -> np.ndarray:
    return np.random.default_rng(shape).standard_normal(shape).astype(dtype)


def same(result: Any, expected: Any) -> None:
    for ours, theirs in zip(result, expected, strict=True):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, rtol=1e-11, atol=1e-11)


class TestConvolution:
    @given(convolutions())
    @settings(max_examples=150, deadline=None)
    def test_and_its_gradients(self, case: tuple[Any, ...]) -> None:
        x_shape, w_shape, window = case
        x, w, bias = normal(*x_shape), normal(*w_shape), normal(w_shape[3])
        grad = normal(x_shape[0], *window.output_size(*x_shape[1:3]), w_shape[3])
        for kernel, arguments in (
            ("conv2d", (x, w, bias, window)),
            ("conv2d", (x, w, None, window)),
            ("conv2d_input_gradient", (grad, w, window, x_shape)),
            ("conv2d_weight_gradient", (x, grad, window)),
        ):
            same([getattr(FAST, kernel)(*arguments)], [getattr(PLAIN, kernel)(*arguments)])
        arguments = (x, w, grad, window, NeedsGrad(True, True, True))
        same(FAST.conv2d_gradients(*arguments), PLAIN.conv2d_gradients(*arguments))

    @pytest.mark.parametrize("stride", [1, 2])
    @pytest.mark.parametrize(("size", "channels"), [((97, 211), 8), ((300, 61), 16)])
    def test_of_an_image_larger_than_a_tile(
        self, size: tuple[int, int], channels: int, stride: int
    ) -> None:
        window = Window((3, 3), (stride, stride), ((1, 1), (2, 0)))
        x, w = normal(2, *size, channels), normal(3, 3, channels, 5)
        grad = normal(2, *window.output_size(*size), 5)
        same([FAST.conv2d(x, w, None, window)], [PLAIN.conv2d(x, w, None, window)])
        same(
            [FAST.conv2d_input_gradient(grad, w, window, x.shape)],
            [PLAIN.conv2d_input_gradient(grad, w, window, x.shape)],
        )
        same(
            [FAST.conv2d_weight_gradient(x, grad, window) / 1e3],
            [PLAIN.conv2d_weight_gradient(x, grad, window) / 1e3],
        )

    @pytest.mark.parametrize("algorithm", ["matrix", "winograd"])
    @pytest.mark.parametrize("stride", [1, 2, 3])
    @pytest.mark.parametrize("kernel", [(2, 5), (4, 4), (5, 3), (6, 1), (7, 7), (9, 2)])
    def test_of_larger_kernels(self, kernel: tuple[int, int], stride: int, algorithm: str) -> None:
        window = Window(kernel, (stride, stride), ((1, 2), (2, 1)))
        x, w = normal(3, 14, 13, 3), normal(*kernel, 3, 4)
        grad = normal(3, *window.output_size(14, 13), 4)
        arguments = (x, w, grad, window, NeedsGrad(True, True, True))
        tinynn.set_conv2d_algorithm(algorithm)
        try:
            same([FAST.conv2d(x, w, None, window)], [PLAIN.conv2d(x, w, None, window)])
            same(FAST.conv2d_gradients(*arguments), PLAIN.conv2d_gradients(*arguments))
        finally:
            tinynn.set_conv2d_algorithm("auto")

    def test_of_images_cut_into_tiles_of_rows(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for size in (1, 1 << 11, 1 << 14):
            monkeypatch.setattr(tuning, "TILE_BYTES", size)
            clear_plans()
            for stride in (1, 2):
                window = Window((3, 3), (stride, stride), ((1, 1), (1, 1)))
                x, w = normal(2, 29, 23, 4), normal(3, 3, 4, 5)
                grad = normal(2, *window.output_size(29, 23), 5)
                arguments = (x, w, grad, window, NeedsGrad(True, True, True))
                same([FAST.conv2d(x, w, None, window)], [PLAIN.conv2d(x, w, None, window)])
                same(FAST.conv2d_gradients(*arguments), PLAIN.conv2d_gradients(*arguments))
                pool = Window((2, 2), (2, 2)).rounding_up(*grad.shape[1:3])
                pooled = FAST.conv2d_relu_pool(x, w, None, window, pool)
                same(pooled, PLAIN.conv2d_relu_pool(x, w, None, window, pool))
        clear_plans()

    def test_does_not_read_stale_workspace(self) -> None:
        """Also if the scratch buffers hold NaN."""
        window = Window((3, 3), padding=((1, 1), (1, 1)))
        x, w = normal(4, 12, 10, 3), normal(3, 3, 3, 8)
        grad = normal(4, 12, 10, 8)
        arguments = (x, w, grad, window, NeedsGrad(True, True, True))
        pool = Window((2, 2), (2, 2))
        expected = PLAIN.conv2d_relu_pool(x, w, None, window, pool)
        beyond = Window((3, 3), padding=((13, 9), (4, 5)))  # windows entirely on the padding
        around = PLAIN.conv2d(x, w, None, beyond)
        for _ in range(2):
            same([FAST.conv2d(x, w, None, beyond)], [around])
            same(FAST.conv2d_relu_pool(x, w, None, window, pool), expected)
            same(FAST.conv2d_gradients(*arguments), PLAIN.conv2d_gradients(*arguments))
            for held in buffers._this_thread.buffers.values():
                held[...] = 0xFF  # NaN in any floating-point dtype
            buffers._this_thread.buffers.writers.clear()

    @pytest.mark.parametrize("algorithm", ["matrix", "winograd"])
    @pytest.mark.parametrize("interrupted", ["before", "after"])
    def test_after_an_interrupt(
        self, algorithm: str, interrupted: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Padding that was not cleared is not mistaken for the padding of the last tile."""
        padded = Window((3, 3), padding=((1, 1), (1, 1)))
        ours = normal(4, 12, 10, 3), normal(3, 3, 3, 8), None, padded
        others = 9 + normal(4, 10, 16, 3), ours[1], None, Window((3, 3))
        finish = buffers.Writer.finish

        def interrupt(writer: buffers.Writer) -> None:
            if interrupted == "after":
                finish(writer)
            raise KeyboardInterrupt

        tinynn.set_conv2d_algorithm(algorithm)
        try:
            for last in (others, ours):
                tinynn.memory.free("cpu")
                for call in (others, ours, others, last):
                    FAST.conv2d(*call)
                for call in (ours, others):
                    with monkeypatch.context() as patch:
                        patch.setattr(buffers.Writer, "finish", interrupt)
                        with pytest.raises(KeyboardInterrupt):
                            FAST.conv2d(*call)
                    same([FAST.conv2d(*ours)], [PLAIN.conv2d(*ours)])
        finally:
            tinynn.set_conv2d_algorithm("auto")

    @pytest.mark.parametrize("stride", [(1, 1), (2, 2), (3, 1)])
    def test_of_a_pointwise_kernel(self, stride: tuple[int, int]) -> None:
        """The pixels that a 1x1 kernel steps over have no gradient."""
        window = Window((1, 1), stride)
        grad, weight = normal(3, *window.output_size(8, 9), 4), normal(1, 1, 5, 4)
        arguments = grad, weight, window, (3, 8, 9, 5)
        found = FAST.conv2d_input_gradient(*arguments)
        same([found], [PLAIN.conv2d_input_gradient(*arguments)])

    def test_of_views_that_are_not_contiguous(self) -> None:
        x, w = normal(3, 8, 9, 4)[:, ::-1, 1::2, ::2], normal(4, 3, 2, 2).transpose(1, 0, 2, 3)
        window = Window((3, 4), padding=((1, 1), (1, 2)))
        grad = np.broadcast_to(normal(2), (3, *window.output_size(8, 4), 2))
        same([FAST.conv2d(x, w, None, window)], [PLAIN.conv2d(x, w, None, window)])
        same(
            [FAST.conv2d_weight_gradient(x, grad, window)],
            [PLAIN.conv2d_weight_gradient(x, grad, window)],
        )
        same(
            [FAST.conv2d_input_gradient(grad, w, window, x.shape)],
            [PLAIN.conv2d_input_gradient(grad, w, window, x.shape)],
        )

    def test_does_not_depend_on_the_previous_call(self) -> None:
        window = Window((3, 3), padding=((1, 1), (1, 1)))
        large, small, w = normal(2, 20, 20, 3), normal(1, 4, 4, 3), normal(3, 3, 3, 2)
        expected = FAST.conv2d(small, w, None, window)
        FAST.conv2d(large, w, None, window)
        np.testing.assert_array_equal(FAST.conv2d(small, w, None, window), expected)


class TestPooling:
    @given(pools())
    @settings(max_examples=150, deadline=None)
    def test_and_its_gradients(self, case: tuple[tuple[int, ...], Window]) -> None:
        shape, window = case
        x = normal(*shape).round(1)  # ties included
        best, winner = PLAIN.max_pool2d(x, window)
        fast_best, fast_winner = FAST.max_pool2d(x, window)
        same([fast_best, fast_winner], [best, winner])
        grad = normal(*best.shape)
        for kernel, arguments in (
            ("max_pool2d_scatter", (grad, fast_winner, window, shape)),
            ("max_pool2d_gather", (x, fast_winner, window)),
            ("sum_pool2d", (x, window)),
            ("sum_pool2d_adjoint", (grad, window, shape)),
        ):
            same([getattr(FAST, kernel)(*arguments)], [getattr(PLAIN, kernel)(*arguments)])

    def test_nan_stays_in_its_windows(self) -> None:
        x = normal(1, 4, 4, 1)
        x[0, 1, 0] = np.nan
        for window in (Window((2, 2), (2, 2)), Window((2, 2))):
            best = FAST.max_pool2d(x, window)[0]
            np.testing.assert_array_equal(np.isnan(best), np.isnan(PLAIN.max_pool2d(x, window)[0]))
            assert np.isnan(best[0, 0, 0, 0])
            assert not np.isnan(best[0, -1, -1, 0])

    @given(convolutions(), st.sampled_from([(2, 2), (3, 2)]), st.booleans())
    @settings(max_examples=60, deadline=None)
    def test_fused_with_convolution_and_relu(
        self, case: tuple[Any, ...], kernel: tuple[int, int], with_bias: bool
    ) -> None:
        (n, h, w, c), (kh, kw, channels, outputs), window = case
        x = normal(n, h + 4, w + 4, c)
        weight, bias = normal(kh, kw, channels, outputs), normal(outputs) if with_bias else None
        pool = Window(kernel, kernel)
        if 0 in pool.output_size(*window.output_size(h + 4, w + 4)):
            return
        best, winner = FAST.conv2d_relu_pool(x, weight, bias, window, pool)
        expected, winners = PLAIN.conv2d_relu_pool(x, weight, bias, window, pool)
        same([best], [expected])
        full = PLAIN.conv2d(x, weight, None, window)
        assert winner is not None
        won = PLAIN.max_pool2d_gather(full, winner, pool)  # rounding decides between equal pixels
        same([won], [PLAIN.max_pool2d_gather(full, winners, pool)])

    @given(convolutions(), st.booleans(), st.booleans())
    @settings(max_examples=100, deadline=None)
    def test_gradients_of_both(self, case: tuple[Any, ...], ceil: bool, image: bool) -> None:
        (n, h, w, c), (kh, kw, channels, outputs), window = case
        x, weight = normal(n, h + 4, w + 4, c), normal(kh, kw, channels, outputs)
        full = window.output_size(h + 4, w + 4)
        pool = Window((2, 2), (2, 2))
        pool = pool.rounding_up(*full) if ceil else pool
        if 0 in pool.output_size(*full):
            return
        out, winner = FAST.conv2d_relu_pool(x, weight, None, window, pool)
        assert winner is not None
        pooled = PooledGrad(normal(*out.shape), out, winner, pool)
        arguments = (pooled, window, NeedsGrad(image, True, True))
        same(
            [
                array
                for array in FAST.conv2d_relu_pool_gradients(x, weight, *arguments)
                if array is not None
            ],
            [
                array
                for array in PLAIN.conv2d_relu_pool_gradients(x, weight, *arguments)
                if array is not None
            ],
        )


class TestOthers:
    @pytest.mark.parametrize(
        ("shape", "axes"),
        [((), ()), ((7,), (0,)), ((5, 3), (0,)), ((4, 5, 6, 3), (0, 1, 2)), ((2, 3, 4), (0, 2))],
    )
    @pytest.mark.parametrize("keepdims", [False, True])
    def test_sum(self, shape: tuple[int, ...], axes: tuple[int, ...], keepdims: bool) -> None:
        x = normal(*shape)
        for view in (x, x[::-1] if shape else x):
            result = np.asarray(FAST.sum(view, axes, keepdims))
            same([result], [np.asarray(PLAIN.sum(view, axes, keepdims))])

    @pytest.mark.parametrize(
        "columns", [100_000, 200_000]
    )  # below and above the size that is cut into chunks
    def test_elementwise_on_many_elements(self, columns: int) -> None:
        x, y, z = normal(3, columns), normal(columns, 3).T, normal(columns, 3).reshape(3, -1)
        for name, operands in (
            ("add", (x, z)),
            ("multiply", (x, 2.0)),
            ("subtract", (1.0, x)),
            ("greater", (x, z)),
            ("exp", (x,)),
            ("add", (x.astype(np.float16), z.astype(np.float16))),
            ("add", (x, y)),
            ("exp", (y,)),
            ("subtract", (1.0, y)),
            ("add", (x, x[:1])),  # broadcasts
        ):
            found, expected = (b.elementwise(name, *operands) for b in (FAST, PLAIN))
            same([found], [expected])
            # the memory order follows the operands at any size
            assert (found.dtype, found.strides) == (expected.dtype, expected.strides)

    @pytest.mark.parametrize("columns", [100_000, 200_000])
    def test_relu_and_its_gradient_on_many_elements(self, columns: int) -> None:
        x, grad = normal(3, columns), normal(columns, 3).T
        same([FAST.relu(x)], [PLAIN.relu(x)])
        same([FAST.relu_gradient(grad, x)], [PLAIN.relu_gradient(grad, x)])

    @pytest.mark.parametrize(
        ("a", "b"),
        [((700, 300), (300, 200)), ((3, 2), (2, 4)), ((2, 3, 4), (4, 5)), ((0, 3), (3, 2))],
    )
    def test_matmul(self, a: tuple[int, ...], b: tuple[int, ...]) -> None:
        same([FAST.matmul(normal(*a), normal(*b))], [PLAIN.matmul(normal(*a), normal(*b))])

    def test_normalize(self) -> None:
        x, axes = normal(4, 30, 30, 3), (0, 1, 2)
        out, mean, variance = FAST.normalize(x, axes, 1e-5)
        same((out, mean, variance), PLAIN.normalize(x, axes, 1e-5))
        arguments = (normal(30, 30, 4, 3).reshape(x.shape), out, variance, axes, 1e-5)
        same([FAST.normalize_gradient(*arguments)], [PLAIN.normalize_gradient(*arguments)])

    def test_normalize_survives_a_large_mean(self) -> None:
        x = (1e4 + normal(64, 3)).astype(np.float32)
        assert np.abs(FAST.normalize(x, (0,), 0.0)[0].std(0) - 1).max() < 1e-3

    @pytest.mark.parametrize("mean", [0.5, 100.0])  # a large one is subtracted first
    @pytest.mark.parametrize("shape", [(3, 1, 1, 5), (4, 16, 15, 16), (5, 60, 61, 3), (3, 99, 64)])
    @pytest.mark.parametrize("relu", [False, True])
    def test_batch_norm(self, shape: tuple[int, ...], mean: float, relu: bool) -> None:
        x, grad = mean + normal(*shape), normal(*shape[::-1]).reshape(shape)
        weight, bias = normal(shape[-1], 1)[:, 0], normal(shape[-1])
        norm = BatchNorm(weight, bias, None, 0.1, 1e-5, relu)
        saved = FAST.batch_norm(x, norm)
        same(saved, PLAIN.batch_norm(x, norm))
        arguments = (grad, x, norm, saved)
        same(FAST.batch_norm_gradient(*arguments), PLAIN.batch_norm_gradient(*arguments))

    @pytest.mark.parametrize(
        "index",
        [
            (slice(None), np.array([0, 0, 2])),
            (np.array([1, 1]),),
            np.array([True, False, True]),
            (0, slice(1, None)),
        ],
        ids=["repeated columns", "repeated rows", "mask", "slice"],
    )
    def test_scatter_add(self, index: Any) -> None:
        shape = (3, 4)
        values = normal(*np.zeros(shape)[index].shape)
        expected = np.zeros(shape)
        np.add.at(expected, index, values)
        same([FAST.scatter_add(shape, index, values)], [expected])


class TestThreads:
    @pytest.mark.usefixtures("threads")
    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_results_do_not_depend_on_their_number(self, dtype: str) -> None:
        window, pool = Window((3, 3), padding=((1, 1), (1, 1))), Window((2, 2), (2, 2))
        x, w = normal(6, 64, 65, 16, dtype=dtype), normal(3, 3, 16, 8, dtype=dtype)
        grad = normal(6, 64, 65, 8, dtype=dtype)
        wide, high = normal(640, 512, dtype=dtype), normal(512, 96, dtype=dtype)

        def everything() -> list[bytes]:
            best, winner = FAST.max_pool2d(x, pool)
            arrays = [
                FAST.conv2d(x, w, None, window),
                FAST.conv2d_input_gradient(grad, w, window, x.shape),
                FAST.conv2d_weight_gradient(x, grad, window),
                *FAST.conv2d_relu_pool(x, w, w[0, 0, 0], window, pool),
                best,
                FAST.max_pool2d_scatter(best, winner, pool, x.shape),
                FAST.elementwise("multiply", x, x),
                FAST.relu(x),
                FAST.relu_gradient(grad, grad),
                FAST.sum(x, (0, 1, 2)),
                FAST.matmul(wide, high),
                *FAST.normalize(x, (0, 1, 2), 1e-5),
            ]
            return [array.tobytes() for array in arrays]

        tinynn.set_num_threads(1)
        expected = everything()
        for count in (2, 3):
            tinynn.set_num_threads(count)
            assert [a == b for a, b in zip(everything(), expected, strict=True)] == [True] * len(
                expected
            )
