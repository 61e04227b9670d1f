// Pooling. Every kernel gathers: a thread computes one element of the result from all values that
// contribute to it, so there are no atomics and the order of sums is fixed. Neighboring threads take
// neighboring channels of one pixel, so that accesses coalesce.

#if WIDE
typedef short Winner;  // the index of a tap
#else
typedef signed char Winner;
#endif

// The offset in the image of tap (i, j) of an output pixel's window; -1 in the padding.
__device__ inline long long tap_offset(const Position& out, int i, int j, int c, const Geometry& g) {
    const int y = out.y * g.stride_h - g.top + i * g.dilation_h;
    const int x = out.x * g.stride_w - g.left + j * g.dilation_w;
    if (y < 0 || y >= g.height || x < 0 || x >= g.width) return -1;
    return ((out.n * g.height + y) * g.width + x) * g.channels + c;
}

extern "C" __global__ void max_pool(const Geometry g, long long count, const SCALAR* x, SCALAR* out,
                                    Winner* winner) {
    for (long long e = FIRST; e < count; e += ALL) {
        const Position pixel = position_of(e / g.channels, g.out_height, g.out_width);
        ACCUMULATE best = -INFINITE;  // the value of the padding
        int won = 0;
        for (int i = 0; i < g.kh; i++) {
            for (int j = 0; j < g.kw; j++) {
                const long long at = tap_offset(pixel, i, j, e % g.channels, g);
                if (at < 0) continue;
                const ACCUMULATE value = widen(x[at]);
                if (value > best) won = i * g.kw + j;
                // keep a NaN: comparisons with it are false
                if (value > best || value != value) best = value;
            }
        }
        store(out + e, best);
        winner[e] = static_cast<Winner>(won);
    }
}

extern "C" __global__ void max_pool_gather(const Geometry g, long long count, const SCALAR* x,
                                           const Winner* winner, SCALAR* out) {
    for (long long e = FIRST; e < count; e += ALL) {
        const Position pixel = position_of(e / g.channels, g.out_height, g.out_width);
        const int i = winner[e] / g.kw, j = winner[e] % g.kw;
        const long long at = tap_offset(pixel, i, j, e % g.channels, g);
        store(out + e, at < 0 ? ACCUMULATE(0) : widen(x[at]));
    }
}

extern "C" __global__ void sum_pool(const Geometry g, long long count, const SCALAR* x, SCALAR* out) {
    for (long long e = FIRST; e < count; e += ALL) {
        const Position pixel = position_of(e / g.channels, g.out_height, g.out_width);
        Sum sum = {0, 0, 0};
        for (int i = 0; i < g.kh; i++) {
            for (int j = 0; j < g.kw; j++) {
                const long long at = tap_offset(pixel, i, j, e % g.channels, g);
                if (at >= 0) include(sum, widen(x[at]));
            }
        }
        store(out + e, value_of(sum));
    }
}

// The adjoints: each pixel of x adds the values of the windows that contain it. With `winner`, only of
// those whose maximum it was; with `out`, the result of a ReLU after the pooling, only where that is
// positive.
extern "C" __global__ void scatter(const Geometry g, long long count, const SCALAR* values,
                                   const SCALAR* out, const Winner* winner, SCALAR* x) {
    for (long long e = FIRST; e < count; e += ALL) {
        const Position pixel = position_of(e / g.channels, g.height, g.width);
        Sum sum = {0, 0, 0};
        for (int i = 0; i < g.kh; i++) {
            for (int j = 0; j < g.kw; j++) {
                const long long window = window_of(pixel, i, j, g);
                if (window < 0) continue;
                const long long at = window * g.channels + e % g.channels;
                if (winner && winner[at] != i * g.kw + j) continue;
                if (!out || widen(out[at]) > 0) include(sum, widen(values[at]));
            }
        }
        store(x + e, value_of(sum));
    }
}
