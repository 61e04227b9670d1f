// Pooling. Every kernel gathers: a thread computes one element of the result from all that contributes
// to it, so there are no atomics and the order of sums is fixed. Neighboring threads take neighboring
// channels of one pixel, so that accesses coalesce. `Geometry` is that of geometry.py.

#if WIDE
typedef short Winner;  // the index of a tap
#else
typedef signed char Winner;
#endif

struct Position {
    long long n;
    int y, x, channel;
};

__device__ inline Position position_of(long long e, int height, int width, const Geometry& g) {
    const long long pixel = e / g.channels;
    const Position position = {pixel / width / height, static_cast<int>(pixel / width % height),
                               static_cast<int>(pixel % width), static_cast<int>(e % g.channels)};
    return position;
}

__device__ inline long long element_count(int height, int width, const Geometry& g) {
    return static_cast<long long>(g.images) * height * width * g.channels;
}

// The offset in the image of tap (i, j) of a pooled element's window; -1 in the padding.
__device__ inline long long tap_offset(const Position& out, int i, int j, const Geometry& g) {
    const int y = out.y * g.stride_h - g.top + i * g.dilation_h;
    const int x = out.x * g.stride_w - g.left + j * g.dilation_w;
    if (y < 0 || y >= g.height || x < 0 || x >= g.width) return -1;
    return ((out.n * g.height + y) * g.width + x) * g.channels + out.channel;
}

// The offset of the pooled element whose window has its tap (i, j) on a pixel; -1: there is none.
__device__ inline long long window_offset(const Position& pixel, int i, int j, const Geometry& g) {
    const int y = pixel.y + g.top - i * g.dilation_h, x = pixel.x + g.left - j * g.dilation_w;
    if (y < 0 || y % g.stride_h || y / g.stride_h >= g.out_height) return -1;
    if (x < 0 || x % g.stride_w || x / g.stride_w >= g.out_width) return -1;
    return ((pixel.n * g.out_height + y / g.stride_h) * g.out_width + x / g.stride_w) * g.channels +
           pixel.channel;
}

extern "C" __global__ void max_pool(const SCALAR* x, const Geometry g, SCALAR* out,
                                    Winner* winner) {
    const long long count = element_count(g.out_height, g.out_width, g);
    for (long long e = FIRST; e < count; e += ALL) {
        const Position position = position_of(e, g.out_height, g.out_width, g);
        ACCUMULATE best = -INFINITE;  // the value of the padding
        int won = 0;
        for (int i = 0; i < g.kh; i++) {
            for (int j = 0; j < g.kw; j++) {
                const long long at = tap_offset(position, i, j, g);
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

// Each pixel of x: the sum of the values whose windows it won. With `out`, the result of a ReLU after
// the pooling, only of those where it is positive.
extern "C" __global__ void max_pool_scatter(const SCALAR* values, const SCALAR* out,
                                            const Winner* winner, const Geometry g, SCALAR* x) {
    const long long count = element_count(g.height, g.width, g);
    for (long long e = FIRST; e < count; e += ALL) {
        const Position pixel = position_of(e, g.height, g.width, g);
        ACCUMULATE sum = 0;
        for (int i = 0; i < g.kh; i++) {
            for (int j = 0; j < g.kw; j++) {
                const long long at = window_offset(pixel, i, j, g);
                if (at < 0 || winner[at] != i * g.kw + j) continue;
                if (!out || widen(out[at]) > 0) sum += widen(values[at]);
            }
        }
        store(x + e, sum);
    }
}

extern "C" __global__ void max_pool_gather(const SCALAR* x, const Winner* winner, const Geometry g,
                                           SCALAR* out) {
    const long long count = element_count(g.out_height, g.out_width, g);
    for (long long e = FIRST; e < count; e += ALL) {
        const Position position = position_of(e, g.out_height, g.out_width, g);
        const long long at = tap_offset(position, winner[e] / g.kw, winner[e] % g.kw, g);
        store(out + e, at < 0 ? ACCUMULATE(0) : widen(x[at]));
    }
}

extern "C" __global__ void sum_pool(const SCALAR* x, const Geometry g, SCALAR* out) {
    const long long count = element_count(g.out_height, g.out_width, g);
    for (long long e = FIRST; e < count; e += ALL) {
        const Position position = position_of(e, g.out_height, g.out_width, g);
        ACCUMULATE sum = 0;
        for (int i = 0; i < g.kh; i++) {
            for (int j = 0; j < g.kw; j++) {
                const long long at = tap_offset(position, i, j, g);
                if (at >= 0) sum += widen(x[at]);
            }
        }
        store(out + e, sum);
    }
}

extern "C" __global__ void sum_pool_adjoint(const SCALAR* grad, const Geometry g, SCALAR* x) {
    const long long count = element_count(g.height, g.width, g);
    for (long long e = FIRST; e < count; e += ALL) {
        const Position pixel = position_of(e, g.height, g.width, g);
        ACCUMULATE sum = 0;
        for (int i = 0; i < g.kh; i++) {
            for (int j = 0; j < g.kw; j++) {
                const long long at = window_offset(pixel, i, j, g);
                if (at >= 0) sum += widen(grad[at]);
            }
        }
        store(x + e, sum);
    }
}
