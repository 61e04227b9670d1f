"""The reference of every numeric kernel, written with the operations that NumPy and CuPy share.

Kernels map arrays to arrays, without tensors or a computational graph. Images are (N, H, W, C),
convolution weights (kh, kw, C / groups, O). The gradient kernels are vector-Jacobian products:
``grad`` is the gradient of the loss with respect to the kernel's output, and the result is the
gradient with respect to an input. Functions that the array library already has (``exp``, ``where``)
are not repeated here: callers use ``backend.xp``.

``NumpyBackend`` and ``CupyBackend`` replace the kernels that they have faster versions of. Tests
compare every replacement with this file in float64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import numpy as np

from tinynn.backend import formula, philox, tracing
from tinynn.backend.formula import Formula
from tinynn.backend.window import Window
from tinynn.errors import LabelError

Array = Any  # numpy.ndarray or cupy.ndarray
Arrays = Sequence[Array]

NO_CLASSIFIER = 2.0**60  # more labels than an epoch has


class NeedsGrad(NamedTuple):
    """Which gradients of a convolution to compute."""

    x: bool
    weight: bool
    bias: bool


class PooledGrad(NamedTuple):
    """The gradient of the output of ReLU and max pooling, and the data that its VJP needs."""

    grad: Array
    out: Array  # the output
    winner: Array  # the tap of each window that held the maximum
    pool: Window


class BatchNorm(NamedTuple):
    """Parameters of batch normalization: weight · (x - mean) / √(var + eps) + bias."""

    weight: Array | None
    bias: Array | None
    running: tuple[Array, Array] | None  # mean and variance, updated in place
    momentum: float
    eps: float
    relu: bool = False  # whether negative outputs become 0

    def update_running(self, mean: Array, variance: Array, count: int) -> None:
        """running += momentum · (batch - running), in place, with the unbiased variance."""
        if self.running is not None:
            unbiased = variance * (count / max(1, count - 1))
            for kept, batch in zip(self.running, (mean, unbiased), strict=True):
                kept *= 1 - self.momentum
                kept += (self.momentum * batch).astype(kept.dtype, copy=False)


class Normalized(NamedTuple):
    """The result of a normalization, and the statistics that its gradient needs."""

    out: Array
    mean: Array
    variance: Array


class Uploads:
    """Host-to-device copies in two steps: ``start`` on any thread, then ``receive``.

    Created by ``Backend.uploads`` on the thread that computes.
    """

    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    def start(self, *arrays: np.ndarray) -> Any:
        """Start copying the arrays; returns the argument of ``receive``."""
        return arrays

    def receive(self, started: Any) -> tuple[Array, ...]:
        """The arrays on the device; called on the thread that computes with them."""
        return tuple(self.backend.from_host(array) for array in started)


class Backend:
    """Numeric kernels on one device, written in the array module ``xp``: NumPy or CuPy."""

    xp: Any
    device: str

    def session(self) -> AbstractContextManager[None]:
        """A context in which a forward or backward pass runs on this device.

        A backend overrides it to prepare its libraries or to explain their errors.
        """
        return nullcontext()

    def meter(self) -> tracing.Meter:
        """The counters and timers of ``tinynn.trace``."""
        return tracing.Meter()

    # -- moving data ------------------------------------------------------------------------

    def from_host(self, array: np.ndarray) -> Array:
        """Copy a NumPy array to the device; may share its memory."""
        return self.xp.asarray(array)

    def synchronize(self) -> None:
        """Wait until the device has finished all submitted work."""

    def held_memory(self) -> dict[str, int]:
        """Bytes of memory that the library holds on the device, by kind."""
        return {}

    def free_memory(self) -> None:
        """Release cached memory that is not in use."""

    def available_memory(self) -> int:
        """Bytes that can be allocated."""
        raise NotImplementedError

    def uploads(self) -> Uploads:
        """Copies batches to the device in the background."""
        return Uploads(self)

    def to_host(self, array: Array) -> np.ndarray:
        """Copy a device array to a NumPy array; synchronizes with the device."""
        raise NotImplementedError

    # -- elementwise ------------------------------------------------------------------------

    def elementwise(self, name: str, *operands: Any) -> Array:
        """Apply the array module's function of that name to arrays and numbers that broadcast."""
        return getattr(self.xp, name)(*operands)

    def evaluate(self, formula: Formula, *arrays: Array) -> Array:
        """formula(*arrays), elementwise, for floating-point arrays of one shape and dtype.

        See ``tinynn.backend.formula`` for what a formula may contain.
        """
        return formula(*arrays)

    def relu(self, x: Array) -> Array:
        """max(x, 0)."""
        return self.evaluate(formula.relu, x)

    def relu_gradient(self, grad: Array, out: Array) -> Array:
        """The VJP of ``relu``, whose result is ``out``: grad where out > 0, else 0."""
        return self.evaluate(formula.relu_gradient, grad, out)

    # -- matrix products --------------------------------------------------------------------

    def matmul(self, a: Array, b: Array) -> Array:
        """(..., n, k) @ (..., k, m) -> (..., n, m)."""
        return self.xp.matmul(a, b)

    def add_bias(self, out: Array, bias: Array) -> Array:
        """Add the bias (O,) to (..., O), in place."""
        out += bias
        return out

    # -- reductions -------------------------------------------------------------------------

    def sum(self, x: Array, axes: tuple[int, ...], keepdims: bool = False) -> Array:
        """The sum over some axes; floating-point numbers are accumulated in float64."""
        if x.dtype.kind != "f":
            return x.sum(axis=axes, keepdims=keepdims)
        return x.sum(axis=axes, dtype="float64", keepdims=keepdims).astype(x.dtype)

    def mean(self, x: Array, axes: tuple[int, ...], keepdims: bool = False) -> Array:
        """The mean over some axes, of floating-point numbers."""
        total = x.sum(axis=axes, dtype="float64", keepdims=keepdims)
        return (total / math.prod([x.shape[axis] for axis in axes])).astype(x.dtype)

    def sum_of_squares(self, x: Array) -> Array:
        """Σx² over all axes, in float64: the square of a float32 number never overflows there."""
        squares = self.xp.square(x, dtype="float64")
        return self.xp.asarray(self.sum(squares, tuple(range(x.ndim))))

    def center(self, x: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
        """x minus its mean over some axes, and the mean, whose axes keep length 1.

        Rounding the mean shifts all differences by as much, which would be many digits of the
        variance of values far from zero. So the mean of the differences is subtracted as well.
        """
        average = self.mean(x, axes, keepdims=True)
        centered = x - average
        rest = self.mean(centered, axes, keepdims=True)
        centered -= rest
        return centered, average + rest

    # -- softmax ----------------------------------------------------------------------------

    def log_softmax(self, x: Array, axis: int) -> Array:
        """x - log Σ exp(x) along an axis.

        Subtracting the maximum first prevents overflow. The sum is then 1 + Σ' over the others, and
        log1p(Σ') keeps the digits of a small Σ'.
        """
        xp, shape = self.xp, x.shape
        x = x.reshape(math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :]))
        highest = xp.arange(len(x))[:, None], x.argmax(1), xp.arange(x.shape[2])
        shifted = x - x[highest][:, None]
        exponentials = xp.exp(shifted)
        exponentials[highest] = 0
        shifted -= xp.log1p(self.sum(exponentials, (1,), keepdims=True))
        return shifted.reshape(shape)

    def softmax(self, x: Array, axis: int) -> Array:
        """exp(x) / Σ exp(x) along an axis."""
        exponentials = self.xp.exp(x - x.max(axis=axis, keepdims=True))
        exponentials /= self.sum(exponentials, (axis,), keepdims=True)
        return exponentials

    def cross_entropy(self, logits: Array, labels: Array, origin: str | None) -> tuple[Any, Any]:
        """The mean of -log softmax(logits)[label] for logits (n, K) and int64 labels (n,).

        Also returns the values that ``cross_entropy_gradient`` needs. ``origin`` describes the
        batch in the error message for a label out of range.
        """
        self.check_labels(labels, logits.shape[1], origin)
        scores = self.log_softmax(logits, 1)
        losses = -scores[self.xp.arange(len(labels)), labels]
        return self.mean(losses, (0,)), scores

    def cross_entropy_gradient(
        self, grad: Array, logits: Array, kept: Array, labels: Array
    ) -> Array:
        """(softmax(logits) - one_hot(labels)) · grad / n, for a scalar gradient."""
        result, picked = self.xp.exp(kept), (self.xp.arange(len(labels)), labels)
        result[picked] = self.xp.expm1(kept[picked])
        result *= grad * (1 / len(labels))
        return result

    def check_labels(self, labels: Array, classes: int, origin: str | None) -> None:
        """Raise LabelError for the first label that is not in [0, classes).

        A GPU may raise it later, when a value is read from it.
        """
        wrong = (labels < 0) | (labels >= classes)
        if wrong.any():
            position = int(wrong.argmax())
            raise label_error(classes, int(labels[position]), position, origin)

    # -- indexing ---------------------------------------------------------------------------

    def gather(self, x: Array, index: Any) -> Array:
        """x[index]."""
        return x[index]

    def check_index(self, x: Array, index: Any) -> None:
        """Raise an error if an array in ``index`` is out of range for x, which NumPy does itself.

        A GPU may raise it later, when a value is read from it.
        """

    def scatter_add(self, shape: tuple[int, ...], index: Any, values: Array) -> Array:
        """Zeros of ``shape`` with ``values`` added at ``index``; repeated indices accumulate."""
        wide = "float64" if values.dtype.kind == "f" else values.dtype
        out = self.xp.zeros(shape, dtype=wide)
        self.xp.add.at(out, index, values.astype(wide, copy=False))
        return out.astype(values.dtype, copy=False)

    # -- normalization ----------------------------------------------------------------------

    def normalize(self, x: Array, axes: tuple[int, ...], eps: float) -> Normalized:
        """(x - mean) / √(var + eps) over the axes, which have length 1 in the statistics.

        float16 is computed in float32, here and below; the statistics stay float32.
        """
        centered, average = self.center(self._widen(x), axes)
        variance = self.mean(centered * centered, axes, keepdims=True)
        centered *= (variance + eps) ** -0.5
        return Normalized(centered.astype(x.dtype, copy=False), average, variance)

    def normalize_gradient(
        self, grad: Array, out: Array, variance: Array, axes: tuple[int, ...], eps: float
    ) -> Array:
        """r·(g - mean(g) - y·mean(g·y)), with r = 1 / √(var + eps) and y the output."""
        wide, y = self._widen(grad), self._widen(out)
        slope = self.mean(wide * y, axes, keepdims=True)
        result = wide - self.mean(wide, axes, keepdims=True)
        result -= y * slope
        result *= (variance + eps) ** -0.5
        return result.astype(grad.dtype, copy=False)

    def batch_norm(self, x: Array, norm: BatchNorm) -> Normalized:
        """weight · (x - mean) / √(var + eps) + bias, for each channel (the last axis)."""
        axes = tuple(range(x.ndim - 1))
        out, average, variance = self.normalize(x, axes, norm.eps)
        average, variance = average.reshape(-1), variance.reshape(-1)
        norm.update_running(average, variance, x.size // x.shape[-1])
        if norm.weight is not None:
            out *= norm.weight
        if norm.bias is not None:
            out += norm.bias
        return Normalized(self.relu(out) if norm.relu else out, average, variance)

    def batch_norm_gradient(
        self, grad: Array, x: Array, norm: BatchNorm, saved: Normalized
    ) -> tuple[Array, Array, Array]:
        """The gradients of x, weight and bias. Of ``saved``, only ReLU needs ``out``.

        With r = 1 / √(var + eps) and y = (x - mean)·r they are
        r·weight·(g - mean(g) - y·mean(g·y)), Σ g·y and Σ g.
        """
        if norm.relu:
            grad = self.relu_gradient(grad, saved.out)
        axes = tuple(range(x.ndim - 1))
        scale = x.shape[-1] / x.size
        root = (saved.variance + norm.eps) ** -0.5
        wide = self._widen(grad)
        y = self._widen(x) - saved.mean
        y *= root
        total, slope = self.sum(wide, axes), self.sum(wide * y, axes)
        y *= slope * scale
        result = wide - total * scale
        result -= y
        result *= root if norm.weight is None else root * norm.weight
        gradients = (result, slope, total)
        return tuple(g.astype(x.dtype, copy=False) for g in gradients)

    def _widen(self, x: Array) -> Array:
        """float16 as float32; other dtypes unchanged."""
        return x.astype("float32") if x.dtype.itemsize == 2 else x

    # -- convolution ------------------------------------------------------------------------

    def pad_image(self, x: Array, window: Window, value: float = 0) -> Array:
        """Pad the image by the window's padding; negative padding crops."""
        (top, bottom), (left, right) = window.padding
        height, width = x.shape[1:3]
        x = x[:, max(-top, 0) : height - max(-bottom, 0), max(-left, 0) : width - max(-right, 0)]
        pads = [(max(before, 0), max(after, 0)) for before, after in window.padding]
        if not any(map(any, pads)):
            return x
        return self.xp.pad(x, [(0, 0), *pads, (0, 0)], constant_values=value)

    def _padded_zeros(self, shape: tuple[int, ...], window: Window, dtype: Any) -> Array:
        """Zeros of the size of ``shape`` with padding."""
        (top, bottom), (left, right) = window.padding
        n, height, width, channels = shape
        return self.xp.zeros((n, height + top + bottom, width + left + right, channels), dtype)

    def _unpad_image(self, padded: Array, window: Window) -> Array:
        """Remove the padding: the adjoint of ``pad_image`` with zeros."""
        (top, bottom), (left, right) = window.padding
        return self.pad_image(padded, window._replace(padding=((-top, -bottom), (-left, -right))))

    def conv2d(self, x: Array, weight: Array, bias: Array | None, window: Window) -> Array:
        """Cross-correlation (N, H, W, C) * (kh, kw, C/groups, O) + (O,) -> (N, H', W', O).

        out[n, y, x] = Σᵢⱼ padded[n, y·stride + i, x·stride + j] @ weight[i, j]: one GEMM over all
        output pixels for each tap (i, j) of the kernel.
        """
        out_h, out_w = window.output_size(*x.shape[1:3])
        padded, kernel = self._widen(self.pad_image(x, window)), self._widen(weight)
        out = self.xp.zeros((x.shape[0], out_h, out_w, weight.shape[3]), dtype=padded.dtype)
        for i, j, rows, columns in window.taps(out_h, out_w):
            out += self._grouped_product(padded[:, rows, columns], kernel[i, j], window.groups)
        if bias is not None:
            out += bias
        return out.astype(x.dtype, copy=False)

    def conv2d_input_gradient(
        self, grad: Array, weight: Array, window: Window, shape: tuple[int, ...]
    ) -> Array:
        """The gradient of the image, the adjoint of ``conv2d`` in x: -> ``shape`` (N, H, W, C).

        Each tap adds grad @ weight[i, j]ᵀ to the pixels that it read in the forward pass.
        """
        wide, swapped = self._widen(grad), self._widen(self._swap_channels(weight, window.groups))
        padded = self._padded_zeros(shape, window, wide.dtype)
        for i, j, rows, columns in window.taps(*grad.shape[1:3]):
            padded[:, rows, columns] += self._grouped_product(wide, swapped[i, j], window.groups)
        return self._unpad_image(padded, window).astype(grad.dtype, copy=False)

    def conv2d_weight_gradient(self, x: Array, grad: Array, window: Window) -> Array:
        """The gradient of the weight, the adjoint of ``conv2d`` in weight: (kh, kw, C/groups, O).

        weight[i, j] = Σ padded[n, y·stride + i, x·stride + j]ᵀ @ grad[n, y, x].
        """
        padded, groups = self._widen(self.pad_image(x, window)), window.groups
        channels, outputs = x.shape[3] // groups, grad.shape[3] // groups
        weight = self.xp.empty((*window.kernel, channels, groups * outputs), dtype=x.dtype)
        grads = self._widen(grad).reshape(-1, groups, outputs).transpose(1, 0, 2)
        for i, j, rows, columns in window.taps(*grad.shape[1:3]):
            pixels = padded[:, rows, columns].reshape(-1, groups, channels).transpose(1, 2, 0)
            product = self.xp.matmul(pixels, grads).transpose(1, 0, 2)
            weight[i, j] = product.reshape(channels, groups * outputs)
        return weight

    def conv2d_gradients(
        self, x: Array, weight: Array, grad: Array, window: Window, needs: NeedsGrad
    ) -> tuple[Array | None, ...]:
        """The gradients of image, weight and bias; None where not needed."""
        image = kernel = bias = None
        if needs.x:
            image = self.conv2d_input_gradient(grad, weight, window, x.shape)
        if needs.weight:
            kernel = self.conv2d_weight_gradient(x, grad, window)
        if needs.bias:
            bias = self.sum(grad, (0, 1, 2))
        return image, kernel, bias

    def _grouped_product(self, x: Array, matrix: Array, groups: int) -> Array:
        """(..., C) @ (C / groups, O): group g of the inputs gives group g of the outputs."""
        if groups == 1:
            return self.xp.matmul(x, matrix)
        channels, outputs = matrix.shape
        blocks = matrix.reshape(channels, groups, outputs // groups).transpose(1, 0, 2)
        rows = x.reshape(-1, groups, channels).transpose(1, 0, 2)
        product = self.xp.matmul(rows, blocks).transpose(1, 0, 2)
        return product.reshape(*x.shape[:-1], outputs)

    def _swap_channels(self, weight: Array, groups: int) -> Array:
        """Transpose each group of the weight: (kh, kw, C/groups, O) -> (kh, kw, O/groups, C)."""
        kh, kw, channels, outputs = weight.shape
        blocks = weight.reshape(kh, kw, channels, groups, outputs // groups)
        return blocks.transpose(0, 1, 4, 3, 2).reshape(kh, kw, outputs // groups, -1)

    # -- pooling ----------------------------------------------------------------------------

    def max_pool2d(self, x: Array, window: Window) -> tuple[Array, Array]:
        """The maximum of each window, and the index i·kw + j of the tap that held it.

        Padding is minus infinity. The first of equal values wins. NaN propagates.
        """
        xp = self.xp
        padded = self.pad_image(x, window, value=-math.inf)
        out_h, out_w = window.output_size(*x.shape[1:3])
        best = xp.full((x.shape[0], out_h, out_w, x.shape[3]), -math.inf, dtype=x.dtype)
        winner = xp.zeros(best.shape, dtype=xp.int16)
        for i, j, rows, columns in window.taps(out_h, out_w):
            candidate = padded[:, rows, columns]
            winner = xp.where(candidate > best, xp.int16(i * window.kernel[1] + j), winner)
            best = xp.maximum(best, candidate)
        return best, winner

    def max_pool2d_scatter(
        self, values: Array, winner: Array, window: Window, shape: tuple[int, ...]
    ) -> Array:
        """Add each window's value to the pixel that was its maximum, in zeros of ``shape``."""
        padded = self._padded_zeros(shape, window, self._sum_dtype(values, window))
        for i, j, rows, columns in window.taps(*values.shape[1:3]):
            padded[:, rows, columns] += values * (winner == i * window.kernel[1] + j)
        return self._unpad_image(padded, window).astype(values.dtype, copy=False)

    def max_pool2d_gather(self, x: Array, winner: Array, window: Window) -> Array:
        """The value of x at the winner of each window: the adjoint of ``max_pool2d_scatter``."""
        padded = self.pad_image(x, window)
        out = self.xp.zeros(winner.shape, dtype=x.dtype)
        for i, j, rows, columns in window.taps(*winner.shape[1:3]):
            out += padded[:, rows, columns] * (winner == i * window.kernel[1] + j)
        return out

    def sum_pool2d(self, x: Array, window: Window) -> Array:
        """The sum of each window; padding counts as zero."""
        padded = self.pad_image(x, window)
        out_h, out_w = window.output_size(*x.shape[1:3])
        shape = (x.shape[0], out_h, out_w, x.shape[3])
        out = self.xp.zeros(shape, self._sum_dtype(x, window))
        for _, _, rows, columns in window.taps(out_h, out_w):
            out += padded[:, rows, columns]
        return out.astype(x.dtype, copy=False)

    def _sum_dtype(self, x: Array, window: Window) -> Any:
        """The dtype in which terms from one window are added up: float64 for many of them."""
        many = window.kernel[0] * window.kernel[1] > 32
        return "float64" if many else self._widen(x[:0]).dtype

    def sum_pool2d_adjoint(self, grad: Array, window: Window, shape: tuple[int, ...]) -> Array:
        """Add each window's value to all of its pixels, in zeros of ``shape``."""
        padded = self._padded_zeros(shape, window, self._sum_dtype(grad, window))
        for _, _, rows, columns in window.taps(*grad.shape[1:3]):
            padded[:, rows, columns] += grad
        return self._unpad_image(padded, window).astype(grad.dtype, copy=False)

    # -- convolution, ReLU and max pooling in one -------------------------------------------

    def conv2d_relu_pool(
        self,
        x: Array,
        weight: Array,
        bias: Array | None,
        window: Window,
        pool: Window,
        keep: bool = True,
    ) -> tuple[Array, Array | None]:
        """relu(max_pool2d(conv2d(x))) and the winners; ReLU and max pooling commute.

        Without ``keep`` the winners, which only the gradients need, may be None.
        """
        out, winner = self.max_pool2d(self.conv2d(x, weight, bias, window), pool)
        return self.relu(out), winner

    def relu_max_pool2d_gradient(self, pooled: PooledGrad, shape: tuple[int, ...]) -> Array:
        """The gradient of the input, of ``shape``, of max pooling and ReLU."""
        grad = self.relu_gradient(pooled.grad, pooled.out)
        return self.max_pool2d_scatter(grad, pooled.winner, pooled.pool, shape)

    def conv2d_relu_pool_gradients(
        self, x: Array, weight: Array, pooled: PooledGrad, window: Window, needs: NeedsGrad
    ) -> tuple[Array | None, ...]:
        """The gradients of image, weight and bias through ``conv2d_relu_pool``."""
        full = (x.shape[0], *window.output_size(*x.shape[1:3]), weight.shape[3])
        grad = self.relu_max_pool2d_gradient(pooled, full)
        return self.conv2d_gradients(x, weight, grad, window, needs)

    # -- metrics ----------------------------------------------------------------------------

    def accumulate_metrics(
        self,
        totals: Array,
        failed: Array,
        loss: Array,
        examples: int,
        logits: Array,
        labels: Array,
    ) -> None:
        """totals += (loss · examples, correct predictions, 1, labels), without synchronization.

        ``totals`` is (4,) float64. ``logits`` is (n, classes), or (n, 1) for a binary classifier
        that predicts class 1 above 0; n may differ from ``examples``. Labels that are no class are
        ignored; with a single logit they make ``totals[3]`` negative: it is no binary classifier.
        ``failed``, one bool, becomes true with the first loss that is not finite; from then on
        ``totals[2]``, the number of batches before it, is constant.
        """
        single, count = logits.shape[1] == 1, self.xp.count_nonzero
        predicted = logits[:, 0] > 0 if single else logits.argmax(axis=1)
        # as unsigned integers, negative labels are larger than all classes
        unsigned = labels.astype("int64", copy=False).view("uint64")
        counted = count(unsigned < (2 if single else logits.shape[1]))
        if single:
            counted = self.xp.where(counted == len(labels), counted, -NO_CLASSIFIER)
        totals[:1] += self.xp.asarray(loss, dtype=totals.dtype).reshape(1) * examples
        totals[1:2] += count(predicted == labels)
        failed |= ~self.xp.isfinite(loss).reshape(failed.shape)
        totals[2:3] += ~failed
        totals[3:] += counted

    def peek(self, array: Array) -> Any | None:
        """The value of an array of one element, or None if that would synchronize."""
        return None

    # -- random numbers ---------------------------------------------------------------------

    def random_bits(self, seed: int, position: int, count: int) -> Array:
        """``count`` uint32 words of the Philox sequence, from block ``position`` on."""
        blocks = -(-count // philox.WORDS_PER_BLOCK)
        return philox.philox(self.xp, seed, position, blocks).view(self.xp.uint32).ravel()[:count]

    def dropout(self, x: Array, seed: int, position: int, p: float) -> tuple[Array, Array]:
        """Keep an element if its 32-bit word is >= p·2³², scaled by 1 / (1 - p); also the mask."""
        bits = self.random_bits(seed, position, x.size)
        mask = (bits >= round(p * 2**32)).reshape(x.shape)
        return self.masked(x, mask, 1 / (1 - p)), mask

    def masked(self, x: Array, mask: Array, scale: float) -> Array:
        """x · mask · scale."""
        return (x * mask) * scale

    # -- optimizer updates, in place --------------------------------------------------------

    def update(
        self, formula: Formula, columns: Sequence[Arrays], skip: Array | None = None
    ) -> None:
        """formula(*row) for each row of ``columns``; nothing where ``skip``, one bool, is true.

        The columns are parameters, their gradients and the arrays of the optimizer's state. The
        formula changes them in place; see ``tinynn.backend.formula`` for what it may contain.
        """
        if skip is not None and skip:
            return
        for arrays in zip(*columns, strict=True):
            formula(*arrays)

    def unscale(self, grads: Arrays, factor: Array, found: Array) -> None:
        """Every gradient times the factor, in place; ``found`` becomes true if one overflowed."""
        for grad in grads:
            grad[...] = self._widen(grad) * factor
            found |= ~self.xp.isfinite(grad).all()


def label_error(classes: int, label: int, position: int, origin: str | None) -> LabelError:
    """The error for a label out of range."""
    return LabelError(
        f"cross_entropy expects labels from 0 to {classes - 1} for {classes} classes, got {label} "
        f"at position {position} of {origin or 'the batch'}"
    )
