"""Where a sliding window lands: the arithmetic that convolution and pooling share.

A window is a kernel of (kh, kw) taps that moves over an image in steps of ``stride``. Its taps lie
``dilation`` pixels apart, and the image is first extended by ``padding`` pixels on each side.
Dumoulin and Visin, "A guide to convolution arithmetic for deep learning" (2016), draws every case.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

Pair = tuple[int, int]


class Window(NamedTuple):
    """A sliding window over the two middle axes of an (N, H, W, C) array.

    ``padding`` is ((top, bottom), (left, right)); it may be negative, which crops.
    """

    kernel: Pair
    stride: Pair = (1, 1)
    padding: tuple[Pair, Pair] = ((0, 0), (0, 0))
    dilation: Pair = (1, 1)

    @property
    @lru_cache(maxsize=1024)  # noqa: B019, a window is a value
    def extent(self) -> Pair:
        """How many pixels the dilated kernel spans in each direction."""
        kh, kw = self.kernel
        return (kh - 1) * self.dilation[0] + 1, (kw - 1) * self.dilation[1] + 1

    @lru_cache(maxsize=1024)  # noqa: B019
    def output_size(self, height: int, width: int) -> Pair:
        """How often the window fits: floor((size + padding - extent) / stride) + 1, or 0."""
        sizes = []
        for axis, size in enumerate((height, width)):
            room = size + sum(self.padding[axis]) - self.extent[axis]
            sizes.append(room // self.stride[axis] + 1 if room >= 0 else 0)
        return sizes[0], sizes[1]

    def taps(self, out_h: int, out_w: int) -> Iterator[tuple[int, int, slice, slice]]:
        """For each tap (i, j): the rows and columns of the padded image that it visits."""
        (kh, kw), (sh, sw), (dh, dw) = self.kernel, self.stride, self.dilation
        for i in range(kh):
            rows = slice(i * dh, i * dh + sh * (out_h - 1) + 1, sh)
            for j in range(kw):
                yield i, j, rows, slice(j * dw, j * dw + sw * (out_w - 1) + 1, sw)

    def rounding_up(self, height: int, width: int) -> Window:
        """The same window with the padding that lets it start once more at the far edges.

        A last window must still begin inside the image or its leading padding.
        """
        padding = []
        for axis, size in enumerate((height, width)):
            before, after = self.padding[axis]
            stride = self.stride[axis]
            room = size + before + after - self.extent[axis]
            steps = -(-room // stride)
            if steps * stride >= size + before:
                steps -= 1
            padding.append((before, after + max(0, steps * stride - room)))
        return self._replace(padding=(padding[0], padding[1]))


def same_padding(size: int, extent: int, stride: int) -> Pair:
    """Padding before and after so that ceil(size / stride) windows fit.

    Where the total is odd the extra pixel goes behind, as in TensorFlow, Keras and PyTorch.
    """
    total = max((-(-size // stride) - 1) * stride + extent - size, 0)
    return total // 2, total - total // 2
