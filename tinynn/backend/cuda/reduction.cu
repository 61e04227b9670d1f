// Sums over axes. The array is viewed as [outer][reduced][inner]; the result is [outer][inner].

// A block is `lanes` threads wide along the inner axis (a power of two up to 32), its rows of threads
// take different reduced elements: reads coalesce also where the inner axis is short.
// blockIdx.x = (outer * parts + part) * tiles + tile of the inner axis. With more than one part, the
// last block of a result adds the partial sums.
extern "C" __global__ void __launch_bounds__(THREADS)
sum_parts(const SCALAR* x, long long reduced, long long inner, int lanes, int parts,
          long long each, double scale, double* partial, unsigned int* tickets, SCALAR* out) {
    const int lane = threadIdx.x % lanes;
    const unsigned int tiles = (inner + lanes - 1) / lanes, tile = blockIdx.x % tiles;
    const long long outer = blockIdx.x / tiles / parts;
    const int part = blockIdx.x / tiles % parts;
    const long long i = static_cast<long long>(tile) * lanes + lane;
    const long long begin = part * each, end = min(reduced, begin + each);

    Sum sum = {0, 0, 0};
    if (i < inner) {
        const SCALAR* column = x + outer * reduced * inner + i;
        #pragma unroll 2  // more would spill registers
        for (long long r = begin + threadIdx.x / lanes; r < end; r += blockDim.x / lanes) {
            include(sum, widen(column[r * inner]));
        }
    }
    double total = value_of(sum);
    if (reduce_blocks(total, lanes, i < inner, part, parts, partial + outer * parts * inner + i, inner,
                      tickets + outer * tiles + tile)) {
        store(out + outer * inner + i, total * scale);
    }
}

// Few terms and many results: one thread per result.
extern "C" __global__ void sum_short(const SCALAR* x, long long reduced, long long inner,
                                     long long count, double scale, SCALAR* out) {
    for (long long e = FIRST; e < count; e += ALL) {
        const SCALAR* column = x + e / inner * reduced * inner + e % inner;
        ACCUMULATE sum = 0;
        for (long long r = 0; r < reduced; r++) sum += widen(column[r * inner]);
        store(out + e, sum * scale);
    }
}
