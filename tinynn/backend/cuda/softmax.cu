// Softmax cross-entropy of integer labels. Logits are (rows, classes). `lanes` neighboring threads of a
// warp (a power of two up to 32) share a row and exchange values with shuffles.

// The maximum and the sum over the lanes of a row; every lane gets it.
__device__ inline ACCUMULATE row_max(ACCUMULATE value, int lanes) {
    for (int step = lanes / 2; step; step /= 2) {
        const ACCUMULATE other = __shfl_xor_sync(0xffffffffu, value, step);
        value = other > value || other != other ? other : value;  // NaN propagates
    }
    return value;
}

__device__ inline ACCUMULATE row_sum(ACCUMULATE value, int lanes) {
    for (int step = lanes / 2; step; step /= 2) {
        value += __shfl_xor_sync(0xffffffffu, value, step);
    }
    return value;
}

// Check a label. One out of range writes (row, label) to `fault`, the first row of all (labels.py). The
// label is clamped to 32 bits. The atomic is on an integer minimum: the order does not matter.
__device__ inline bool is_label(long long label, long long row, int classes,
                                unsigned long long* fault) {
    if (label >= 0 && label < classes) return true;
    const long long low = -2147483647 - 1, high = 2147483647;
    const unsigned int shown = static_cast<unsigned int>(
        static_cast<int>(label < low ? low : label > high ? high : label));
    atomicMin(fault, static_cast<unsigned long long>(row) << 32 | shown);
    return false;
}

// Checks labels + offset.
extern "C" __global__ void check_labels(const long long* labels, long long rows, long long offset,
                                        int classes, unsigned long long* fault) {
    for (long long row = FIRST; row < rows; row += ALL) {
        is_label(labels[row] + offset, row, classes, fault);
    }
}

// The mean of -log softmax(logits[row])[label] = highest + log(sum(exp(logits[row] - highest))) -
// logits[row][label]. `kept` has highest and the logarithm of each row for the backward pass, apart:
// their sum would lose digits. Each block writes its sum to `partial`; the last one adds these in order.
extern "C" __global__ void __launch_bounds__(THREADS)
cross_entropy(const SCALAR* logits, const long long* labels, long long rows, int classes, int lanes,
              ACCUMULATE* kept, double* partial, unsigned int* ticket,
              unsigned long long* fault, SCALAR* loss) {
    const int lane = threadIdx.x % lanes, block_rows = THREADS / lanes;
    double total = 0;
    // The bound is on the first row of the block, so that all threads iterate equally often: a shuffle
    // needs its whole warp.
    for (long long first = static_cast<long long>(blockIdx.x) * block_rows; first < rows;
         first += static_cast<long long>(gridDim.x) * block_rows) {
        const long long row = first + threadIdx.x / lanes;
        const bool inside = row < rows;
        const SCALAR* own = logits + row * classes;
        ACCUMULATE highest = -INFINITE;
        for (int k = lane; inside && k < classes; k += lanes) {
            const ACCUMULATE value = widen(own[k]);
            if (value > highest || value != value) highest = value;
        }
        highest = row_max(highest, lanes);
        // log(count) + log1p(others / count) keeps the digits of a small sum over the other elements
        Sum part = {0, 0, 0};
        ACCUMULATE count = 0;
        for (int k = lane; inside && k < classes; k += lanes) {
            const ACCUMULATE value = widen(own[k]);
            if (value == highest) {
                count += 1;
            } else {
                include(part, exp(value - highest));
            }
        }
        const ACCUMULATE others = row_sum(value_of(part), lanes);
        count = row_sum(count, lanes);
        if (inside && lane == 0) {
            const ACCUMULATE logarithm = log(count) + log1p(others / count);
            const long long label = labels[row];
            kept[2 * row] = highest;
            kept[2 * row + 1] = logarithm;
            if (is_label(label, row, classes, fault)) {
                total += highest - widen(own[label]) + logarithm;
            }
        }
    }
    if (reduce_blocks(total, 1, true, blockIdx.x, gridDim.x, partial, 1, ticket)) {
        store(loss, total / rows);
    }
}

// (softmax(logits) - [k == label]) * grad / rows, one thread per element; `grad` is a scalar.
extern "C" __global__ void cross_entropy_gradient(const SCALAR* grad, const SCALAR* logits,
                                                  const ACCUMULATE* kept, const long long* labels,
                                                  long long rows, int classes, SCALAR* out) {
    const ACCUMULATE scale = widen(*grad) / rows;
    for (long long e = FIRST; e < rows * classes; e += ALL) {
        const long long row = e / classes;
        const ACCUMULATE score = widen(logits[e]) - kept[2 * row] - kept[2 * row + 1];
        store(out + e, (labels[row] == e % classes ? expm1(score) : exp(score)) * scale);
    }
}
