"""Convolution layers for channels-last images."""

from __future__ import annotations

import math

from tinynn import functional as F
from tinynn.autograd import Tensor
from tinynn.functional.geometry import Padding, Pair, check_groups, pair
from tinynn.nn import init
from tinynn.nn.linear import new_parameter
from tinynn.nn.module import Module


class Conv2d(Module):
    """``functional.conv2d`` with a weight (kh, kw, in_channels / groups, out_channels) and a bias.

    Images are (N, H, W, in_channels). ``padding`` is a number, (rows, columns),
    ((top, bottom), (left, right)) or "same". The weight is drawn by Kaiming's rule.
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
        check_groups("Conv2d", in_channels, out_channels, groups)
        kernel = pair("Conv2d", "kernel_size", kernel_size, 1)
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups
        self.weight = new_parameter("Conv2d", *kernel, in_channels // groups, out_channels)
        init.kaiming_uniform_(self.weight)
        self.bias = new_parameter("Conv2d", out_channels) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """(N, H, W, in_channels) -> (N, H', W', out_channels)."""
        return F.conv2d(
            x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups
        )

    def multiply_adds(self, output_shape: tuple[int, ...]) -> int:
        """One for each tap of the kernel and channel of its group, for each output."""
        return math.prod(output_shape) * math.prod(self.weight.shape[:3])


class ConvTranspose2d(Module):
    """``functional.conv_transpose2d``: weight (kh, kw, out_channels / groups, in_channels)."""

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
        check_groups("ConvTranspose2d", in_channels, out_channels, groups)
        kernel = pair("ConvTranspose2d", "kernel_size", kernel_size, 1)
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups
        self.output_padding = output_padding
        shape = (*kernel, out_channels // groups, in_channels)
        self.weight = new_parameter("ConvTranspose2d", *shape)
        # each output gathers from every stride-th tap of all input channels of its group
        taps = kernel[0] * kernel[1] / math.prod(pair("ConvTranspose2d", "stride", stride, 1))
        fan_in = max(1.0, taps) * in_channels / groups
        bound = math.sqrt(6 / fan_in)
        init.uniform_(self.weight, -bound, bound)
        self.bias = new_parameter("ConvTranspose2d", out_channels) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """(N, H, W, in_channels) -> (N, H', W', out_channels)."""
        return F.conv_transpose2d(
            x,
            self.weight,
            self.bias,
            self.stride,
            self.padding,
            self.output_padding,
            self.dilation,
            self.groups,
        )

    def multiply_adds(self, output_shape: tuple[int, ...]) -> int:
        """An upper bound: every tap of the kernel for every stride-th output pixel."""
        stride = math.prod(pair("ConvTranspose2d", "stride", self.stride, 1))
        kh, kw, _, inputs = self.weight.shape
        return math.prod(output_shape) * kh * kw * inputs // (self.groups * stride)
