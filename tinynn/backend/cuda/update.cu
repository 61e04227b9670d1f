// Optimizer updates for many parameters in one launch. The table of their addresses is passed by value
// (kernel arguments may have 4 KB: up to six columns), so nothing is copied to the GPU beforehand. The
// kernel `update` itself is generated from the optimizer's formula and appended to this file: see
// update.py.

template <int COLUMNS>
struct Table {
    unsigned long long address[COLUMNS][PARAMETERS];  // rows: parameters, gradients, optimizer state
    long long size[PARAMETERS];
    int end[PARAMETERS];  // the number of blocks up to and including those of this parameter
};

struct Span {  // the elements of one thread: begin, begin + blockDim.x, ... < end of one parameter
    int parameter;
    long long begin, end;
};

// Blocks are numbered through all parameters. Each finds its parameter by the last blocks; this takes
// at most 64 uniform reads of constant memory.
template <int COLUMNS>
__device__ inline Span span_of(const Table<COLUMNS>& table) {
    int which = 0;
    const int block = blockIdx.x;
    while (block >= table.end[which]) which++;
    const int before = which ? table.end[which - 1] : 0;
    const long long begin = static_cast<long long>(block - before) * BLOCK_ELEMENTS;
    const long long end = min(table.size[which], begin + BLOCK_ELEMENTS);
    const Span span = {which, begin + threadIdx.x, end};
    return span;
}

template <int COLUMNS>
__device__ inline SCALAR* address(const Table<COLUMNS>& table, int column, const Span& span) {
    return reinterpret_cast<SCALAR*>(table.address[column][span.parameter]);
}

// grad *= *factor; *found becomes true if a product is not finite.
extern "C" __global__ void unscale(const Table<1> table, const ACCUMULATE* factor, bool* found) {
    const Span span = span_of(table);
    SCALAR* const grad = address(table, 0, span);
    for (long long i = span.begin; i < span.end; i += blockDim.x) {
        const ACCUMULATE value = widen(grad[i]) * *factor;
        store(grad + i, value);
        if (!(value - value == 0)) *found = true;  // a benign race: all threads write the same
    }
}
