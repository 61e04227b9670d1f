"""Naive references: the definitions, in plain loops over pixels. Nothing here knows tinynn."""

import math
from itertools import product

import numpy as np

Array = np.ndarray
Pads = tuple[tuple[int, int], tuple[int, int]]


def padded(x: Array, pads: Pads, value: float = 0.0) -> Array:
    return np.pad(x, [(0, 0), *pads, (0, 0)], constant_values=value)


def conv2d(
    x: Array,
    w: Array,
    bias: Array | None = None,
    stride: tuple[int, int] = (1, 1),
    pads: Pads = ((0, 0), (0, 0)),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
) -> Array:
    x = padded(x, pads)
    (N, H, W, _), (kh, kw, C, outputs) = x.shape, w.shape
    (sh, sw), (dh, dw) = stride, dilation
    out_h, out_w = (H - (kh - 1) * dh - 1) // sh + 1, (W - (kw - 1) * dw - 1) // sw + 1
    out = np.zeros((N, out_h, out_w, outputs))
    for y, z, o in np.ndindex(out_h, out_w, outputs):
        group = o // (outputs // groups)
        channels = slice(group * C, (group + 1) * C)
        for i, j in np.ndindex(kh, kw):
            pixel = x[:, y * sh + i * dh, z * sw + j * dw, channels]
            out[:, y, z, o] += (pixel * w[i, j, :, o]).sum(-1)
    return out if bias is None else out + bias


def conv_transpose2d(
    x: Array,
    w: Array,
    bias: Array | None = None,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    output_padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
) -> Array:
    """Every input pixel stamps the kernel onto the output, which is then cropped by the padding."""
    (N, H, W, C), (kh, kw, outputs, _) = x.shape, w.shape
    (sh, sw), (dh, dw) = stride, dilation
    full = np.zeros(
        (
            N,
            (H - 1) * sh + (kh - 1) * dh + 1 + output_padding[0],
            (W - 1) * sw + (kw - 1) * dw + 1 + output_padding[1],
            outputs * groups,
        )
    )
    for y, z, c in np.ndindex(H, W, C):
        group = c // (C // groups)
        for i, j, o in np.ndindex(kh, kw, outputs):
            full[:, y * sh + i * dh, z * sw + j * dw, group * outputs + o] += (
                x[:, y, z, c] * w[i, j, o, c]
            )
    (top, left), (height, width) = padding, full.shape[1:3]
    out = full[:, top : height - top, left : width - left]
    return out if bias is None else out + bias


def windows(
    size: int, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool
) -> list[range]:
    """The positions that each window visits along one axis, before cropping to the image."""
    starts = []
    start = -padding
    extent = (kernel - 1) * dilation + 1
    while start + extent <= size + padding or (
        ceil_mode and start < size and start - stride + extent < size + padding
    ):
        starts.append(start)
        start += stride
    return [range(s, s + extent, dilation) for s in starts]


def max_pool2d(
    x: Array,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    ceil_mode: bool = False,
) -> Array:
    N, H, W, C = x.shape
    rows = windows(H, kernel[0], stride[0], padding[0], dilation[0], ceil_mode)
    columns = windows(W, kernel[1], stride[1], padding[1], dilation[1], ceil_mode)
    out = np.full((N, len(rows), len(columns), C), -math.inf)
    for (y, row), (z, column) in product(enumerate(rows), enumerate(columns)):
        for i in row:
            for j in column:
                if 0 <= i < H and 0 <= j < W:
                    out[:, y, z] = np.maximum(out[:, y, z], x[:, i, j])
    return out


def avg_pool2d(
    x: Array,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int] = (0, 0),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Array:
    N, H, W, C = x.shape
    rows = windows(H, kernel[0], stride[0], padding[0], 1, ceil_mode)
    columns = windows(W, kernel[1], stride[1], padding[1], 1, ceil_mode)
    out = np.zeros((N, len(rows), len(columns), C))
    border = padding if count_include_pad else (0, 0)
    for (y, row), (z, column) in product(enumerate(rows), enumerate(columns)):
        count = 0
        for i in row:
            for j in column:
                count += -border[0] <= i < H + border[0] and -border[1] <= j < W + border[1]
                if 0 <= i < H and 0 <= j < W:
                    out[:, y, z] += x[:, i, j]
        out[:, y, z] /= count
    return out


def resize_nearest(x: Array, size: tuple[int, int]) -> Array:
    N, H, W, C = x.shape
    out = np.zeros((N, *size, C))
    for y, z in np.ndindex(*size):
        out[:, y, z] = x[:, math.floor(y * H / size[0]), math.floor(z * W / size[1])]
    return out


def resize_bilinear(x: Array, size: tuple[int, int]) -> Array:
    N, H, W, C = x.shape
    out = np.zeros((N, *size, C))
    for y, z in np.ndindex(*size):
        v = min(max((y + 0.5) * H / size[0] - 0.5, 0), H - 1)
        u = min(max((z + 0.5) * W / size[1] - 0.5, 0), W - 1)
        for i, j in np.ndindex(H, W):  # every pixel is a pyramid of width 2
            out[:, y, z] += x[:, i, j] * max(0, 1 - abs(v - i)) * max(0, 1 - abs(u - j))
    return out


def standardized(values: Array, eps: float) -> Array:
    """One set of numbers, shifted and scaled to mean 0 and variance 1."""
    average = values.sum() / values.size
    variance = ((values - average) ** 2).sum() / values.size
    return (values - average) / math.sqrt(variance + eps)


def batch_norm(x: Array, weight: Array | float, bias: Array | float, eps: float = 1e-5) -> Array:
    channels = [standardized(x[..., c], eps) for c in range(x.shape[-1])]
    return np.stack(channels, -1) * weight + bias


def layer_norm(x: Array, axes: int, weight: Array, bias: Array, eps: float = 1e-5) -> Array:
    lead = x.shape[: x.ndim - axes]
    out = np.empty_like(x)
    for position in np.ndindex(*lead):
        out[position] = standardized(x[position], eps) * weight + bias
    return out


def group_norm(x: Array, groups: int, weight: Array, bias: Array, eps: float = 1e-5) -> Array:
    out, size = np.empty_like(x), x.shape[-1] // groups
    for n, g in np.ndindex(x.shape[0], groups):
        channels = slice(g * size, (g + 1) * size)
        out[n, ..., channels] = standardized(x[n, ..., channels], eps)
    return out * weight + bias


def log_softmax(logits: Array) -> Array:
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def cross_entropy(
    logits: Array,
    labels: Array,
    weight: Array | None = None,
    smoothing: float = 0.0,
    ignore_index: int | None = None,
    reduction: str = "mean",
) -> Array:
    """The definition of Szegedy and others (2016): the target is a mixture with the uniform one."""
    classes = logits.shape[-1]
    weight = np.ones(classes) if weight is None else weight
    losses, total = np.zeros(labels.shape), 0.0
    for position in np.ndindex(*labels.shape):
        label = int(labels[position])
        if label == ignore_index:
            continue
        target = np.full(classes, smoothing / classes)
        target[label] += 1 - smoothing
        losses[position] = -(target * weight * log_softmax(logits[position])).sum()
        total += weight[label]
    return {"none": losses, "sum": losses.sum(), "mean": losses.sum() / total}[reduction]


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def binary_cross_entropy(x: Array, t: Array, pos_weight: float = 1.0) -> Array:
    p = sigmoid(x)
    return -(pos_weight * t * np.log(p) + (1 - t) * np.log(1 - p))


def focal(x: Array, t: Array, alpha: float, gamma: float) -> Array:
    out = np.zeros_like(x)
    for position in np.ndindex(*x.shape):
        p = 1 / (1 + math.exp(-x[position]))
        for share, probability, balance in (
            (t[position], p, alpha),
            (1 - t[position], 1 - p, 1 - alpha),
        ):
            factor = balance if alpha >= 0 else 1.0
            out[position] -= share * factor * (1 - probability) ** gamma * math.log(probability)
    return out


def huber(d: Array, delta: float) -> Array:
    size = np.abs(d)
    return np.where(size <= delta, d**2 / 2, delta * (size - delta / 2))
