// Pooling. Every kernel gathers: a thread makes one element of its result and looks at all that goes
// into it, so no two threads write to one place. Channels are the last axis: neighboring threads take
// neighboring channels of one pixel, and read and write neighboring addresses.

struct Pool {
    int images, height, width, channels;  // of the image
    int out_height, out_width;            // of the pooled one
    int kh, kw, stride_h, stride_w, top, left, dilation_h, dilation_w;
};

#if WIDE
typedef short Winner;  // the number of a tap
#else
typedef signed char Winner;
#endif

struct Place {
    long long n;
    int y, x, channel;
};

__device__ inline Place place_of(long long e, int height, int width, int channels) {
    const long long pixel = e / channels;
    const Place place = {pixel / width / height, static_cast<int>(pixel / width % height),
                         static_cast<int>(pixel % width), static_cast<int>(e % channels)};
    return place;
}

__device__ inline long long pooled_count(const Pool& g) {
    return static_cast<long long>(g.images) * g.out_height * g.out_width * g.channels;
}

__device__ inline long long image_count(const Pool& g) {
    return static_cast<long long>(g.images) * g.height * g.width * g.channels;
}

// The offset in the image of tap (i, j) of the window of a pooled element; -1 in the padding.
__device__ inline long long under(const Place& out, int i, int j, const Pool& g) {
    const int y = out.y * g.stride_h - g.top + i * g.dilation_h;
    const int x = out.x * g.stride_w - g.left + j * g.dilation_w;
    if (y < 0 || y >= g.height || x < 0 || x >= g.width) return -1;
    return ((out.n * g.height + y) * g.width + x) * g.channels + out.channel;
}

// The offset among the pooled elements of the window whose tap (i, j) lies on a pixel; -1: there is none.
__device__ inline long long above(const Place& pixel, int i, int j, const Pool& g) {
    const int y = pixel.y + g.top - i * g.dilation_h, x = pixel.x + g.left - j * g.dilation_w;
    if (y < 0 || y % g.stride_h || y / g.stride_h >= g.out_height) return -1;
    if (x < 0 || x % g.stride_w || x / g.stride_w >= g.out_width) return -1;
    return ((pixel.n * g.out_height + y / g.stride_h) * g.out_width + x / g.stride_w) * g.channels +
           pixel.channel;
}

extern "C" __global__ void max_pool(const SCALAR* x, const Pool g, SCALAR* out, Winner* winner) {
    for (long long e = FIRST; e < pooled_count(g); e += ALL) {
        const Place place = place_of(e, g.out_height, g.out_width, g.channels);
        ACCUMULATE best = -1 / ACCUMULATE(0);  // minus infinity, which the padding holds
        int won = 0;
        for (int i = 0; i < g.kh; i++) {
            for (int j = 0; j < g.kw; j++) {
                const long long at = under(place, i, j, g);
                if (at < 0) continue;
                const ACCUMULATE value = widen(x[at]);
                if (value > best) won = i * g.kw + j;
                // a NaN stays: no comparison with it is true
                if (value > best || value != value) best = value;
            }
        }
        store(out + e, best);
        winner[e] = static_cast<Winner>(won);
    }
}

// x: at each pixel the sum of the values whose windows it won. With `out`, the pooled result of a ReLU,
// only values where that is positive.
extern "C" __global__ void max_pool_scatter(const SCALAR* values, const SCALAR* out,
                                            const Winner* winner, const Pool g, SCALAR* x) {
    for (long long e = FIRST; e < image_count(g); e += ALL) {
        const Place pixel = place_of(e, g.height, g.width, g.channels);
        ACCUMULATE sum = 0;
        for (int i = 0; i < g.kh; i++) {
            for (int j = 0; j < g.kw; j++) {
                const long long at = above(pixel, i, j, g);
                if (at < 0 || winner[at] != i * g.kw + j) continue;
                if (!out || widen(out[at]) > 0) sum += widen(values[at]);
            }
        }
        store(x + e, sum);
    }
}

extern "C" __global__ void max_pool_gather(const SCALAR* x, const Winner* winner, const Pool g,
                                           SCALAR* out) {
    for (long long e = FIRST; e < pooled_count(g); e += ALL) {
        const Place place = place_of(e, g.out_height, g.out_width, g.channels);
        const long long at = under(place, winner[e] / g.kw, winner[e] % g.kw, g);
        store(out + e, at < 0 ? ACCUMULATE(0) : widen(x[at]));
    }
}

extern "C" __global__ void sum_pool(const SCALAR* x, const Pool g, SCALAR* out) {
    for (long long e = FIRST; e < pooled_count(g); e += ALL) {
        const Place place = place_of(e, g.out_height, g.out_width, g.channels);
        ACCUMULATE sum = 0;
        for (int i = 0; i < g.kh; i++) {
            for (int j = 0; j < g.kw; j++) {
                const long long at = under(place, i, j, g);
                if (at >= 0) sum += widen(x[at]);
            }
        }
        store(out + e, sum);
    }
}

extern "C" __global__ void sum_pool_adjoint(const SCALAR* grad, const Pool g, SCALAR* x) {
    for (long long e = FIRST; e < image_count(g); e += ALL) {
        const Place pixel = place_of(e, g.height, g.width, g.channels);
        ACCUMULATE sum = 0;
        for (int i = 0; i < g.kh; i++) {
            for (int j = 0; j < g.kw; j++) {
                const long long at = above(pixel, i, j, g);
                if (at >= 0) sum += widen(grad[at]);
            }
        }
        store(x + e, sum);
    }
}
