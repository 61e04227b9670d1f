"""Matrix products in blocks on several threads.

BLAS adds the terms of a product of two vectors, or of a few rows and columns, one after the other,
as NumPy does (``reduction.py``). So products with very many terms are cut, and added in float64.
"""

from __future__ import annotations

import numpy as np

from tinynn.backend.cpu import elementwise, tuning
from tinynn.backend.cpu.reduction import sums
from tinynn.backend.cpu.threads import parallel, single_threaded_blas
from tinynn.backend.cpu.tiles import cut
from tinynn.backend.reference import Array, Backend


def matmul(backend: Backend, a: Array, b: Array) -> Array:
    """In blocks on several threads; an outer product as an elementwise product."""
    if a.dtype == b.dtype == np.float16:  # which BLAS does not know
        return matmul(backend, a.astype(np.float32), b.astype(np.float32)).astype(a.dtype)
    flat = a.ndim == b.ndim == 2
    if flat and a.shape[1] == 1 and a.dtype == b.dtype:
        return np.multiply(a, b)
    length = max(a.shape[0], b.shape[1]) if flat else 0
    work = a.size * b.shape[-1]
    parts = a.shape[1] // tuning.MATMUL_TERMS if flat else 1
    if parts > 1 and parts * a.shape[0] * b.shape[1] <= a.size + b.size:  # memory of the parts
        return _sum_of_products(a, b, parts)
    blocks = min(tuning.MATMUL_BLOCKS, length // 16, work // tuning.MATMUL_BLOCK_WORK)
    if blocks < 2:
        with single_threaded_blas():
            return np.matmul(a, b)
    out = elementwise.empty((a.shape[0], b.shape[1]), np.result_type(a, b))

    # cut the larger matrix, so that each of its blocks is read by one thread only
    left, right, target = (a, b, out) if length == a.shape[0] else (b.T, a.T, out.T)

    def product(part: slice) -> None:
        np.matmul(left[part], right, out=target[part])

    # a power of two: even shares for 2, 4 or 8 threads
    parallel(product, cut(length, 1 << blocks.bit_length() - 1))
    return out


def _sum_of_products(a: Array, b: Array, parts: int) -> Array:
    """a @ b as a sum of ``parts`` products."""
    dtype = np.result_type(a, b)
    products = np.empty((parts, a.shape[0], b.shape[1]), dtype)
    terms = cut(a.shape[1], parts)

    def product(number: int) -> None:
        np.matmul(a[:, terms[number]], b[terms[number]], out=products[number])

    parallel(product, range(parts))
    return sums(products, (0,))[0].astype(dtype)
