// Batch normalization over the rows of [rows][channels], and normalization of each row.

// Count, mean, and sum of squared deviations. Updating and merging these loses no digits, unlike sums
// of squares (Welford, 1962; Chan, Golub and LeVeque, 1979).
struct Moments {
    ACCUMULATE count, mean, squares;
};

__device__ inline void include(Moments& m, ACCUMULATE value) {  // Welford's update
    m.count += 1;
    const ACCUMULATE deviation = value - m.mean;
    m.mean += deviation / m.count;
    m.squares += deviation * (value - m.mean);
}

__device__ inline Moments combined(const Moments& a, const Moments& b) {  // Chan's merge
    if (b.count == 0) return a;
    const ACCUMULATE count = a.count + b.count, distance = b.mean - a.mean;
    const Moments both = {count, a.mean + distance * (b.count / count),
                          a.squares + b.squares + distance * (a.count * b.count / count) * distance};
    return both;
}

__device__ inline Moments read(const volatile Moments* m) {
    const Moments copy = {m->count, m->mean, m->squares};
    return copy;
}

// The two sums of a backward pass: of g and of g * y, with the normalized value y.
struct Sums {
    ACCUMULATE grad, product;
};

__device__ inline void include(Sums& sums, ACCUMULATE grad, ACCUMULATE y) {
    sums.grad += grad;
    sums.product += grad * y;
}

__device__ inline Sums combined(const Sums& a, const Sums& b) {
    const Sums both = {a.grad + b.grad, a.product + b.product};
    return both;
}

__device__ inline Sums read(const volatile Sums* sums) {
    const Sums copy = {sums->grad, sums->product};
    return copy;
}

// -- over the batch -----------------------------------------------------------------------------------
//
// A block is `lanes` threads wide along the channels (a power of two up to 32), its rows of threads take
// different rows. blockIdx.x = part of the rows, .y = tile of channels. The last block of a tile
// combines the parts in order.

extern "C" __global__ void __launch_bounds__(THREADS, 2)
batch_statistics(const SCALAR* x, long long rows, int channels, int lanes, long long each,
                 ACCUMULATE momentum, Moments* partial, unsigned int* tickets, ACCUMULATE* average,
                 ACCUMULATE* variance, SCALAR* running_mean, SCALAR* running_variance) {
    const int c = blockIdx.y * lanes + threadIdx.x % lanes;
    const long long begin = blockIdx.x * each, end = min(rows, begin + each);
    Moments all = {0, 0, 0};
    if (c < channels) {
        for (long long row = begin + threadIdx.x / lanes; row < end; row += blockDim.x / lanes) {
            include(all, widen(x[row * channels + c]));
        }
    }
    if (!reduce_blocks(all, lanes, c < channels, blockIdx.x, gridDim.x, partial + c, channels,
                       tickets + blockIdx.y)) {
        return;
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

// sum(g) and sum(g * y) over the rows: the gradients of bias and weight, and, in `sums`, what the
// gradient of x needs.
extern "C" __global__ void __launch_bounds__(THREADS)
batch_sums(const SCALAR* grad, const SCALAR* x, long long rows, int channels, int lanes,
           long long each, const ACCUMULATE* average, const ACCUMULATE* variance, ACCUMULATE eps,
           Sums* partial, unsigned int* tickets, Sums* sums, SCALAR* weight_grad,
           SCALAR* bias_grad) {
    const int c = blockIdx.y * lanes + threadIdx.x % lanes;
    const long long begin = blockIdx.x * each, end = min(rows, begin + each);
    Sums all = {0, 0};
    if (c < channels) {
        const ACCUMULATE mean = average[c], scale = 1 / sqrt(variance[c] + eps);
        for (long long row = begin + threadIdx.x / lanes; row < end; row += blockDim.x / lanes) {
            const long long e = row * channels + c;
            include(all, widen(grad[e]), (widen(x[e]) - mean) * scale);
        }
    }
    if (reduce_blocks(all, lanes, c < channels, blockIdx.x, gridDim.x, partial + c, channels,
                      tickets + blockIdx.y)) {
        sums[c] = all;
        store(bias_grad + c, all.grad);
        store(weight_grad + c, all.product);
    }
}

// (g - sum(g) / rows - y * sum(g * y) / rows) * weight / sqrt(variance + eps).
extern "C" __global__ void batch_gradient(const SCALAR* grad, const SCALAR* x, long long rows,
                                          int channels, const ACCUMULATE* average,
                                          const ACCUMULATE* variance, ACCUMULATE eps,
                                          const SCALAR* weight, const Sums* sums,
                                          SCALAR* out) {
    for (long long e = FIRST; e < rows * channels; e += ALL) {
        const int c = static_cast<int>(e % channels);
        const ACCUMULATE scale = 1 / sqrt(variance[c] + eps);
        const ACCUMULATE y = (widen(x[e]) - average[c]) * scale;
        const ACCUMULATE g = widen(grad[e]) - (sums[c].grad + y * sums[c].product) / rows;
        store(out + e, g * (weight ? scale * widen(weight[c]) : scale));
    }
}

// -- each row -----------------------------------------------------------------------------------------
//
// One block per row, in a grid-stride loop over the rows; its threads share the elements.

extern "C" __global__ void __launch_bounds__(THREADS)
normalize_rows(const SCALAR* x, long long rows, long long length, ACCUMULATE eps, SCALAR* out,
               ACCUMULATE* average, ACCUMULATE* variance) {
    for (long long row = blockIdx.x; row < rows; row += gridDim.x) {
        const SCALAR* values = x + row * length;
        Moments all = {0, 0, 0};
        for (long long i = threadIdx.x; i < length; i += blockDim.x) include(all, widen(values[i]));
        all = reduce_block(all, 1);
        const ACCUMULATE scale = 1 / sqrt(all.squares / length + eps);
        for (long long i = threadIdx.x; i < length; i += blockDim.x) {
            store(out + row * length + i, (widen(values[i]) - all.mean) * scale);
        }
        if (threadIdx.x == 0) {
            average[row] = all.mean;
            variance[row] = all.squares / length;
        }
    }
}

// (g - mean(g) - y * mean(g * y)) / sqrt(variance + eps), with the normalized row y.
extern "C" __global__ void __launch_bounds__(THREADS)
normalize_rows_gradient(const SCALAR* grad, const SCALAR* y, const ACCUMULATE* variance,
                        long long rows, long long length, ACCUMULATE eps, SCALAR* out) {
    for (long long row = blockIdx.x; row < rows; row += gridDim.x) {
        const SCALAR *g = grad + row * length, *values = y + row * length;
        Sums all = {0, 0};
        for (long long i = threadIdx.x; i < length; i += blockDim.x) {
            include(all, widen(g[i]), widen(values[i]));
        }
        all = reduce_block(all, 1);
        const ACCUMULATE mean = all.grad / length, slope = all.product / length;
        const ACCUMULATE scale = 1 / sqrt(variance[row] + eps);
        for (long long i = threadIdx.x; i < length; i += blockDim.x) {
            store(out + row * length + i, (widen(g[i]) - mean - widen(values[i]) * slope) * scale);
        }
    }
}
