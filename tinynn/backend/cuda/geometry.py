"""The sizes of a convolution or a pooling, as kernel arguments."""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from tinynn.backend.window import Window
from tinynn.errors import ShapeError

Shape = tuple[int, ...]


class Geometry(NamedTuple):
    """``struct Geometry`` of the kernels: these fields, in this order, each an ``int``.

    Pooling leaves the second part at its defaults.
    """

    images: int  # the input, (N, H, W, C)
    height: int
    width: int
    channels: int
    out_height: int
    out_width: int
    kh: int
    kw: int
    stride_h: int
    stride_w: int
    top: int  # padding
    left: int
    dilation_h: int
    dilation_w: int
    # -- convolution only --
    outputs: int = 0  # output channels
    group_channels: int = 0  # input channels per group
    group_outputs: int = 0  # output channels per group
    upsample_h: int = 1  # input pixels lie this far apart, with zeros in between
    upsample_w: int = 1
    flipped: int = 0  # 1: the weight is flipped and its channels are swapped

    @property
    def groups(self) -> int:
        """The number of groups."""
        return self.outputs // self.group_outputs

    @property
    def terms(self) -> int:
        """The number of products in one output element."""
        return self.kh * self.kw * self.group_channels


C_SOURCE = f"struct Geometry {{ int {', '.join(Geometry._fields)}; }};"
_STRUCT = np.dtype([(name, np.int32) for name in Geometry._fields])


@lru_cache(maxsize=4096)
def sliding(image: Shape, size: Shape, window: Window, outputs: int = 0) -> Geometry:
    """A window that slides over images (N, H, W, C) and gives ``size`` (H', W') outputs."""
    (images, height, width, channels), groups = image, window.groups
    (top, _), (left, _) = window.padding
    sizes = (images, height, width, channels, size[0], size[1])
    steps = (*window.kernel, *window.stride, top, left, *window.dilation)
    geometry = Geometry(*sizes, *steps, outputs, channels // groups, outputs // groups)
    if max(*geometry, size[0] * size[1], geometry.terms * max(1, outputs)) >= 2**31:
        raise ShapeError(
            "on a GPU, axes, the pixels of an output and the elements of a weight number less than "
            f"2**31, got images {image}, {size} pixels, kernel {window.kernel}, {outputs} outputs"
        )
    return geometry


@lru_cache(maxsize=4096)
def packed(geometry: Geometry) -> Any:
    """The kernel argument."""
    return np.array(tuple(geometry), _STRUCT)
