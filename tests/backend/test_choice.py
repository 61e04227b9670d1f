"""Which algorithm computes a convolution on a CPU."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import tinynn
from tinynn.backend import Window
from tinynn.backend.cpu.convolution import choice, fft
from tinynn.backend.cpu.convolution.choice import Adjoint, Joint, Method
from tinynn.backend.cpu.convolution.rows import Layout

SAME = ((1, 1), (1, 1))
PLAIN, POINT, LARGE = Window((3, 3), padding=SAME), Window((1, 1)), Window((9, 9))
STRIDED, BOTH = Window((3, 3), (2, 2), SAME), Window((3, 3), (2, 2), SAME, (2, 2))


@pytest.fixture(autouse=True)
def algorithm() -> Iterator[None]:
    yield
    tinynn.set_conv2d_algorithm("auto")


def problem(
    window: Window, groups: int = 1, dtype: str = "float32", channels: int = 32, size: int = 32
) -> choice.Problem:
    output = (8, *window.output_size(size, size), 64)
    window = window._replace(groups=groups)
    return choice.problem((8, size, size, channels), output, window, np.dtype(dtype))


def kind(plan: Any) -> Any:
    """The method, or the type of its parameters."""
    return plan if isinstance(plan, Method) else type(plan)


@pytest.mark.parametrize(
    ("case", "forward", "image", "weight", "both"),
    [
        (problem(PLAIN), Layout, Adjoint, Layout, Joint),
        (problem(PLAIN, dtype="float16"), *[Method.REFERENCE] * 4),
        (problem(PLAIN, groups=32), *[Method.DEPTHWISE] * 4),
        (problem(PLAIN, groups=4), Layout, Adjoint, Layout, Method.REFERENCE),
        (problem(POINT), Method.POINTWISE, Method.POINTWISE, Layout, Method.REFERENCE),
        (problem(STRIDED), Layout, Adjoint, Layout, Joint),
        (problem(BOTH), Layout, Method.REFERENCE, Layout, Method.REFERENCE),
        (problem(LARGE), fft.Tiling, Adjoint, Layout, fft.Tiling),
        (problem(LARGE, channels=1), Layout, Adjoint, Layout, Joint),
        (problem(PLAIN, size=512), Layout, Adjoint, Layout, Method.REFERENCE),  # tiles of rows
    ],
    ids=[
        "3x3", "float16", "depthwise", "groups", "1x1", "strided", "strided and dilated", "9x9",
        "9x9 of one channel", "large image",
    ],
)  # fmt: skip
def test_plans(case: choice.Problem, forward: Any, image: Any, weight: Any, both: Any) -> None:
    assert kind(choice.forward(case)) == forward
    assert kind(choice.input_gradient(case)) == image
    assert kind(choice.weight_gradient(case)) == weight
    assert kind(choice.gradients(case)) == both


@pytest.mark.parametrize(
    ("window", "pool", "forward", "backward"),
    [
        (PLAIN, Window((2, 2), (2, 2)), Layout, Joint),
        (PLAIN, Window((3, 3), (2, 2)), Method.REFERENCE, Method.REFERENCE),
        (PLAIN, Window((2, 2), (2, 2), SAME), Method.REFERENCE, Method.REFERENCE),
        (STRIDED, Window((2, 2), (2, 2)), Layout, Method.REFERENCE),
        (LARGE, Window((2, 2), (2, 2)), Method.REFERENCE, Method.REFERENCE),
    ],
    ids=["2x2", "overlapping", "padded", "strided convolution", "FFT"],
)
def test_plans_with_pooling(window: Window, pool: Window, forward: Any, backward: Any) -> None:
    assert kind(choice.pooled(problem(window), pool)) == forward
    assert kind(choice.pooled_gradients(problem(window), pool)) == backward


@pytest.mark.parametrize(
    ("name", "large", "m"),
    [("auto", fft.Tiling, 4), ("winograd", Layout, 4), ("matrix", Layout, 1)],
)
def test_the_algorithm_that_is_set(name: str, large: Any, m: int) -> None:
    tinynn.set_conv2d_algorithm(name)
    assert kind(choice.forward(problem(LARGE))) == large
    layout = choice.forward(problem(PLAIN))
    assert isinstance(layout, Layout)
    assert layout.m == m


@pytest.mark.parametrize("name", ["fft", "spectral"])
def test_fft_for_every_kernel(name: str) -> None:
    tinynn.set_conv2d_algorithm(name)
    assert tinynn.get_conv2d_algorithm() == "fft"
    assert kind(choice.forward(problem(PLAIN))) == fft.Tiling
    assert kind(choice.forward(problem(STRIDED))) == Layout


def test_kernel_rows_of_the_adjoint_cover_the_kernel() -> None:
    """Every image row belongs to one residue, and every kernel row to one residue."""
    plan = choice.input_gradient(problem(STRIDED, size=33))
    assert isinstance(plan, Adjoint)
    rows = sorted(row for _, part, _ in plan.residues for row in range(33)[part])
    assert rows == list(range(33))
    assert sum(layout.window.kernel[0] for _, _, layout in plan.residues) == 3
