// Batch normalization over the rows of [rows][channels], and normalization of each row.

// Two sums over many rows. In a forward pass, the sums of x - pivot and of its square, about any value
// near x: for example the first one. In a backward pass, those of g and of g * y, with the normalized
// value y.
struct Sums {
    double first, second;
};

__device__ inline Sums combined(const Sums& a, const Sums& b) {
    const Sums both = {a.first + b.first, a.second + b.second};
    return both;
}

__device__ inline Sums read(const volatile Sums* sums) {
    const Sums copy = {sums->first, sums->second};
    return copy;
}

// The sums of one thread in a forward pass. Runs of SUM_BLOCK values of x - pivot have a mean and a sum
// of squared deviations of their own, which lose no digits where the pivot is far away (Welford, 1962).
struct Moments {
    Sums all;
    ACCUMULATE mean, squares;
    int count;  // of the run
};

__device__ inline Sums value_of(const Moments& m) {
    const double mean = m.mean;
    const Sums sums = {m.all.first + m.count * mean,
                       m.all.second + m.squares + m.count * mean * mean};
    return sums;
}

__device__ inline void include(Moments& m, ACCUMULATE value) {
    m.count += 1;
    const ACCUMULATE deviation = value - m.mean;
    m.mean += deviation / m.count;
    m.squares += deviation * (value - m.mean);
    if (m.count == SUM_BLOCK) {
        const Moments next = {value_of(m), 0, 0, 0};
        m = next;
    }
}

// mean = pivot + first / n and n * variance = second - first^2 / n.
__device__ inline double mean_of(const Sums& sums, double pivot, long long n) {
    return pivot + sums.first / n;
}

__device__ inline double squares_of(const Sums& sums, long long n) {
    const double squares = sums.second - sums.first * sums.first / n;
    return squares < 0 ? 0 : squares;
}

// -- over the batch -----------------------------------------------------------------------------------
//
// A block is `lanes` threads wide along the channels (a power of two up to 32), its rows of threads take
// different rows. blockIdx.x = part of the rows, .y = tile of channels. The last block of a tile
// combines the parts in order.

extern "C" __global__ void __launch_bounds__(THREADS, 2)
batch_statistics(const SCALAR* x, long long rows, int channels, int lanes, long long each,
                 ACCUMULATE momentum, Sums* partial, unsigned int* tickets, ACCUMULATE* average,
                 ACCUMULATE* variance, SCALAR* running_mean, SCALAR* running_variance) {
    const int c = blockIdx.y * lanes + threadIdx.x % lanes;
    const long long begin = blockIdx.x * each, end = min(rows, begin + each);
    const ACCUMULATE pivot = c < channels ? widen(x[c]) : 0;
    Moments own = {{0, 0}, 0, 0, 0};
    if (c < channels) {
        for (long long row = begin + threadIdx.x / lanes; row < end; row += blockDim.x / lanes) {
            include(own, widen(x[row * channels + c]) - pivot);
        }
    }
    Sums all = value_of(own);
    if (!reduce_blocks(all, lanes, c < channels, blockIdx.x, gridDim.x, partial + c, channels,
                       tickets + blockIdx.y)) {
        return;
    }
    const double mean = mean_of(all, pivot, rows), squares = squares_of(all, rows);
    average[c] = mean;
    variance[c] = squares / rows;
    if (running_mean) {
        const ACCUMULATE unbiased = squares / (rows - 1), keep = 1 - momentum;
        store(running_mean + c, keep * widen(running_mean[c]) + momentum * average[c]);
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
           Sums* partial, unsigned int* tickets, ACCUMULATE* sums, SCALAR* weight_grad,
           SCALAR* bias_grad) {
    const int c = blockIdx.y * lanes + threadIdx.x % lanes;
    const long long begin = blockIdx.x * each, end = min(rows, begin + each);
    Sum total = {0, 0, 0}, product = {0, 0, 0};
    if (c < channels) {
        const ACCUMULATE mean = average[c], scale = 1 / sqrt(variance[c] + eps);
        for (long long row = begin + threadIdx.x / lanes; row < end; row += blockDim.x / lanes) {
            const long long e = row * channels + c;
            include(total, widen(grad[e]));
            include(product, widen(grad[e]) * ((widen(x[e]) - mean) * scale));
        }
    }
    Sums all = {value_of(total), value_of(product)};
    if (reduce_blocks(all, lanes, c < channels, blockIdx.x, gridDim.x, partial + c, channels,
                      tickets + blockIdx.y)) {
        sums[2 * c] = all.first;
        sums[2 * c + 1] = all.second;
        store(bias_grad + c, all.first);
        store(weight_grad + c, all.second);
    }
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
        const ACCUMULATE g = widen(grad[e]) - (sums[2 * c] + y * sums[2 * c + 1]) / rows;
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
        const ACCUMULATE pivot = widen(values[0]);
        Moments own = {{0, 0}, 0, 0, 0};
        for (long long i = threadIdx.x; i < length; i += blockDim.x) {
            include(own, widen(values[i]) - pivot);
        }
        const Sums all = reduce_block(value_of(own), 1);
        // first: in the other order ptxas of CUDA 11 spills registers
        const ACCUMULATE spread = squares_of(all, length) / length, scale = 1 / sqrt(spread + eps);
        const double mean = mean_of(all, pivot, length);
        const ACCUMULATE rounded = mean, rest = mean - rounded;
        for (long long i = threadIdx.x; i < length; i += blockDim.x) {
            store(out + row * length + i, (widen(values[i]) - rounded - rest) * scale);
        }
        if (threadIdx.x == 0) {
            average[row] = rounded;
            variance[row] = spread;
        }
    }
}

// (g - mean(g) - y * mean(g * y)) / sqrt(variance + eps), with the normalized row y.
extern "C" __global__ void __launch_bounds__(THREADS)
normalize_rows_gradient(const SCALAR* grad, const SCALAR* y, const ACCUMULATE* variance,
                        long long rows, long long length, ACCUMULATE eps, SCALAR* out) {
    for (long long row = blockIdx.x; row < rows; row += gridDim.x) {
        const SCALAR *g = grad + row * length, *values = y + row * length;
        Sum total = {0, 0, 0}, product = {0, 0, 0};
        for (long long i = threadIdx.x; i < length; i += blockDim.x) {
            include(total, widen(g[i]));
            include(product, widen(g[i]) * widen(values[i]));
        }
        const Sums own = {value_of(total), value_of(product)}, all = reduce_block(own, 1);
        const ACCUMULATE mean = all.first / length, slope = all.second / length;
        const ACCUMULATE scale = 1 / sqrt(variance[row] + eps);
        for (long long i = threadIdx.x; i < length; i += blockDim.x) {
            store(out + row * length + i, (widen(g[i]) - mean - widen(values[i]) * slope) * scale);
        }
    }
}
