"""Convolution layers for channels-last images."""

import math

from tinynn import functional as F
from tinynn.autograd import Tensor
from tinynn.functional import geometry
from tinynn.functional.geometry import Padding, Pair
from tinynn.nn import init
from tinynn.nn.module import Module

__all__ = ["Conv2d", "ConvTranspose2d"]


class Conv2d(Module):
    """2-D convolution, that is, cross-correlation with a learned kernel, plus a bias.

    With stride s, dilation d and padding p,

        y[n, i, j, o] = b[o] + Σ x[n, i·s + u·d - p, j·s + v·d - p, c] · W[u, v, c, o]

    summed over the kernel positions u, v and the input channels c.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: An integer or (rows, columns), as for ``stride`` and ``dilation``.
        padding: Zeros around the image: an integer, (rows, columns), ((top, bottom), (left,
            right)), or "same" for an output of ceil(H / stride) rows.
        groups: Divide the channels into groups that are convolved separately.
        bias: Whether to add b.

    Shape:
        x: (N, H, W, in_channels) -> (N, H', W', out_channels) with
        H' = (H + 2·padding - dilation·(kh - 1) - 1) // stride + 1.
        ``weight`` is (kh, kw, in_channels / groups, out_channels), initialized by
        ``init.kaiming_uniform_``.

    Example:
        >>> nn.Conv2d(3, 16, 3, padding="same")(tinynn.ones((8, 48, 48, 3))).shape
        (8, 48, 48, 16)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Pair,
        stride: int | Pair = 1,
        padding: Padding = 0,
        dilation: int | Pair = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        name = "Conv2d"
        inputs, outputs, self.groups = geometry.check_groups(
            name, in_channels, out_channels, groups
        )
        kernel = geometry.pair(name, "kernel_size", kernel_size, 1)
        self.stride = geometry.checked_size(name, "stride", stride, 1)
        self.padding = geometry.checked_padding(name, padding)
        self.dilation = geometry.checked_size(name, "dilation", dilation, 1)
        self.weight = init.new_parameter(name, *kernel, inputs // self.groups, outputs)
        init.kaiming_uniform_(self.weight)
        self.bias = init.new_bias(name, outputs, bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(
            x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups
        )

    def multiply_adds(self, output_shape: tuple[int, ...]) -> int:
        return math.prod(output_shape) * math.prod(self.weight.shape[:3])


class ConvTranspose2d(Module):
    """2-D transposed convolution: the gradient of ``Conv2d`` with respect to its input.

    Used to upsample: each input pixel adds a kernel, times its value, to the output.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: An integer or (rows, columns), as for the arguments below.
        stride: Step in the output from one input pixel to the next.
        padding: Rows and columns cut off the output on each side.
        output_padding: Rows and columns appended to the output, below and to the right.
        dilation: Step between kernel elements.
        groups: Divide the channels into groups that are convolved separately.
        bias: Whether to add a bias.

    Shape:
        x: (N, H, W, in_channels) -> (N, H', W', out_channels) with
        H' = (H - 1)·stride - 2·padding + dilation·(kh - 1) + output_padding + 1.
        ``weight`` is (kh, kw, out_channels / groups, in_channels).

    Example:
        >>> nn.ConvTranspose2d(16, 8, 2, stride=2)(tinynn.ones((1, 24, 24, 16))).shape
        (1, 48, 48, 8)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Pair,
        stride: int | Pair = 1,
        padding: int | Pair = 0,
        output_padding: int | Pair = 0,
        dilation: int | Pair = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        name = "ConvTranspose2d"
        inputs, outputs, self.groups = geometry.check_groups(
            name, in_channels, out_channels, groups
        )
        kernel = geometry.pair(name, "kernel_size", kernel_size, 1)
        self.stride = geometry.checked_size(name, "stride", stride, 1)
        self.padding = geometry.checked_size(name, "padding", padding, 0)
        self.dilation = geometry.checked_size(name, "dilation", dilation, 1)
        self.output_padding = geometry.checked_size(name, "output_padding", output_padding, 0)
        geometry.check_output_padding(name, self.output_padding, self.stride, self.dilation)
        self.weight = init.new_parameter(name, *kernel, outputs // self.groups, inputs)
        # each output pixel sums over every stride-th kernel position and the channels of its group
        positions = kernel[0] * kernel[1] / math.prod(geometry.pair(name, "stride", stride, 1))
        fan_in = max(1.0, positions) * inputs / self.groups
        bound = math.sqrt(6 / fan_in)
        init.uniform_(self.weight, -bound, bound)
        self.bias = init.new_bias(name, outputs, bias)

    def forward(self, x: Tensor) -> Tensor:
        steps = (self.stride, self.padding, self.output_padding, self.dilation, self.groups)
        return F.conv_transpose2d(x, self.weight, self.bias, *steps)

    def multiply_adds(self, output_shape: tuple[int, ...]) -> int:
        """An upper bound: it counts kernel positions outside of the image, too."""
        stride = math.prod(geometry.pair("ConvTranspose2d", "stride", self.stride, 1))
        kh, kw, _, inputs = self.weight.shape
        return math.prod(output_shape) * kh * kw * inputs // (self.groups * stride)
