// Batch normalization over the rows of [rows][channels], and normalization of whole rows.

// Count, mean, and sum of squared distances from the mean: what is added to and joined without the
// loss of digits that sums of squares suffer (Welford, 1962; Chan, Golub and LeVeque, 1979).
struct Moments {
    ACCUMULATE count, mean, squares;
};

__device__ inline void include(Moments& m, ACCUMULATE value) {
    m.count += 1;
    const ACCUMULATE distance = value - m.mean;
    m.mean += distance / m.count;
    m.squares += distance * (value - m.mean);
}

__device__ inline Moments joined(const Moments& a, const Moments& b) {
    if (b.count == 0) return a;
    const ACCUMULATE count = a.count + b.count, distance = b.mean - a.mean;
    const Moments both = {count, a.mean + distance * (b.count / count),
                          a.squares + b.squares + distance * (a.count * b.count / count) * distance};
    return both;
}

// -- over the batch -----------------------------------------------------------------------------------
//
// A block has `across` threads side by side for neighboring channels (a power of two up to 32), and the
// others below them for different rows. blockIdx.x = part of the rows, .y = tile of channels. The last
// block of a tile joins the parts in order.

extern "C" __global__ void __launch_bounds__(256)
batch_statistics(const SCALAR* x, long long rows, int channels, int across, long long each,
                 ACCUMULATE momentum, Moments* partial, unsigned int* tickets, ACCUMULATE* average,
                 ACCUMULATE* variance, SCALAR* running_mean, SCALAR* running_variance) {
    __shared__ Moments lines[256];
    const int lane = threadIdx.x % across, c = blockIdx.y * across + lane;
    const long long begin = blockIdx.x * each, end = min(rows, begin + each);
    Moments own = {0, 0, 0};
    if (c < channels) {
        for (long long row = begin + threadIdx.x / across; row < end; row += blockDim.x / across) {
            include(own, widen(x[row * channels + c]));
        }
    }
    lines[threadIdx.x] = own;
    __syncthreads();
    for (int half = blockDim.x / 2; half >= across; half /= 2) {
        if (threadIdx.x < half) {
            lines[threadIdx.x] = joined(lines[threadIdx.x], lines[threadIdx.x + half]);
        }
        __syncthreads();
    }
    const bool writes = threadIdx.x < across && c < channels;
    if (writes) partial[static_cast<long long>(blockIdx.x) * channels + c] = lines[lane];
    if (!is_last_block(tickets + blockIdx.y, gridDim.x) || !writes) return;
    Moments all = {0, 0, 0};
    for (unsigned int part = 0; part < gridDim.x; part++) {
        const volatile Moments* at = partial + static_cast<long long>(part) * channels + c;
        const Moments next = {at->count, at->mean, at->squares};
        all = joined(all, next);
    }
    average[c] = all.mean;
    variance[c] = all.squares / all.count;
    if (running_mean) {
        const ACCUMULATE unbiased = all.squares / (all.count - 1), keep = 1 - momentum;
        store(running_mean + c, keep * widen(running_mean[c]) + momentum * all.mean);
        store(running_variance + c, keep * widen(running_variance[c]) + momentum * unbiased);
    }
}

extern "C" __global__ void batch_normalize(const SCALAR* x, long long count, int channels,
                                           const ACCUMULATE* average, const ACCUMULATE* variance,
                                           ACCUMULATE eps, const SCALAR* weight, const SCALAR* bias,
                                           SCALAR* out) {
    for (long long e = FIRST; e < count; e += ALL) {
        const int c = static_cast<int>(e % channels);
        ACCUMULATE y = (widen(x[e]) - average[c]) / sqrt(variance[c] + eps);
        if (weight) y *= widen(weight[c]);
        if (bias) y += widen(bias[c]);
        store(out + e, y);
    }
}

// The sums over the rows of g and of g * y, y being x normalized: the gradients of bias and weight, and
// in `sums` [2][channels] what the gradient of x needs.
extern "C" __global__ void __launch_bounds__(256)
batch_sums(const SCALAR* grad, const SCALAR* x, long long rows, int channels, int across,
           long long each, const ACCUMULATE* average, const ACCUMULATE* variance, ACCUMULATE eps,
           ACCUMULATE* partial, unsigned int* tickets, ACCUMULATE* sums, SCALAR* weight_grad,
           SCALAR* bias_grad) {
    __shared__ ACCUMULATE lines[2][256];
    const int lane = threadIdx.x % across, c = blockIdx.y * across + lane;
    const long long begin = blockIdx.x * each, end = min(rows, begin + each);
    ACCUMULATE total = 0, slope = 0;
    if (c < channels) {
        const ACCUMULATE mean = average[c], scale = 1 / sqrt(variance[c] + eps);
        for (long long row = begin + threadIdx.x / across; row < end; row += blockDim.x / across) {
            const ACCUMULATE g = widen(grad[row * channels + c]);
            total += g;
            slope += g * ((widen(x[row * channels + c]) - mean) * scale);
        }
    }
    lines[0][threadIdx.x] = total;
    lines[1][threadIdx.x] = slope;
    __syncthreads();
    for (int half = blockDim.x / 2; half >= across; half /= 2) {
        if (threadIdx.x < half) {
            lines[0][threadIdx.x] += lines[0][threadIdx.x + half];
            lines[1][threadIdx.x] += lines[1][threadIdx.x + half];
        }
        __syncthreads();
    }
    const bool writes = threadIdx.x < across && c < channels;
    if (writes) {
        ACCUMULATE* own = partial + static_cast<long long>(blockIdx.x) * 2 * channels + c;
        own[0] = lines[0][lane];
        own[channels] = lines[1][lane];
    }
    if (!is_last_block(tickets + blockIdx.y, gridDim.x) || !writes) return;
    total = slope = 0;
    for (unsigned int part = 0; part < gridDim.x; part++) {
        const volatile ACCUMULATE* at = partial + static_cast<long long>(part) * 2 * channels + c;
        total += at[0];
        slope += at[channels];
    }
    sums[c] = total;
    sums[channels + c] = slope;
    store(bias_grad + c, total);
    store(weight_grad + c, slope);
}

// (g - sum(g) / rows - y * sum(g y) / rows) * weight / sqrt(variance + eps).
extern "C" __global__ void batch_gradient(const SCALAR* grad, const SCALAR* x, long long rows,
                                          int channels, const ACCUMULATE* average,
                                          const ACCUMULATE* variance, ACCUMULATE eps,
                                          const SCALAR* weight, const ACCUMULATE* sums,
                                          SCALAR* out) {
    for (long long e = FIRST; e < rows * channels; e += ALL) {
        const int c = static_cast<int>(e % channels);
        const ACCUMULATE scale = 1 / sqrt(variance[c] + eps);
        const ACCUMULATE y = (widen(x[e]) - average[c]) * scale;
        const ACCUMULATE g = widen(grad[e]) - (sums[c] + y * sums[channels + c]) / rows;
        store(out + e, g * (weight ? scale * widen(weight[c]) : scale));
    }
}

// -- row by row ---------------------------------------------------------------------------------------
//
// A block a row, rows in a loop; its threads share the row's elements.

extern "C" __global__ void __launch_bounds__(256)
normalize_rows(const SCALAR* x, long long rows, long long length, ACCUMULATE eps, SCALAR* out,
               ACCUMULATE* average, ACCUMULATE* variance) {
    __shared__ Moments lines[256];
    for (long long row = blockIdx.x; row < rows; row += gridDim.x) {
        const SCALAR* own = x + row * length;
        Moments moments = {0, 0, 0};
        for (long long i = threadIdx.x; i < length; i += blockDim.x) include(moments, widen(own[i]));
        lines[threadIdx.x] = moments;
        __syncthreads();
        for (int half = blockDim.x / 2; half; half /= 2) {
            if (threadIdx.x < half) {
                lines[threadIdx.x] = joined(lines[threadIdx.x], lines[threadIdx.x + half]);
            }
            __syncthreads();
        }
        const ACCUMULATE mean = lines[0].mean, spread = lines[0].squares / length;
        const ACCUMULATE scale = 1 / sqrt(spread + eps);
        for (long long i = threadIdx.x; i < length; i += blockDim.x) {
            store(out + row * length + i, (widen(own[i]) - mean) * scale);
        }
        if (threadIdx.x == 0) {
            average[row] = mean;
            variance[row] = spread;
        }
        __syncthreads();  // before the next row overwrites `lines`
    }
}

// (g - mean(g) - y * mean(g y)) / sqrt(variance + eps), with the normalized row y.
extern "C" __global__ void __launch_bounds__(256)
normalize_rows_gradient(const SCALAR* grad, const SCALAR* y, const ACCUMULATE* variance,
                        long long rows, long long length, ACCUMULATE eps, SCALAR* out) {
    __shared__ ACCUMULATE lines[2][256];
    for (long long row = blockIdx.x; row < rows; row += gridDim.x) {
        const SCALAR *g = grad + row * length, *own = y + row * length;
        ACCUMULATE total = 0, slope = 0;
        for (long long i = threadIdx.x; i < length; i += blockDim.x) {
            total += widen(g[i]);
            slope += widen(g[i]) * widen(own[i]);
        }
        lines[0][threadIdx.x] = total;
        lines[1][threadIdx.x] = slope;
        __syncthreads();
        for (int half = blockDim.x / 2; half; half /= 2) {
            if (threadIdx.x < half) {
                lines[0][threadIdx.x] += lines[0][threadIdx.x + half];
                lines[1][threadIdx.x] += lines[1][threadIdx.x + half];
            }
            __syncthreads();
        }
        const ACCUMULATE mean = lines[0][0] / length, tilt = lines[1][0] / length;
        const ACCUMULATE scale = 1 / sqrt(variance[row] + eps);
        for (long long i = threadIdx.x; i < length; i += blockDim.x) {
            store(out + row * length + i, (widen(g[i]) - mean - widen(own[i]) * tilt) * scale);
        }
        __syncthreads();
    }
}
