// Convolution without columns in memory ("implicit GEMM"), and with them for many channels.
//
// A convolution is the matrix product out[m, o] = sum over k of A[m, k] * W[k, o]. Row m is an output
// pixel (n, y, x); k is a tap of the kernel and a channel (i, j, c); A[m, k] is the pixel of the image
// that tap (i, j) of output pixel m lies on, or 0 outside of the image. Nobody writes A down: a block
// gathers the 16 columns it needs next into shared memory and multiplies them there.
//
// The gradient of the image is the same product with the kernel turned round, the pixels of the
// gradient lying `spread` = stride apart with zeros between them.

struct Geometry {
    int images, height, width, channels;  // of x; channels of all groups
    int out_height, out_width, outputs;   // outputs of all groups
    int kh, kw, group_channels, group_outputs;
    int stride_h, stride_w, top, left, dilation_h, dilation_w, spread_h, spread_w;
    int weight_i, weight_j, weight_c, weight_o, weight_group;  // strides of the weight, in elements
    int pool_height, pool_width;  // of the result, where windows of 2 x 2 are pooled
};

// Where output pixel m lies: its image, and the pixel of the padded image under its first tap.
struct Pixel {
    long long image;  // offset of its image in x; -1: there is no such pixel
    int y, x;
};

#define THREADS 256
#define TILE_K 16  // terms of the sum that a block has in shared memory at a time

__device__ inline Pixel locate(long long m, long long pixels, const Geometry& g) {
    Pixel pixel = {-1, 0, 0};
    if (m < pixels) {
        const int area = g.out_height * g.out_width;
        const int n = static_cast<int>(m / area);
        const int place = static_cast<int>(m % area);
        pixel.image = static_cast<long long>(n) * g.height * g.width * g.channels;
        pixel.y = place / g.out_width * g.stride_h - g.top;
        pixel.x = place % g.out_width * g.stride_w - g.left;
    }
    return pixel;
}

// Column k of A: how far tap (i, j) is from the first one, and the channel.
struct Tap {
    int y, x, channel;
};

__device__ inline Tap tap_of(int k, const Geometry& g) {
    const int place = k / g.group_channels;
    const Tap tap = {place / g.kw * g.dilation_h, place % g.kw * g.dilation_w,
                     k % g.group_channels};
    return tap;
}

// A[m, k], of images whose pixels lie `spread` apart.
__device__ inline ACCUMULATE gather(const SCALAR* x, const Pixel& pixel, const Tap& tap,
                                    const Geometry& g) {
    int row = pixel.y + tap.y, column = pixel.x + tap.x;
    if (pixel.image < 0 || row < 0 || column < 0) return 0;
    if (g.spread_h != 1 || g.spread_w != 1) {
        if (row % g.spread_h || column % g.spread_w) return 0;
        row /= g.spread_h;
        column /= g.spread_w;
    }
    if (row >= g.height || column >= g.width) return 0;
    return widen(x[pixel.image + (static_cast<long long>(row) * g.width + column) * g.channels +
                   tap.channel]);
}

// -- out = A W ----------------------------------------------------------------------------------------
//
// A block computes TILE_M rows by TILE_O outputs of one group, a thread 4 x 4 of them: with 16 outputs
// 4 threads lie side by side and 64 one above the other. x is blockIdx.x = tile of rows, blockIdx.y =
// tile of outputs, blockIdx.z = group.
//
// With POOL the four rows of a thread are the four pixels of a pooled one, so that the largest is found
// in registers: row m is pixel (m % 4) of window m / 4.

#ifdef TILE_O

#define ACROSS (TILE_O / 4)            // threads side by side
#define TILE_M (THREADS / ACROSS * 4)  // rows
#define PITCH (TILE_M + 4)             // of a line of A in shared memory; + 4 against bank conflicts

__device__ inline Pixel locate_row(long long row, const Geometry& g) {
#if POOL
    const long long windows = static_cast<long long>(g.images) * g.pool_height * g.pool_width;
    const long long window = row / 4;
    if (window >= windows) return locate(0, 0, g);
    const int area = g.pool_height * g.pool_width;
    const long long n = window / area;
    const int place = static_cast<int>(window % area), tap = static_cast<int>(row % 4);
    const int y = place / g.pool_width * 2 + tap / 2, x = place % g.pool_width * 2 + tap % 2;
    row = (n * g.out_height + y) * g.out_width + x;
#endif
    return locate(row, static_cast<long long>(g.images) * g.out_height * g.out_width, g);
}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
correlate(const SCALAR* x, const SCALAR* weight, const SCALAR* bias, const Geometry g, SCALAR* out,
          signed char* winner) {
    __shared__ ACCUMULATE a[TILE_K][PITCH];
    __shared__ ACCUMULATE b[TILE_K][TILE_O];
    __shared__ Pixel pixels[TILE_M];

    const int thread = threadIdx.x, column = thread % ACROSS * 4, row = thread / ACROSS * 4;
    const long long first_row = static_cast<long long>(blockIdx.x) * TILE_M;
    const int first_output = blockIdx.y * TILE_O, group = blockIdx.z;
    const int terms = g.kh * g.kw * g.group_channels;
    x += group * g.group_channels;
    weight += static_cast<long long>(group) * g.weight_group;

    for (int m = thread; m < TILE_M; m += THREADS) pixels[m] = locate_row(first_row + m, g);
    __syncthreads();

    ACCUMULATE sum[4][4] = {};
    for (int first = 0; first < terms; first += TILE_K) {
        // a thread stays in one column of A: neighbors read neighboring channels of one pixel
        const int k = first + thread % TILE_K;
        const Tap tap = tap_of(k, g);
        for (int m = thread / TILE_K; m < TILE_M; m += THREADS / TILE_K) {
            a[thread % TILE_K][m] = k < terms ? gather(x, pixels[m], tap, g) : ACCUMULATE(0);
        }
        for (int e = thread; e < TILE_K * TILE_O; e += THREADS) {
            const int kk = first + e / TILE_O, o = first_output + e % TILE_O;
            ACCUMULATE value = 0;
            if (kk < terms && o < g.group_outputs) {
                const int place = kk / g.group_channels;
                value = widen(weight[static_cast<long long>(place / g.kw) * g.weight_i +
                                     place % g.kw * g.weight_j +
                                     kk % g.group_channels * g.weight_c + o * g.weight_o]);
            }
            b[e / TILE_O][e % TILE_O] = value;
        }
        __syncthreads();
#pragma unroll
        for (int kk = 0; kk < TILE_K; kk++) {
            ACCUMULATE left[4], right[4];
#pragma unroll
            for (int i = 0; i < 4; i++) left[i] = a[kk][row + i];
#pragma unroll
            for (int i = 0; i < 4; i++) right[i] = b[kk][column + i];
#pragma unroll
            for (int i = 0; i < 4; i++) {
#pragma unroll
                for (int j = 0; j < 4; j++) sum[i][j] += left[i] * right[j];
            }
        }
        __syncthreads();
    }

#pragma unroll
    for (int j = 0; j < 4; j++) {
        const int o = first_output + column + j;
        if (o >= g.group_outputs) continue;
        const int channel = group * g.group_outputs + o;
        const ACCUMULATE shift = bias ? widen(bias[channel]) : ACCUMULATE(0);
#if POOL
        const long long window = (first_row + row) / 4;
        if (pixels[row].image < 0) continue;
        ACCUMULATE best = sum[0][j];
        int won = 0;
#pragma unroll
        for (int i = 1; i < 4; i++) {
            if (sum[i][j] > best) won = i;
            // a NaN stays: no comparison with it is true
            best = sum[i][j] > best || sum[i][j] != sum[i][j] ? sum[i][j] : best;
        }
        best += shift;
        store(out + window * g.outputs + channel, best < 0 ? ACCUMULATE(0) : best);
        winner[window * g.outputs + channel] = static_cast<signed char>(won);
#else
#pragma unroll
        for (int i = 0; i < 4; i++) {
            if (pixels[row + i].image >= 0) {
                store(out + (first_row + row + i) * g.outputs + channel, sum[i][j] + shift);
            }
        }
#endif
    }
}

#else  // the rest needs no macros

// -- dW = A' G ----------------------------------------------------------------------------------------
//
// dW[k, o] = sum over m of A[m, k] * grad[m, o]: few results, each the sum over all output pixels of
// the batch. A block computes 64 x 64 results over one part of the pixels (blockIdx.x = part, .y = tile,
// .z = group), a thread 4 x 4 of them, and leaves them in `partial` [group][part][k][o]. The last block
// of a tile adds the parts in order.

#define TILE 64
#define STEP 16  // pixels that a block has in shared memory at a time

extern "C" __global__ void __launch_bounds__(THREADS, 2)
weight_gradient(const SCALAR* x, const SCALAR* grad, const Geometry g, long long part_pixels,
                ACCUMULATE* partial, unsigned int* tickets, SCALAR* out) {
    __shared__ ACCUMULATE a[STEP][TILE + 4];
    __shared__ ACCUMULATE b[STEP][TILE];
    __shared__ Pixel pixels[STEP];

    const int thread = threadIdx.x, group = blockIdx.z;
    const int across = (g.group_outputs + TILE - 1) / TILE;
    const int first_k = blockIdx.y / across * TILE, first_o = blockIdx.y % across * TILE;
    const int row = thread / 16 * 4, column = thread % 16 * 4;
    const int terms = g.kh * g.kw * g.group_channels;
    const long long all = static_cast<long long>(g.images) * g.out_height * g.out_width;
    const long long begin = blockIdx.x * part_pixels;
    const long long end = min(all, begin + part_pixels);
    x += group * g.group_channels;
    grad += group * g.group_outputs;

    const int own_k = first_k + thread % TILE;  // of the column of A that this thread gathers
    const Tap tap = tap_of(own_k, g);
    ACCUMULATE sum[4][4] = {};
    for (long long first = begin; first < end; first += STEP) {
        if (thread < STEP) pixels[thread] = locate(first + thread, end, g);
        __syncthreads();
        for (int m = thread / TILE; m < STEP; m += THREADS / TILE) {
            const int o = first_o + thread % TILE;
            const bool inside = o < g.group_outputs && first + m < end;
            a[m][thread % TILE] = own_k < terms ? gather(x, pixels[m], tap, g) : ACCUMULATE(0);
            b[m][thread % TILE] = inside ? widen(grad[(first + m) * g.outputs + o]) : ACCUMULATE(0);
        }
        __syncthreads();
#pragma unroll
        for (int m = 0; m < STEP; m++) {
            ACCUMULATE left[4], right[4];
#pragma unroll
            for (int i = 0; i < 4; i++) left[i] = a[m][row + i];
#pragma unroll
            for (int i = 0; i < 4; i++) right[i] = b[m][column + i];
#pragma unroll
            for (int i = 0; i < 4; i++) {
#pragma unroll
                for (int j = 0; j < 4; j++) sum[i][j] += left[i] * right[j];
            }
        }
        __syncthreads();
    }

    const long long results = static_cast<long long>(terms) * g.group_outputs;
    ACCUMULATE* own = partial + (static_cast<long long>(group) * gridDim.x + blockIdx.x) * results;
#pragma unroll
    for (int i = 0; i < 4; i++) {
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const int k = first_k + row + i, o = first_o + column + j;
            if (k < terms && o < g.group_outputs) {
                own[static_cast<long long>(k) * g.group_outputs + o] = sum[i][j];
            }
        }
    }
    if (!is_last_block(tickets + group * gridDim.y + blockIdx.y, gridDim.x)) return;
    const volatile ACCUMULATE* parts = partial + static_cast<long long>(group) * gridDim.x * results;
    for (int e = thread; e < TILE * TILE; e += THREADS) {
        const int k = first_k + e / TILE, o = first_o + e % TILE;
        if (k >= terms || o >= g.group_outputs) continue;
        const long long place = static_cast<long long>(k) * g.group_outputs + o;
        ACCUMULATE total = 0;
        for (unsigned int part = 0; part < gridDim.x; part++) total += parts[part * results + place];
        store(out + static_cast<long long>(k) * g.outputs + group * g.group_outputs + o, total);
    }
}

// -- few channels in each group -----------------------------------------------------------------------
//
// Where every channel has its own kernel ("depthwise") there are no products of matrices: one element a
// thread, neighboring threads take neighboring channels.

extern "C" __global__ void __launch_bounds__(THREADS, 2)
correlate_thin(const SCALAR* x, const SCALAR* weight, const SCALAR* bias, const Geometry g,
               SCALAR* out) {
    const long long pixels = static_cast<long long>(g.images) * g.out_height * g.out_width;
    const int terms = g.kh * g.kw * g.group_channels;
    for (long long e = FIRST; e < pixels * g.outputs; e += ALL) {
        const int channel = static_cast<int>(e % g.outputs), group = channel / g.group_outputs;
        const Pixel pixel = locate(e / g.outputs, pixels, g);
        const SCALAR* own = weight + static_cast<long long>(group) * g.weight_group +
                            channel % g.group_outputs * g.weight_o;
        ACCUMULATE sum = bias ? widen(bias[channel]) : ACCUMULATE(0);
        for (int k = 0; k < terms; k++) {
            const Tap tap = tap_of(k, g);
            const int place = k / g.group_channels;
            sum += gather(x + group * g.group_channels, pixel, tap, g) *
                   widen(own[static_cast<long long>(place / g.kw) * g.weight_i +
                             place % g.kw * g.weight_j + tap.channel * g.weight_c]);
        }
        store(out + e, sum);
    }
}

// One row k of dW a block (blockIdx.z), 32 outputs (.y), one part of the pixels (.x): 32 threads side by
// side for the outputs, 8 lines of them for every eighth pixel. `partial` is [part][k][o].
extern "C" __global__ void __launch_bounds__(THREADS, 2)
weight_gradient_thin(const SCALAR* x, const SCALAR* grad, const Geometry g, long long part_pixels,
                     ACCUMULATE* partial, unsigned int* tickets, SCALAR* out) {
    __shared__ ACCUMULATE lines[THREADS / 32][32];
    const int lane = threadIdx.x % 32, line = threadIdx.x / 32;
    const int channel = blockIdx.y * 32 + lane, k = blockIdx.z;
    const bool inside = channel < g.outputs;
    const Tap tap = tap_of(k, g);
    const long long all = static_cast<long long>(g.images) * g.out_height * g.out_width;
    const long long end = min(all, (blockIdx.x + 1) * part_pixels);
    x += inside ? channel / g.group_outputs * g.group_channels : 0;

    ACCUMULATE sum = 0;
    for (long long m = blockIdx.x * part_pixels + line; inside && m < end; m += THREADS / 32) {
        sum += gather(x, locate(m, end, g), tap, g) * widen(grad[m * g.outputs + channel]);
    }
    lines[line][lane] = sum;
    __syncthreads();
    const long long place = static_cast<long long>(k) * g.outputs + channel;
    const long long results = static_cast<long long>(gridDim.z) * g.outputs;
    if (line == 0 && inside) {
        for (int i = 1; i < THREADS / 32; i++) sum += lines[i][lane];
        partial[blockIdx.x * results + place] = sum;
    }
    if (!is_last_block(tickets + blockIdx.z * gridDim.y + blockIdx.y, gridDim.x)) return;
    if (line == 0 && inside) {
        const volatile ACCUMULATE* parts = partial;
        ACCUMULATE total = 0;
        for (unsigned int part = 0; part < gridDim.x; part++) total += parts[part * results + place];
        store(out + place, total);
    }
}

// -- with columns in memory ---------------------------------------------------------------------------

// Rows `first_row` ... of A, one element a thread: neighboring threads take neighboring channels.
extern "C" __global__ void im2col(const SCALAR* x, const Geometry g, long long first_row,
                                  long long rows, SCALAR* columns) {
    const int terms = g.kh * g.kw * g.channels;
    const long long all = static_cast<long long>(g.images) * g.out_height * g.out_width;
    for (long long e = FIRST; e < rows * terms; e += ALL) {
        const Pixel pixel = locate(first_row + e / terms, all, g);
        store(columns + e, gather(x, pixel, tap_of(static_cast<int>(e % terms), g), g));
    }
}

// The adjoint of im2col for whole images: each pixel of x gathers what the windows that hold it have
// for it. Geometry is that of the convolution; x is (images, height, width, channels).
extern "C" __global__ void col2im(const SCALAR* columns, const Geometry g, SCALAR* x) {
    const int terms = g.kh * g.kw * g.channels;
    const long long count = static_cast<long long>(g.images) * g.height * g.width * g.channels;
    for (long long e = FIRST; e < count; e += ALL) {
        const int c = static_cast<int>(e % g.channels);
        const long long place = e / g.channels;
        const int column = static_cast<int>(place % g.width);
        const int row = static_cast<int>(place / g.width % g.height);
        const long long n = place / g.width / g.height;
        ACCUMULATE total = 0;
        for (int i = 0; i < g.kh; i++) {
            const int y = row + g.top - i * g.dilation_h;  // stride * the output row, if there is one
            if (y < 0 || y % g.stride_h || y / g.stride_h >= g.out_height) continue;
            for (int j = 0; j < g.kw; j++) {
                const int left = column + g.left - j * g.dilation_w;
                if (left < 0 || left % g.stride_w || left / g.stride_w >= g.out_width) continue;
                const long long m =
                    (n * g.out_height + y / g.stride_h) * g.out_width + left / g.stride_w;
                total += widen(columns[m * terms + (i * g.kw + j) * g.channels + c]);
            }
        }
        store(x + e, total);
    }
}

#endif
