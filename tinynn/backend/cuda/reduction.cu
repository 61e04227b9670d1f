// Sums over axes. An array is seen as [outer][reduced][inner]; the result is [outer][inner].

// A block has `across` threads side by side for neighboring inner elements (a power of two up to 32),
// and the others below them for different reduced ones: threads of a warp read neighboring addresses,
// also where the inner axis is short. blockIdx.x = (outer * parts + part) * tiles + tile of the inner axis.
// With more than one part the last block of a result adds the parts in order.
extern "C" __global__ void __launch_bounds__(256)
sum_parts(const SCALAR* x, long long reduced, long long inner, int across, int parts,
          long long each, ACCUMULATE scale, ACCUMULATE* partial, unsigned int* tickets,
          SCALAR* out) {
    __shared__ ACCUMULATE lines[256];
    const int lane = threadIdx.x % across, line = threadIdx.x / across;
    const unsigned int tiles = (inner + across - 1) / across, tile = blockIdx.x % tiles;
    const long long outer = blockIdx.x / tiles / parts;
    const int part = blockIdx.x / tiles % parts;
    const long long i = static_cast<long long>(tile) * across + lane;
    const long long begin = part * each, end = min(reduced, begin + each);

    ACCUMULATE sum = 0;
    if (i < inner) {
        const SCALAR* column = x + outer * reduced * inner + i;
        for (long long r = begin + line; r < end; r += blockDim.x / across) {
            sum += widen(column[r * inner]);
        }
    }
    lines[threadIdx.x] = sum;
    __syncthreads();
    for (int half = blockDim.x / 2; half >= across; half /= 2) {
        if (threadIdx.x < half) lines[threadIdx.x] += lines[threadIdx.x + half];
        __syncthreads();
    }
    const bool writes = line == 0 && i < inner;
    if (parts == 1) {
        if (writes) store(out + outer * inner + i, lines[lane] * scale);
        return;
    }
    ACCUMULATE* own = partial + outer * parts * inner;
    if (writes) own[part * inner + i] = lines[lane];
    if (!is_last_block(tickets + outer * tiles + tile, parts)) return;
    if (writes) {
        const volatile ACCUMULATE* all = own;
        ACCUMULATE total = 0;
        for (int p = 0; p < parts; p++) total += all[p * inner + i];
        store(out + outer * inner + i, total * scale);
    }
}

// Few terms and many results: a thread for each.
extern "C" __global__ void sum_short(const SCALAR* x, long long reduced, long long inner,
                                     long long count, ACCUMULATE scale, SCALAR* out) {
    for (long long e = FIRST; e < count; e += ALL) {
        const SCALAR* column = x + e / inner * reduced * inner + e % inner;
        ACCUMULATE sum = 0;
        for (long long r = 0; r < reduced; r++) sum += widen(column[r * inner]);
        store(out + e, sum * scale);
    }
}
