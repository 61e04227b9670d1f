"""Naive references: the definitions, in plain loops over pixels. Nothing here imports tinynn.

They take the arguments of the function of the same name in ``tinynn.functional``.
"""

import math
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np

Array = np.ndarray
Pair = tuple[int, int]


def pair(value: int | Pair) -> Pair:
    return (value, value) if isinstance(value, int) else value


def padding_of(padding: Any, size: int, kernel: int, stride: int, dilation: int, axis: int) -> Pair:
    """(before, after) along one axis; "same" makes ceil(size / stride) outputs, odd rest after."""
    if padding == "same":
        missing = (math.ceil(size / stride) - 1) * stride + (kernel - 1) * dilation + 1 - size
        return max(missing, 0) // 2, max(missing, 0) - max(missing, 0) // 2
    return pair(pair(padding)[axis])


def conv2d(
    x: Array,
    w: Array,
    bias: Array | None = None,
    stride: int | Pair = 1,
    padding: Any = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
) -> Array:
    (sh, sw), (dh, dw) = pair(stride), pair(dilation)
    (kh, kw, C, outputs) = w.shape
    rows = padding_of(padding, x.shape[1], kh, sh, dh, 0)
    columns = padding_of(padding, x.shape[2], kw, sw, dw, 1)
    x = np.pad(x, [(0, 0), rows, columns, (0, 0)])
    N, H, W, _ = x.shape
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
    stride: int | Pair = 1,
    padding: int | Pair = 0,
    output_padding: int | Pair = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
) -> Array:
    """Add the kernel, scaled by each input pixel, to the output; then crop by the padding."""
    (N, H, W, C), (kh, kw, outputs, _) = x.shape, w.shape
    (sh, sw), (dh, dw) = pair(stride), pair(dilation)
    extra = pair(output_padding)
    full = np.zeros(
        (
            N,
            (H - 1) * sh + (kh - 1) * dh + 1 + extra[0],
            (W - 1) * sw + (kw - 1) * dw + 1 + extra[1],
            outputs * groups,
        )
    )
    for y, z, c in np.ndindex(H, W, C):
        group = c // (C // groups)
        for i, j, o in np.ndindex(kh, kw, outputs):
            full[:, y * sh + i * dh, z * sw + j * dw, group * outputs + o] += (
                x[:, y, z, c] * w[i, j, o, c]
            )
    (top, left), (height, width) = pair(padding), full.shape[1:3]
    out = full[:, top : height - top, left : width - left]
    return out if bias is None else out + bias


def windows(
    size: int, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool
) -> list[range]:
    """The positions of each window along one axis, also outside of the image."""
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
    kernel_size: int | Pair,
    stride: int | Pair | None = None,
    padding: int | Pair = 0,
    dilation: int | Pair = 1,
    ceil_mode: bool = False,
) -> Array:
    N, H, W, C = x.shape
    steps = kernel_size if stride is None else stride
    rows, columns = (
        windows(*numbers, ceil_mode)
        for numbers in zip((H, W), *map(pair, (kernel_size, steps, padding, dilation)), strict=True)
    )
    out = np.full((N, len(rows), len(columns), C), -math.inf)
    for (y, row), (z, column) in product(enumerate(rows), enumerate(columns)):
        for i in row:
            for j in column:
                if 0 <= i < H and 0 <= j < W:
                    out[:, y, z] = np.maximum(out[:, y, z], x[:, i, j])
    return out


def avg_pool2d(
    x: Array,
    kernel_size: int | Pair,
    stride: int | Pair | None = None,
    padding: int | Pair = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Array:
    N, H, W, C = x.shape
    steps = kernel_size if stride is None else stride
    rows, columns = (
        windows(*numbers, 1, ceil_mode)
        for numbers in zip((H, W), *map(pair, (kernel_size, steps, padding)), strict=True)
    )
    out = np.zeros((N, len(rows), len(columns), C))
    border = pair(padding) if count_include_pad else (0, 0)
    for (y, row), (z, column) in product(enumerate(rows), enumerate(columns)):
        count = 0
        for i in row:
            for j in column:
                count += -border[0] <= i < H + border[0] and -border[1] <= j < W + border[1]
                if 0 <= i < H and 0 <= j < W:
                    out[:, y, z] += x[:, i, j]
        out[:, y, z] /= count
    return out


def conv2d_relu_max_pool2d(
    x: Array,
    w: Array,
    bias: Array,
    pool_size: int | Pair = 2,
    pool_stride: int | Pair | None = None,
    ceil_mode: bool = False,
    **options: Any,
) -> Array:
    out = np.maximum(conv2d(x, w, bias, **options), 0)
    return max_pool2d(out, pool_size, pool_stride, ceil_mode=ceil_mode)


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
        for i, j in np.ndindex(H, W):  # each pixel has a triangular kernel of width 2
            out[:, y, z] += x[:, i, j] * max(0, 1 - abs(v - i)) * max(0, 1 - abs(u - j))
    return out


def standardized(values: Array, eps: float) -> Array:
    """The values shifted and scaled to mean 0 and variance 1."""
    average = values.sum() / values.size
    variance = ((values - average) ** 2).sum() / values.size
    return (values - average) / math.sqrt(variance + eps)


def batch_norm(
    x: Array,
    mean: Array | None,
    variance: Array | None,
    weight: Array,
    bias: Array,
    training: bool = False,
    eps: float = 1e-5,
) -> Array:
    if not training:
        return (x - mean) / np.sqrt(variance + eps) * weight + bias
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


def dropout(x: Array, p: float, training: bool = True) -> Array:
    """Of the Philox sequence of seed 0, from its start."""
    bits = np.random.Philox(key=0, counter=2**256 - 1).random_raw(x.size).view(np.uint32)
    kept = bits[: x.size].reshape(x.shape) >= p * 2**32
    return x * kept / (1 - p) if training else x


def logsumexp(x: Array, axis: Any = None, keepdims: bool = False) -> Array:
    return np.log(np.exp(x).sum(axis=axis, keepdims=keepdims))


def softmax(x: Array, axis: int = -1) -> Array:
    return np.exp(x) / np.exp(x).sum(axis, keepdims=True)


def log_softmax(x: Array, axis: int = -1) -> Array:
    return x - np.log(np.exp(x).sum(axis, keepdims=True))


def cross_entropy(
    logits: Array,
    labels: Array,
    weight: Array | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int | None = None,
    reduction: str = "mean",
) -> Array:
    """Szegedy et al. (2016): the target distribution is mixed with the uniform one."""
    if labels.dtype.kind == "f":
        return -(labels * log_softmax(logits)).sum() / len(logits)
    classes = logits.shape[-1]
    weight = np.ones(classes) if weight is None else weight
    losses, total = np.zeros(labels.shape), 0.0
    for position in np.ndindex(*labels.shape):
        label = int(labels[position])
        if label == ignore_index:
            continue
        target = np.full(classes, label_smoothing / classes)
        target[label] += 1 - label_smoothing
        losses[position] = -(target * weight * log_softmax(logits[position])).sum()
        total += weight[label]
    return {"none": losses, "sum": losses.sum(), "mean": losses.sum() / total}[reduction]


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def reduced(losses: Array, reduction: str) -> Array:
    return {"none": losses, "sum": losses.sum(), "mean": losses.mean()}[reduction]


def binary_cross_entropy(
    x: Array, t: Array, pos_weight: float = 1.0, reduction: str = "mean"
) -> Array:
    p = sigmoid(x)
    return reduced(-(pos_weight * t * np.log(p) + (1 - t) * np.log(1 - p)), reduction)


def focal_loss(
    x: Array, t: Array, alpha: float = 0.25, gamma: float = 2.0, reduction: str = "mean"
) -> Array:
    out = np.zeros_like(x)
    for position in np.ndindex(*x.shape):
        p = 1 / (1 + math.exp(-x[position]))
        for share, probability, balance in (
            (t[position], p, alpha),
            (1 - t[position], 1 - p, 1 - alpha),
        ):
            factor = balance if alpha >= 0 else 1.0
            out[position] -= share * factor * (1 - probability) ** gamma * math.log(probability)
    return reduced(out, reduction)


def huber_loss(x: Array, t: Array, delta: float = 1.0, reduction: str = "mean") -> Array:
    size = np.abs(x - t)
    return reduced(np.where(size <= delta, size**2 / 2, delta * (size - delta / 2)), reduction)


def erf(x: Array) -> Array:
    return np.vectorize(math.erf, otypes=[float])(x)


def gelu(x: Array, approximate: str = "none") -> Array:
    if approximate == "tanh":
        return x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return x / 2 * (1 + erf(x / math.sqrt(2)))


def split(x: Array, sections: int | list[int], axis: int = 0) -> list[Array]:
    return np.split(
        x, sections if isinstance(sections, int) else np.cumsum(sections)[:-1], axis=axis
    )


REFERENCES: dict[str, Callable[..., Any]] = {
    "avg_pool2d": avg_pool2d,
    "batch_norm": batch_norm,
    "binary_cross_entropy_with_logits": binary_cross_entropy,
    "clip": lambda x, low, high: np.clip(x, low, high),
    "conv2d": conv2d,
    "conv2d_relu_max_pool2d": conv2d_relu_max_pool2d,
    "conv_transpose2d": conv_transpose2d,
    "cross_entropy": cross_entropy,
    "dropout": dropout,
    "elu": lambda x, alpha: np.where(x > 0, x, alpha * (np.exp(x) - 1)),
    "erf": erf,
    "flatten": lambda x, start_axis=0: x.reshape(*x.shape[:start_axis], -1),
    "gelu": gelu,
    "global_avg_pool2d": lambda x: x.mean((1, 2)),
    "global_max_pool2d": lambda x: x.max((1, 2)),
    "group_norm": group_norm,
    "huber_loss": huber_loss,
    "index": lambda x, key: x[key],
    "l1_loss": lambda x, t: np.abs(x - t).mean(),
    "layer_norm": layer_norm,
    "leaky_relu": lambda x, negative_slope: np.where(x > 0, x, negative_slope * x),
    "linear": lambda x, w, bias=0: x @ w + bias,
    "log_sigmoid": lambda x: -np.log(1 + np.exp(-x)),
    "log_softmax": log_softmax,
    "logsumexp": logsumexp,
    "max_pool2d": max_pool2d,
    "mse_loss": lambda x, t: ((x - t) ** 2).mean(),
    "nll_loss": lambda x, labels: -sum(x[i, k] for i, k in enumerate(labels)) / len(labels),
    "pad": lambda x, widths, value: np.pad(x, widths, constant_values=value),
    "permute": np.transpose,
    "relu": lambda x: np.maximum(x, 0),
    "resize_bilinear": resize_bilinear,
    "resize_nearest": resize_nearest,
    "sigmoid": sigmoid,
    "sigmoid_focal_loss": focal_loss,
    "silu": lambda x: x / (1 + np.exp(-x)),
    "softmax": softmax,
    "softplus": lambda x: np.log(1 + np.exp(x)),
    "split": split,
    "unsqueeze": np.expand_dims,
}
"""By function; NumPy's function of the same name is the reference of the others."""
