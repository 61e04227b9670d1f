"""Sliding windows: the arithmetic of convolution and pooling.

A window has (kh, kw) taps, ``dilation`` pixels apart, and moves over the padded image in steps of
``stride``. Dumoulin and Visin, "A guide to convolution arithmetic for deep learning" (2016), show
all cases in pictures.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

Pair = tuple[int, int]


class Window(NamedTuple):
    """A sliding window over the two middle axes of an (N, H, W, C) array.

    ``padding`` is ((top, bottom), (left, right)); it may be negative, which crops. In a
    convolution, the channels are split into ``groups`` that are convolved separately.
    """

    kernel: Pair
    stride: Pair = (1, 1)
    padding: tuple[Pair, Pair] = ((0, 0), (0, 0))
    dilation: Pair = (1, 1)
    groups: int = 1

    @property
    @lru_cache(maxsize=1024)  # noqa: B019 - a window is a value
    def extent(self) -> Pair:
        """The size of the dilated kernel in pixels: (k - 1)·dilation + 1."""
        kh, kw = self.kernel
        return (kh - 1) * self.dilation[0] + 1, (kw - 1) * self.dilation[1] + 1

    @lru_cache(maxsize=1024)  # noqa: B019
    def output_size(self, height: int, width: int) -> Pair:
        """The number of windows: floor((size + padding - extent) / stride) + 1, or 0."""
        sizes = []
        for axis, size in enumerate((height, width)):
            room = size + sum(self.padding[axis]) - self.extent[axis]
            sizes.append(room // self.stride[axis] + 1 if room >= 0 else 0)
        return sizes[0], sizes[1]

    def taps(self, out_h: int, out_w: int) -> Iterator[tuple[int, int, slice, slice]]:
        """For each tap (i, j), the rows and columns of the padded image that it reads."""
        (kh, kw), (sh, sw), (dh, dw) = self.kernel, self.stride, self.dilation
        for i in range(kh):
            rows = slice(i * dh, i * dh + sh * (out_h - 1) + 1, sh)
            for j in range(kw):
                yield i, j, rows, slice(j * dw, j * dw + sw * (out_w - 1) + 1, sw)

    def rounding_up(self, height: int, width: int) -> Window:
        """The window with enough padding at the bottom and right for one more position (ceil mode).

        The last window must begin inside the image or its leading padding.
        """
        padding = []
        for axis, size in enumerate((height, width)):
            before, after = self.padding[axis]
            stride = self.stride[axis]
            room = size + before + after - self.extent[axis]
            steps = min(-(-room // stride), (size + before - 1) // stride)
            padding.append((before, after + max(0, steps * stride - room)))
        return self._replace(padding=(padding[0], padding[1]))


def same_padding(size: int, extent: int, stride: int) -> Pair:
    """The padding before and after for ceil(size / stride) windows.

    An odd total puts the extra pixel after, as in TensorFlow, Keras and PyTorch.
    """
    total = max((-(-size // stride) - 1) * stride + extent - size, 0)
    return total // 2, total - total // 2
