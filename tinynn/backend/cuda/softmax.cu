// Softmax cross-entropy of integer labels. Logits are (rows, classes); a row has `across` threads side
// by side (a power of two up to 32), which are neighbors in a warp and exchange sums by shuffling.

// The largest value over the threads of a row, and the sum: each of them gets it.
__device__ inline ACCUMULATE row_max(ACCUMULATE value, int across) {
    for (int step = across / 2; step; step /= 2) {
        const ACCUMULATE other = __shfl_xor_sync(0xffffffffu, value, step);
        value = other > value || other != other ? other : value;  // NaN wins
    }
    return value;
}

__device__ inline ACCUMULATE row_sum(ACCUMULATE value, int across) {
    for (int step = across / 2; step; step /= 2) {
        value += __shfl_xor_sync(0xffffffffu, value, step);
    }
    return value;
}

// A label that is out of range leaves (row, label) in `fault`, the first row of all; see softmax.py.
__device__ inline bool is_label(long long label, long long row, int classes,
                                unsigned long long* fault) {
    if (label >= 0 && label < classes) return true;
    const long long low = -2147483647 - 1, high = 2147483647;
    const unsigned int shown = static_cast<unsigned int>(
        static_cast<int>(label < low ? low : label > high ? high : label));
    atomicMin(fault, static_cast<unsigned long long>(row) << 32 | shown);
    return false;
}

extern "C" __global__ void check_labels(const long long* labels, long long rows, int classes,
                                        unsigned long long* fault) {
    for (long long row = FIRST; row < rows; row += ALL) is_label(labels[row], row, classes, fault);
}

// The mean of -log softmax(logits[row])[label] = highest + log(sum(exp(logits[row] - highest))) -
// logits[row][label]. `kept` has highest and the logarithm of each row for the gradient: added up they
// would lose digits. A block leaves its sum in `partial`; the last one adds them in order.
extern "C" __global__ void __launch_bounds__(256)
cross_entropy(const SCALAR* logits, const long long* labels, long long rows, int classes, int across,
              ACCUMULATE* kept, ACCUMULATE* partial, unsigned int* ticket,
              unsigned long long* fault, SCALAR* loss) {
    __shared__ ACCUMULATE lines[256];
    const int lane = threadIdx.x % across;
    const long long step = ALL / across;
    ACCUMULATE sum = 0;
    // all threads of a block go round equally often, because a shuffle needs all of its warp
    for (long long first = static_cast<long long>(blockIdx.x) * (blockDim.x / across); first < rows;
         first += step) {
        const long long row = first + threadIdx.x / across;
        const bool inside = row < rows;
        const SCALAR* own = logits + row * classes;
        ACCUMULATE highest = -1 / ACCUMULATE(0);
        for (int k = lane; inside && k < classes; k += across) {
            const ACCUMULATE value = widen(own[k]);
            if (value > highest || value != value) highest = value;
        }
        highest = row_max(highest, across);
        ACCUMULATE terms = 0;
        for (int k = lane; inside && k < classes; k += across) {
            terms += exp(widen(own[k]) - highest);
        }
        terms = row_sum(terms, across);
        if (inside && lane == 0) {
            const ACCUMULATE logarithm = log(terms);
            const long long label = labels[row];
            kept[2 * row] = highest;
            kept[2 * row + 1] = logarithm;
            if (is_label(label, row, classes, fault)) {
                sum += highest - widen(own[label]) + logarithm;
            }
        }
    }
    lines[threadIdx.x] = sum;
    __syncthreads();
    for (int half = blockDim.x / 2; half; half /= 2) {
        if (threadIdx.x < half) lines[threadIdx.x] += lines[threadIdx.x + half];
        __syncthreads();
    }
    if (threadIdx.x == 0) partial[blockIdx.x] = lines[0];
    if (!is_last_block(ticket, gridDim.x)) return;
    if (threadIdx.x == 0) {
        const volatile ACCUMULATE* parts = partial;
        ACCUMULATE total = 0;
        for (unsigned int part = 0; part < gridDim.x; part++) total += parts[part];
        store(loss, total / rows);
    }
}

// (softmax(logits) - [k == label]) * grad / rows, an element a thread; `grad` is one number.
extern "C" __global__ void cross_entropy_gradient(const SCALAR* grad, const SCALAR* logits,
                                                  const ACCUMULATE* kept, const long long* labels,
                                                  long long rows, int classes, SCALAR* out) {
    const ACCUMULATE scale = widen(*grad) / rows;
    for (long long e = FIRST; e < rows * classes; e += ALL) {
        const long long row = e / classes;
        const ACCUMULATE share = exp(widen(logits[e]) - kept[2 * row] - kept[2 * row + 1]);
        store(out + e, (share - (labels[row] == e % classes)) * scale);
    }
}
