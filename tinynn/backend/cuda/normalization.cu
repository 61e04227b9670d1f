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

// -- over the batch -----------------------------------------------------------------------------------
//
// A block is `lanes` threads wide along the channels (a power of two up to 32), its rows of threads take
// different rows. blockIdx.x = part of the rows, .y = tile of channels. The last block of a tile
// combines the parts in order.

extern "C" __global__ void __launch_bounds__(THREADS)
batch_statistics(const SCALAR* x, long long rows, int channels, int lanes, long long each,
                 ACCUMULATE momentum, Moments* partial, unsigned int* tickets, ACCUMULATE* average,
                 ACCUMULATE* variance, SCALAR* running_mean, SCALAR* running_variance) {
    __shared__ Moments moments[THREADS];
    const int lane = threadIdx.x % lanes, c = blockIdx.y * lanes + lane;
    const long long begin = blockIdx.x * each, end = min(rows, begin + each);
    Moments own = {0, 0, 0};
    if (c < channels) {
        for (long long row = begin + threadIdx.x / lanes; row < end; row += blockDim.x / lanes) {
            include(own, widen(x[row * channels + c]));
        }
    }
    moments[threadIdx.x] = own;
    reduce_columns(moments, lanes);
    const bool writes = threadIdx.x < lanes && c < channels;
    if (writes) partial[static_cast<long long>(blockIdx.x) * channels + c] = moments[lane];
    if (!is_last_block(tickets + blockIdx.y, gridDim.x) || !writes) return;
    Moments all = {0, 0, 0};
    for (unsigned int part = 0; part < gridDim.x; part++) {
        const volatile Moments* at = partial + static_cast<long long>(part) * channels + c;
        const Moments next = {at->count, at->mean, at->squares};
        all = combined(all, next);
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

// sum(g) and sum(g * y) over the rows: the gradients of bias and weight, and, in `sums` [2][channels],
// what the gradient of x needs.
extern "C" __global__ void __launch_bounds__(THREADS)
batch_sums(const SCALAR* grad, const SCALAR* x, long long rows, int channels, int lanes,
           long long each, const ACCUMULATE* average, const ACCUMULATE* variance, ACCUMULATE eps,
           ACCUMULATE* partial, unsigned int* tickets, ACCUMULATE* sums, SCALAR* weight_grad,
           SCALAR* bias_grad) {
    __shared__ Sums columns[THREADS];
    const int lane = threadIdx.x % lanes, c = blockIdx.y * lanes + lane;
    const long long begin = blockIdx.x * each, end = min(rows, begin + each);
    Sums own = {0, 0};
    if (c < channels) {
        const ACCUMULATE mean = average[c], scale = 1 / sqrt(variance[c] + eps);
        for (long long row = begin + threadIdx.x / lanes; row < end; row += blockDim.x / lanes) {
            const long long e = row * channels + c;
            include(own, widen(grad[e]), (widen(x[e]) - mean) * scale);
        }
    }
    columns[threadIdx.x] = own;
    reduce_columns(columns, lanes);
    const bool writes = threadIdx.x < lanes && c < channels;
    if (writes) {
        ACCUMULATE* part = partial + static_cast<long long>(blockIdx.x) * 2 * channels + c;
        part[0] = columns[lane].grad;
        part[channels] = columns[lane].product;
    }
    if (!is_last_block(tickets + blockIdx.y, gridDim.x) || !writes) return;
    sums[c] = sum_partials(partial + c, gridDim.x, 2 * channels);
    sums[channels + c] = sum_partials(partial + channels + c, gridDim.x, 2 * channels);
    store(bias_grad + c, sums[c]);
    store(weight_grad + c, sums[channels + c]);
}

// (g - sum(g) / rows - y * sum(g * y) / rows) * weight / sqrt(variance + eps).
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

// -- each row -----------------------------------------------------------------------------------------
//
// One block per row, in a grid-stride loop over the rows; its threads share the elements.

extern "C" __global__ void __launch_bounds__(THREADS)
normalize_rows(const SCALAR* x, long long rows, long long length, ACCUMULATE eps, SCALAR* out,
               ACCUMULATE* average, ACCUMULATE* variance) {
    __shared__ Moments moments[THREADS];
    for (long long row = blockIdx.x; row < rows; row += gridDim.x) {
        const SCALAR* values = x + row * length;
        Moments own = {0, 0, 0};
        for (long long i = threadIdx.x; i < length; i += THREADS) include(own, widen(values[i]));
        moments[threadIdx.x] = own;
        reduce_columns(moments, 1);
        const ACCUMULATE mean = moments[0].mean, spread = moments[0].squares / length;
        const ACCUMULATE scale = 1 / sqrt(spread + eps);
        for (long long i = threadIdx.x; i < length; i += THREADS) {
            store(out + row * length + i, (widen(values[i]) - mean) * scale);
        }
        if (threadIdx.x == 0) {
            average[row] = mean;
            variance[row] = spread;
        }
        __syncthreads();  // all have read moments[0] before the next row overwrites it
    }
}

// (g - mean(g) - y * mean(g * y)) / sqrt(variance + eps), with the normalized row y.
extern "C" __global__ void __launch_bounds__(THREADS)
normalize_rows_gradient(const SCALAR* grad, const SCALAR* y, const ACCUMULATE* variance,
                        long long rows, long long length, ACCUMULATE eps, SCALAR* out) {
    __shared__ Sums sums[THREADS];
    for (long long row = blockIdx.x; row < rows; row += gridDim.x) {
        const SCALAR *g = grad + row * length, *values = y + row * length;
        Sums own = {0, 0};
        for (long long i = threadIdx.x; i < length; i += THREADS) {
            include(own, widen(g[i]), widen(values[i]));
        }
        sums[threadIdx.x] = own;
        reduce_columns(sums, 1);
        const ACCUMULATE mean = sums[0].grad / length, slope = sums[0].product / length;
        const ACCUMULATE scale = 1 / sqrt(variance[row] + eps);
        for (long long i = threadIdx.x; i < length; i += THREADS) {
            store(out + row * length + i, (widen(g[i]) - mean - widen(values[i]) * slope) * scale);
        }
        __syncthreads();  // all have read sums[0] before the next row overwrites it
    }
}
