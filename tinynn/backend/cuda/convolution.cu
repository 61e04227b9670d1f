// Convolution as an implicit GEMM, and im2col with its adjoint for cuBLAS.
//
// A convolution is the matrix product out[m, o] = sum over k of A[m, k] * W[k, o]. Row m is an output
// pixel (n, y, x), column k is a tap of the kernel and a channel (i, j, c), and A[m, k] is the pixel of
// the image under that tap, or 0 in the padding. A is what im2col would write to global memory. Here it
// stays implicit: a block gathers the columns that it needs next into shared memory.
//
// The gradient of the image is the same product with the kernel flipped and the gradient upsampled:
// its pixels lie `upsample` = stride apart, with zeros in between.
//
// `Geometry` (geometry.py) has the sizes.

// An output pixel: the offset of its image in x (-1: past the last pixel), and the position of its first
// tap, which may lie in the padding.
struct Pixel {
    long long image;
    int y, x;
};

__device__ inline Pixel locate(long long m, long long pixels, const Geometry& g) {
    Pixel pixel = {-1, 0, 0};
    if (m < pixels) {
        const int area = g.out_height * g.out_width;
        const int n = static_cast<int>(m / area);
        const int rest = static_cast<int>(m % area);
        pixel.image = static_cast<long long>(n) * g.height * g.width * g.channels;
        pixel.y = rest / g.out_width * g.stride_h - g.top;
        pixel.x = rest % g.out_width * g.stride_w - g.left;
    }
    return pixel;
}

__device__ inline long long pixel_count(const Geometry& g) {
    return static_cast<long long>(g.images) * g.out_height * g.out_width;
}

// Column k of A: the distance of tap (i, j) from the first one, and the channel.
struct Tap {
    int y, x, channel;
};

__device__ inline Tap tap_of(int k, const Geometry& g) {
    const int index = k / g.group_channels;
    const Tap tap = {index / g.kw * g.dilation_h, index % g.kw * g.dilation_w,
                     k % g.group_channels};
    return tap;
}

// The offset of W[k, o] of a group. For the input gradient the weight is flipped, and the roles of its
// input and output channels are swapped. An `int` is enough for weights, and saves registers.
__device__ inline int weight_offset(int k, int o, int group, const Geometry& g) {
    if (!g.flipped) return k * g.outputs + group * g.group_outputs + o;
    const int tap = g.kh * g.kw - 1 - k / g.group_channels;
    return (tap * g.group_outputs + o) * g.channels + group * g.group_channels +
           k % g.group_channels;
}

// A[m, k].
__device__ inline ACCUMULATE gather(const SCALAR* x, const Pixel& pixel, const Tap& tap,
                                    const Geometry& g) {
    int row = pixel.y + tap.y, column = pixel.x + tap.x;
    if (pixel.image < 0 || row < 0 || column < 0) return 0;
    if (g.upsample_h != 1 || g.upsample_w != 1) {
        if (row % g.upsample_h || column % g.upsample_w) return 0;  // between two pixels
        row /= g.upsample_h;
        column /= g.upsample_w;
    }
    if (row >= g.height || column >= g.width) return 0;
    return widen(x[pixel.image + (static_cast<long long>(row) * g.width + column) * g.channels +
                   tap.channel]);
}

// Register tiling: a thread accumulates a 4 x 4 tile, so that 8 reads of shared memory feed 16
// multiplications. A tile of A is padded by 4 columns: its threads store down a column, and in rows
// that are a multiple of 32 words apart they would all hit the same bank.
#define DEPTH 16  // terms of the sum in shared memory at a time
#define PAD 4

template <int ROWS, int COLUMNS>
__device__ inline void multiply_tiles(const ACCUMULATE (&a)[DEPTH][ROWS],
                                      const ACCUMULATE (&b)[DEPTH][COLUMNS], int row, int column,
                                      ACCUMULATE (&sum)[4][4]) {
#pragma unroll
    for (int k = 0; k < DEPTH; k++) {
        ACCUMULATE left[4], right[4];
#pragma unroll
        for (int i = 0; i < 4; i++) left[i] = a[k][row + i];
#pragma unroll
        for (int i = 0; i < 4; i++) right[i] = b[k][column + i];
#pragma unroll
        for (int i = 0; i < 4; i++) {
#pragma unroll
            for (int j = 0; j < 4; j++) sum[i][j] += left[i] * right[j];
        }
    }
}

// -- out = A W: the forward pass and the input gradient -----------------------------------------------
//
// A block computes TILE_M rows by TILE_O outputs of one group, a thread 4 x 4 of them.
// blockIdx.x = tile of rows, .y = tile of outputs, .z = group.
//
// With POOL the four rows of a thread are the four pixels of one 2 x 2 window, so that max pooling
// happens in registers: row m is pixel (m % 4) of window m / 4.

#ifdef TILE_O

#define ACROSS (TILE_O / 4)            // threads side by side
#define TILE_M (THREADS / ACROSS * 4)  // rows

__device__ inline Pixel locate_row(long long row, const Geometry& g) {
#if POOL
    const int height = g.out_height / 2, width = g.out_width / 2, area = height * width;
    const long long n = row / 4 / area;
    if (n >= g.images) return locate(0, 0, g);
    const int window = static_cast<int>(row / 4 % area), tap = static_cast<int>(row % 4);
    const int y = window / width * 2 + tap / 2, x = window % width * 2 + tap % 2;
    row = (n * g.out_height + y) * g.out_width + x;
#endif
    return locate(row, pixel_count(g), g);
}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
correlate(const SCALAR* x, const SCALAR* weight, const SCALAR* bias, const Geometry g, SCALAR* out,
          signed char* winner) {
    __shared__ ACCUMULATE a[DEPTH][TILE_M + PAD];
    __shared__ ACCUMULATE b[DEPTH][TILE_O];
    __shared__ Pixel pixels[TILE_M];

    const int thread = threadIdx.x, column = thread % ACROSS * 4, row = thread / ACROSS * 4;
    const long long first_row = static_cast<long long>(blockIdx.x) * TILE_M;
    const int first_output = blockIdx.y * TILE_O, group = blockIdx.z;
    const int terms = g.kh * g.kw * g.group_channels;
    x += group * g.group_channels;

    for (int m = thread; m < TILE_M; m += THREADS) pixels[m] = locate_row(first_row + m, g);
    __syncthreads();

    ACCUMULATE sum[4][4] = {};
    for (int first = 0; first < terms; first += DEPTH) {
        // A thread stays in one column of A: neighbors read neighboring channels of one pixel, which
        // coalesces, and the divisions in tap_of are done once.
        const int k = first + thread % DEPTH;
        const Tap tap = tap_of(k, g);
        for (int m = thread / DEPTH; m < TILE_M; m += THREADS / DEPTH) {
            a[thread % DEPTH][m] = k < terms ? gather(x, pixels[m], tap, g) : ACCUMULATE(0);
        }
        for (int e = thread; e < DEPTH * TILE_O; e += THREADS) {
            const int kk = first + e / TILE_O, o = first_output + e % TILE_O;
            const bool inside = kk < terms && o < g.group_outputs;
            b[e / TILE_O][e % TILE_O] =
                inside ? widen(weight[weight_offset(kk, o, group, g)]) : ACCUMULATE(0);
        }
        __syncthreads();
        multiply_tiles(a, b, row, column, sum);
        __syncthreads();
    }

    // The epilogue: bias, and with POOL max pooling and ReLU.
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
            // keep a NaN: comparisons with it are false
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

#else  // the other kernels have no variants

// -- dW = A' G: the weight gradient -------------------------------------------------------------------
//
// dW[k, o] = sum over m of A[m, k] * grad[m, o]: few results, each a sum over all output pixels of the
// batch. To occupy the GPU the pixels are split (split-K): a block computes TILE x TILE results over one
// part of them (blockIdx.x = part, .y = tile, .z = group), a thread 4 x 4 of these, and writes them to
// `partial` [group][part][k][o]. The last block of a tile adds the parts in order.

#define TILE GRADIENT_TILE

extern "C" __global__ void __launch_bounds__(THREADS, 2)
weight_gradient(const SCALAR* x, const SCALAR* grad, const Geometry g, long long part_pixels,
                ACCUMULATE* partial, unsigned int* tickets, SCALAR* out) {
    __shared__ ACCUMULATE a[DEPTH][TILE + PAD];
    __shared__ ACCUMULATE b[DEPTH][TILE];
    __shared__ Pixel pixels[DEPTH];

    const int thread = threadIdx.x, group = blockIdx.z;
    const int across = (g.group_outputs + TILE - 1) / TILE;
    const int first_k = blockIdx.y / across * TILE, first_o = blockIdx.y % across * TILE;
    const int row = thread / (TILE / 4) * 4, column = thread % (TILE / 4) * 4;
    const int terms = g.kh * g.kw * g.group_channels;
    const long long begin = blockIdx.x * part_pixels;
    const long long end = min(pixel_count(g), begin + part_pixels);
    x += group * g.group_channels;
    grad += group * g.group_outputs;

    const int k = first_k + thread % TILE, o = first_o + thread % TILE;  // that this thread gathers
    const Tap tap = tap_of(k, g);
    ACCUMULATE sum[4][4] = {};
    for (long long first = begin; first < end; first += DEPTH) {
        if (thread < DEPTH) pixels[thread] = locate(first + thread, end, g);
        __syncthreads();
        for (int m = thread / TILE; m < DEPTH; m += THREADS / TILE) {
            const bool inside = o < g.group_outputs && first + m < end;
            a[m][thread % TILE] = k < terms ? gather(x, pixels[m], tap, g) : ACCUMULATE(0);
            b[m][thread % TILE] = inside ? widen(grad[(first + m) * g.outputs + o]) : ACCUMULATE(0);
        }
        __syncthreads();
        multiply_tiles(a, b, row, column, sum);
        __syncthreads();
    }

    const long long results = static_cast<long long>(terms) * g.group_outputs;
    partial += group * gridDim.x * results;
    ACCUMULATE* own = partial + blockIdx.x * results;
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
    for (int e = thread; e < TILE * TILE; e += THREADS) {
        const long long k = first_k + e / TILE;
        const int o = first_o + e % TILE;
        if (k >= terms || o >= g.group_outputs) continue;
        store(out + k * g.outputs + group * g.group_outputs + o,
              combine_parts(partial + k * g.group_outputs + o, gridDim.x, results));
    }
}

// -- few channels per group (depthwise convolution) ---------------------------------------------------
//
// There are no matrices to multiply: one thread per output, neighboring threads take neighboring
// channels.

extern "C" __global__ void __launch_bounds__(THREADS, 2)
correlate_depthwise(const SCALAR* x, const SCALAR* weight, const SCALAR* bias, const Geometry g,
                    SCALAR* out) {
    const long long pixels = pixel_count(g);
    const int terms = g.kh * g.kw * g.group_channels;
    for (long long e = FIRST; e < pixels * g.outputs; e += ALL) {
        const int channel = static_cast<int>(e % g.outputs), group = channel / g.group_outputs;
        const Pixel pixel = locate(e / g.outputs, pixels, g);
        const int o = channel % g.group_outputs;
        ACCUMULATE sum = bias ? widen(bias[channel]) : ACCUMULATE(0);
        for (int k = 0; k < terms; k++) {
            sum += gather(x + group * g.group_channels, pixel, tap_of(k, g), g) *
                   widen(weight[weight_offset(k, o, group, g)]);
        }
        store(out + e, sum);
    }
}

// A block computes row k of dW (blockIdx.z) for 32 outputs (.y) over one part of the pixels (.x): each
// of its warps takes every eighth pixel. `partial` is [part][k][o].
extern "C" __global__ void __launch_bounds__(THREADS, 2)
weight_gradient_depthwise(const SCALAR* x, const SCALAR* grad, const Geometry g,
                          long long part_pixels, ACCUMULATE* partial, unsigned int* tickets,
                          SCALAR* out) {
    const int channel = blockIdx.y * 32 + threadIdx.x % 32, k = blockIdx.z;
    const bool inside = channel < g.outputs;
    const Tap tap = tap_of(k, g);
    const long long end = min(pixel_count(g), (blockIdx.x + 1) * part_pixels);
    x += inside ? channel / g.group_outputs * g.group_channels : 0;

    ACCUMULATE sum = 0;
    const int warps = THREADS / 32;
    for (long long m = blockIdx.x * part_pixels + threadIdx.x / 32; inside && m < end; m += warps) {
        sum += gather(x, locate(m, end, g), tap, g) * widen(grad[m * g.outputs + channel]);
    }
    const long long e = static_cast<long long>(k) * g.outputs + channel;
    if (reduce_blocks(sum, 32, inside, blockIdx.x, gridDim.x, partial + e,
                      static_cast<long long>(gridDim.z) * g.outputs,
                      tickets + blockIdx.z * gridDim.y + blockIdx.y)) {
        store(out + e, sum);
    }
}

// -- im2col and its adjoint, for cuBLAS ---------------------------------------------------------------

// `rows` rows of A from `first_row` on: one thread per element, neighbors take neighboring channels.
extern "C" __global__ void im2col(const SCALAR* x, const Geometry g, long long first_row,
                                  long long rows, SCALAR* columns) {
    const int terms = g.kh * g.kw * g.channels;
    const long long pixels = pixel_count(g);
    for (long long e = FIRST; e < rows * terms; e += ALL) {
        const Pixel pixel = locate(first_row + e / terms, pixels, g);
        store(columns + e, gather(x, pixel, tap_of(static_cast<int>(e % terms), g), g));
    }
}

// The adjoint for whole images, in gather form: each pixel of x (images, height, width, channels) adds
// the elements of the windows that contain it.
extern "C" __global__ void col2im(const SCALAR* columns, const Geometry g, SCALAR* x) {
    const int terms = g.kh * g.kw * g.channels;
    const long long count = static_cast<long long>(g.images) * g.height * g.width * g.channels;
    for (long long e = FIRST; e < count; e += ALL) {
        const int c = static_cast<int>(e % g.channels);
        const Position pixel = position_of(e / g.channels, g.height, g.width);
        ACCUMULATE total = 0;
        for (int i = 0; i < g.kh; i++) {
            for (int j = 0; j < g.kw; j++) {
                const long long m = window_of(pixel, i, j, g);
                if (m >= 0) total += widen(columns[m * terms + (i * g.kw + j) * g.channels + c]);
            }
        }
        store(x + e, total);
    }
}

#endif
