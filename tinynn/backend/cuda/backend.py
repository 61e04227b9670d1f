"""An NVIDIA GPU through CuPy: the table of kernels that override the reference."""

from tinynn.backend.cuda import (
    convolution,
    elementwise,
    metrics,
    normalization,
    pooling,
    random,
    reduction,
    softmax,
    update,
)
from tinynn.backend.cuda.device import CudaDevice


class CupyBackend(CudaDevice):
    """Kernels on one CUDA device; kernels that are not listed run as in the reference, with CuPy.

    Each entry is a plain function in the module of its topic, with the CUDA kernels beside it:
    ``convolution.py`` launches the kernels of ``convolution.cu``, and so on.
    """

    conv2d = convolution.conv2d
    conv2d_input_gradient = convolution.conv2d_input_gradient
    conv2d_weight_gradient = convolution.conv2d_weight_gradient
    conv2d_relu_pool = convolution.conv2d_relu_pool

    max_pool2d = pooling.max_pool2d
    max_pool2d_gather = pooling.max_pool2d_gather
    max_pool2d_scatter = pooling.max_pool2d_scatter
    relu_max_pool2d_gradient = pooling.relu_max_pool2d_gradient
    sum_pool2d = pooling.sum_pool2d
    sum_pool2d_adjoint = pooling.sum_pool2d_adjoint

    batch_norm = normalization.batch_norm
    batch_norm_gradient = normalization.batch_norm_gradient
    normalize = normalization.normalize
    normalize_gradient = normalization.normalize_gradient

    sum = reduction.sum
    mean = reduction.mean

    cross_entropy = softmax.cross_entropy
    cross_entropy_gradient = softmax.cross_entropy_gradient
    check_labels = softmax.check_labels
    check_index = softmax.check_index
    accumulate_metrics = metrics.accumulate_metrics

    evaluate = elementwise.evaluate
    add_bias = elementwise.add_bias

    random_bits = random.random_bits
    dropout = random.dropout
    masked = random.masked

    unscale = update.unscale
    update = update.update  # last: it shadows the module
