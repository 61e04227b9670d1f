// One optimizer step for many parameters at once. The table of their addresses is an argument of the
// launch (arguments may have 4 KB), so nothing is copied to the GPU beforehand.

#define MOST 64    // parameters of a launch; update.py says the same
#define EACH 4096  // elements of a block

struct Table {
    unsigned long long parameter[MOST], grad[MOST], first[MOST], second[MOST];  // addresses
    long long size[MOST];
    int end[MOST];  // the number of blocks up to and with this parameter's
    int count;
};

struct Span {  // the part of one parameter that a thread works on: begin, begin + blockDim.x, ..., < end
    SCALAR *parameter, *first, *second;
    const SCALAR* grad;
    long long begin, end;
};

__device__ inline Span span_of(const Table& table) {
    int which = 0;
    const int block = blockIdx.x;
    while (block >= table.end[which]) which++;  // the same for all threads of the block
    const int before = which ? table.end[which - 1] : 0;
    const long long begin = static_cast<long long>(block - before) * EACH;
    const Span span = {reinterpret_cast<SCALAR*>(table.parameter[which]),
                       reinterpret_cast<SCALAR*>(table.first[which]),
                       reinterpret_cast<SCALAR*>(table.second[which]),
                       reinterpret_cast<const SCALAR*>(table.grad[which]),
                       begin + threadIdx.x,
                       min(table.size[which], begin + EACH)};
    return span;
}

// A step is left out where `skip` is given and true: some gradient was not finite.
__device__ inline bool skipped(const bool* skip) { return skip && *skip; }

extern "C" __global__ void sgd(const Table table, ACCUMULATE rate, ACCUMULATE momentum, int nesterov,
                               ACCUMULATE decay, const bool* skip) {
    if (skipped(skip)) return;
    const Span span = span_of(table);
    for (long long i = span.begin; i < span.end; i += blockDim.x) {
        const ACCUMULATE p = widen(span.parameter[i]);
        ACCUMULATE step = widen(span.grad[i]) + decay * p;
        if (momentum != 0) {
            const ACCUMULATE velocity = momentum * widen(span.first[i]) + step;
            store(span.first + i, velocity);
            step = nesterov ? step + momentum * velocity : velocity;
        }
        store(span.parameter + i, p - rate * step);
    }
}

// `rest1` is 1 - beta1 without the rounding of beta1, `rate` is lr / (1 - beta1^t), `root` 1 / sqrt(1 - beta2^t), `shrink` 1 - lr * decay of AdamW.
extern "C" __global__ void adam(const Table table, ACCUMULATE rate, ACCUMULATE beta1,
                                ACCUMULATE rest1, ACCUMULATE beta2, ACCUMULATE rest2,
                                ACCUMULATE root, ACCUMULATE eps, ACCUMULATE decay,
                                ACCUMULATE shrink, const bool* skip) {
    if (skipped(skip)) return;
    const Span span = span_of(table);
    for (long long i = span.begin; i < span.end; i += blockDim.x) {
        const ACCUMULATE p = widen(span.parameter[i]) * shrink;
        const ACCUMULATE g = widen(span.grad[i]) + decay * p;
        const ACCUMULATE first = beta1 * widen(span.first[i]) + rest1 * g;
        const ACCUMULATE second = beta2 * widen(span.second[i]) + rest2 * g * g;
        store(span.first + i, first);
        store(span.second + i, second);
        store(span.parameter + i, p - rate * first / (sqrt(second) * root + eps));
    }
}

extern "C" __global__ void rmsprop(const Table table, ACCUMULATE rate, ACCUMULATE keep, ACCUMULATE rest,
                                   ACCUMULATE eps, ACCUMULATE momentum, ACCUMULATE decay,
                                   const bool* skip) {
    if (skipped(skip)) return;
    const Span span = span_of(table);
    for (long long i = span.begin; i < span.end; i += blockDim.x) {
        const ACCUMULATE p = widen(span.parameter[i]);
        const ACCUMULATE g = widen(span.grad[i]) + decay * p;
        const ACCUMULATE square = keep * widen(span.first[i]) + rest * g * g;
        store(span.first + i, square);
        ACCUMULATE step = g / (sqrt(square) + eps);
        if (momentum != 0) {
            step += momentum * widen(span.second[i]);
            store(span.second + i, step);
        }
        store(span.parameter + i, p - rate * step);
    }
}

// grad *= *factor for all of them, and *found where a product is not finite.
extern "C" __global__ void unscale(const Table table, const ACCUMULATE* factor, bool* found) {
    const Span span = span_of(table);
    for (long long i = span.begin; i < span.end; i += blockDim.x) {
        const ACCUMULATE value = widen(span.grad[i]) * *factor;
        store(const_cast<SCALAR*>(span.grad) + i, value);
        if (!(value - value == 0)) *found = true;  // whoever writes, writes the same
    }
}
