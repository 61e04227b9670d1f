"""Which algorithm computes a convolution on a CPU: the one place that decides.

Each question has one function, from a ``Problem`` to a plan. A plan is either a ``Method``, or the
parameters of a method that has some: a ``Layout`` of row products or a ``Tiling`` of the FFT. Plans
depend on sizes and the chosen algorithm only, so they are cached; ``kernels.py`` and ``pooled.py``
execute them.

| convolution | forward | its gradients |
|---|---|---|
| float16 | reference | reference |
| large kernel, many channels (``_fft_tiling`` counts) | FFT | FFT, both at once |
| groups of a channel or two | elementwise | elementwise |
| 1×1 kernel | product of the pixels | product of the pixels, row products for the weight |
| stride and dilation | row products | reference for the image, row products for the weight |
| others | row products, by Winograd where it saves some | row products, both in one pass |
"""

from __future__ import annotations

from enum import Enum, auto
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from tinynn.arguments import choice
from tinynn.backend.cpu import tuning
from tinynn.backend.cpu.convolution import fft, winograd
from tinynn.backend.cpu.convolution.rows import Layout
from tinynn.backend.cpu.pooling import is_halving
from tinynn.backend.cpu.tiles import Shape
from tinynn.backend.window import Pair, Window

_NAMES = ("auto", "matrix", "winograd", "fft")
_ALIASES = {"spectral": "fft"}
_chosen = "auto"


def set_conv2d_algorithm(name: str) -> None:
    """Choose how convolutions are computed on a CPU.

    Results differ by rounding. Where an image contains an infinity, "winograd" and "fft" give NaN
    in more pixels of that image.

    Args:
        name: One of

            - "auto" (the default): counts multiplications. It takes "winograd", and for kernels of
              5 pixels and more "fft" where that saves enough.
            - "matrix": a matrix product of each row of the image with each row of the kernel.
            - "winograd": several output rows at a time, F(m, kh), with fewer products. Not with
              dilated rows.
            - "fft" (or "spectral"): by FFT, for any kernel size; "winograd" with a stride, a
              dilation or groups.

    Raises:
        ArgumentError: There is no such algorithm.
    """
    global _chosen
    name = choice("set_conv2d_algorithm: name", name, *_NAMES, *_ALIASES)
    _chosen = _ALIASES.get(name, name)


def get_conv2d_algorithm() -> str:
    """The algorithm set by ``set_conv2d_algorithm``, by default "auto"."""
    return _chosen


class Problem(NamedTuple):
    """The properties of a convolution on which the choice of its algorithm depends."""

    images: Shape  # (N, H, W, C)
    size: Pair  # rows and columns of the output, or of the upstream gradient
    outputs: int
    window: Window
    dtype: np.dtype[Any]
    algorithm: str


def problem(images: Shape, output: Shape, window: Window, dtype: Any) -> Problem:
    """The convolution of images (N, H, W, C) to an output (N, H', W', O)."""
    return Problem(images, (output[1], output[2]), output[3], window, dtype, _chosen)


class Method(Enum):
    """Methods without parameters."""

    REFERENCE = auto()
    DEPTHWISE = auto()
    POINTWISE = auto()


class Adjoint(NamedTuple):
    """The gradient of the image, as convolutions of the upstream gradient.

    One for each residue of the image's rows modulo the stride. Rows that no window reaches are
    left out: their gradient is zero.
    """

    residues: tuple[tuple[int, slice, Layout], ...]
    window: Window
    columns: int  # of the flipped kernel
    before: int  # how many of them are left of the gradient's first column


class Joint(NamedTuple):
    """Both gradients in one pass over tiles of whole images."""

    weight: Layout
    image: Adjoint


@lru_cache(maxsize=256)
def forward(problem: Problem) -> Method | Layout | fft.Tiling:
    """How to compute ``conv2d``."""
    found = _fft_tiling(problem) or _without_blas(problem)
    if found is None and is_pointwise(problem.window) and problem.window.groups == 1:
        return Method.POINTWISE
    return found or _layout(problem)


@lru_cache(maxsize=256)
def input_gradient(problem: Problem) -> Method | Adjoint:
    """How to compute ``conv2d_input_gradient``."""
    window, found = problem.window, _without_blas(problem)
    if not _has_adjoint(window):
        return Method.REFERENCE
    # as in a transposed convolution, there may be more pixels than windows
    dense = window.groups == 1 and problem.size == problem.images[1:3]
    if found is None and is_pointwise(window) and (dense or window.stride != (1, 1)):
        return Method.POINTWISE
    return found or _adjoint(problem)


@lru_cache(maxsize=256)
def weight_gradient(problem: Problem) -> Method | Layout:
    """How to compute ``conv2d_weight_gradient``.

    With a 1×1 kernel the layout is for the pixels that the windows visit, without a stride.
    """
    if is_pointwise(problem.window):
        n, _, _, channels = problem.images
        visited = (n, *problem.size, channels)
        pixel = Window((1, 1), groups=problem.window.groups)
        problem = problem._replace(images=visited, window=pixel)
    return _without_blas(problem) or _layout(problem, backward=True)


@lru_cache(maxsize=256)
def gradients(problem: Problem) -> Method | Joint | fft.Tiling:
    """How to compute ``conv2d_gradients`` when image and weight both need theirs.

    ``Method.REFERENCE``: one after the other.
    """
    found = _fft_tiling(problem) or _without_blas(problem)
    if found is None and (problem.window.groups > 1 or problem.window.kernel == (1, 1)):
        return Method.REFERENCE
    return found or _joint(problem, _layout(problem, backward=True))


@lru_cache(maxsize=256)
def pooled(problem: Problem, pool: Window, backward: bool = False) -> Method | Layout:
    """How to compute ``conv2d_relu_pool``: the convolution with every pixel that is pooled.

    Even and odd output rows and columns are in separate planes. For 2×2 pooling that begins inside
    the image and may round up by one pixel.
    """
    inside = max(pool.padding) <= (0, 1) and min(pool.padding) >= (0, 0)
    possible = is_halving(pool) and inside and problem.window.groups == 1
    if not possible or _fft_tiling(problem) or _without_blas(problem):
        return Method.REFERENCE
    rows, columns = pool.output_size(*problem.size)
    return _layout(problem._replace(size=(2 * rows, 2 * columns)), backward, phases=2)


@lru_cache(maxsize=256)
def pooled_gradients(problem: Problem, pool: Window) -> Method | Joint:
    """How to compute ``conv2d_relu_pool_gradients``."""
    layout = pooled(problem, pool, backward=True)
    if not isinstance(layout, Layout) or problem.window.stride != (1, 1):
        return Method.REFERENCE
    return _joint(problem._replace(size=(layout.rows, layout.width)), layout)


def is_pointwise(window: Window) -> bool:
    """Whether each window is one pixel."""
    return window.kernel == (1, 1) and not any(map(any, window.padding))


def _without_blas(problem: Problem) -> Method | None:
    """The method where matrix products are impossible (float16) or too thin to pay."""
    if problem.dtype.itemsize == 2:
        return Method.REFERENCE
    groups = problem.window.groups
    products = problem.images[3] // groups * problem.outputs // groups
    thin = groups > 1 and products <= tuning.DEPTHWISE_MAX_PRODUCTS
    return Method.DEPTHWISE if thin else None


def _fft_tiling(problem: Problem) -> fft.Tiling | None:
    """The FFT's tiling, where it is possible, and saves enough multiplications or is requested."""
    images, size, outputs, window, dtype, algorithm = problem
    possible = window.groups == 1 and dtype.itemsize >= 4 and 0 not in images
    if not possible or window.stride != (1, 1) or window.dilation != (1, 1):
        return None
    if algorithm == "fft":
        limit = np.inf
    elif algorithm == "auto" and max(window.kernel) >= tuning.FFT_MIN_KERNEL:
        kh, kw = window.kernel
        m = winograd.fewest_products(size[0], kh, 1)
        products = winograd.count_products(size[0], kh, 1, m)
        limit = float(products * size[1] * kw) * images[3] * outputs / tuning.FFT_MARGIN
    else:
        return None
    return fft.cheapest_tiling(window.kernel, size, images[3], outputs, images[0], limit)


def _layout(problem: Problem, backward: bool = False, phases: int = 1) -> Layout:
    """The row products of one group."""
    images, size, outputs, window, dtype, algorithm = problem
    channels, outputs = images[3] // window.groups, outputs // window.groups
    m, taps, stride = 1, window.kernel[0], window.stride[0]
    if algorithm != "matrix" and window.dilation[0] == 1:
        m = winograd.fewest_products(size[0], taps, stride)
    products = winograd.count_products(m, taps, stride, m)
    shape = (images[0], *size, images[2], channels, outputs)
    return Layout(*shape, window, m, products, phases, backward, dtype)


def _adjoint(problem: Problem) -> Adjoint:
    """The gradient of the image by convolutions with the flipped kernel.

    With a stride s, image rows y with the same (y + top) mod s meet the kernel rows of that
    residue only: one convolution for each residue. Columns are not separated but computed s at a
    time, as if they were channels: their kernel has s·C outputs (see ``kernels._flip``).
    """
    (n, height, width, channels), size, outputs, window, _, _ = problem
    (kh, kw), (sh, sw), (dh, dw) = window.kernel, window.stride, window.dilation
    (top, _), (left, _) = window.padding
    before = ((kw - 1) * dw - left) // sw
    columns = max(0, before + (sw - 1 + left) // sw + 1) if sw > 1 else kw
    residues = []
    for residue in range(sh):
        first = -((residue - top) // sh)  # the first window that reads such a row
        rows = range(first * sh + residue - top, height, sh)
        taps = len(range(residue, kh, sh))
        if taps and columns and rows:
            padding = (((taps - 1) * dh - first, 0), (before, 0))
            part = problem._replace(
                images=(n, *size, outputs // window.groups),
                size=(len(rows), -(-width // sw)),
                outputs=sw * (channels // window.groups),
                window=Window((taps, columns), padding=padding, dilation=window.dilation),
            )
            residues.append((residue, slice(rows.start, None, sh), _layout(part)))
    return Adjoint(tuple(residues), window, columns, before)


def _joint(problem: Problem, layout: Layout) -> Method | Joint:
    """Both gradients by tiles, where tiles are whole images and the image's is a convolution."""
    whole = all(tile.rows == slice(0, layout.rows) for tile in layout.tiles)
    if not whole or not _has_adjoint(problem.window):
        return Method.REFERENCE
    return Joint(layout, _adjoint(problem))


def _has_adjoint(window: Window) -> bool:
    """Whether ``_adjoint`` is possible: not with both a stride and a dilation."""
    return window.stride == (1, 1) or window.dilation == (1, 1)
