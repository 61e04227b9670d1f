// Precedes every kernel file: the types of a variant, and what several kernels share.
//
// SCALAR is the element type of arrays (__half, float or double), ACCUMULATE the type of arithmetic and
// sums (float for __half). Arrays are contiguous unless a kernel says otherwise. Offsets into arrays
// are 64 bits wide, sizes of single axes 32. The code is C++11 and runs from compute capability 3.7 on.
// THREADS and other constants come from tuning.py.

#include <cuda_fp16.h>

__device__ inline float widen(__half value) { return __half2float(value); }
__device__ inline float widen(float value) { return value; }
__device__ inline double widen(double value) { return value; }

__device__ inline void store(__half* address, float value) { *address = __float2half_rn(value); }
__device__ inline void store(float* address, float value) { *address = value; }
__device__ inline void store(double* address, double value) { *address = value; }

// Grid-stride loop: `for (i = FIRST; i < n; i += ALL)`. Neighboring threads take neighboring elements,
// so that their accesses to global memory coalesce.
#define FIRST (static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x)
#define ALL (static_cast<long long>(gridDim.x) * blockDim.x)

#define INFINITE (1 / ACCUMULATE(0))

// Whether this block is the last of `blocks` to get here with one ticket (the threadFenceReduction
// pattern of the CUDA samples); all of its threads get the same answer. The last block can read what
// the others wrote before, through `volatile`. The ticket is 0 before and after.
__device__ inline bool is_last_block(unsigned int* ticket, unsigned int blocks) {
    __shared__ bool last;
    __threadfence();  // publish the writes of this thread before its block takes a ticket
    __syncthreads();
    if (threadIdx.x == 0) {
        last = atomicInc(ticket, blocks - 1) == blocks - 1;  // wraps around to 0
    }
    __syncthreads();
    __threadfence();
    return last;
}

// The sum of many terms in one thread. Runs of SUM_BLOCK terms are added as ACCUMULATE, their sums as
// double: the error does not grow with the number of terms, and few operations are in double precision,
// which most GPUs are slow at.
struct Sum {
    double total;
    ACCUMULATE run;
    int terms;  // of the run
};

__device__ inline void include(Sum& sum, ACCUMULATE term) {
    sum.run += term;
    if (++sum.terms == SUM_BLOCK) {
        sum.total += sum.run;
        sum.run = 0;
        sum.terms = 0;
    }
}

__device__ inline double value_of(const Sum& sum) { return sum.total + sum.run; }

// The reductions below combine numbers, or structs that have these two functions.
template <class Number>
__device__ inline Number combined(Number a, Number b) {
    return a + b;
}

template <class Number>
__device__ inline Number read(const volatile Number* address) {
    return *address;
}

// The values of `parts` blocks, which lie `stride` apart, combined in order.
template <class Value>
__device__ inline Value combine_parts(const Value* partial, unsigned int parts, long long stride) {
    Value total = Value();
    for (unsigned int part = 0; part < parts; part++) {
        total = combined(total, read(partial + part * stride));
    }
    return total;
}

// Tree reduction within a block, whose threads form rows of `lanes` (a power of two): each thread gets
// the value of its column.
template <class Value>
__device__ inline Value reduce_block(const Value& own, int lanes) {
    __shared__ Value values[THREADS];
    values[threadIdx.x] = own;
    __syncthreads();
    for (int half = blockDim.x / 2; half >= lanes; half /= 2) {
        if (threadIdx.x < half) {
            values[threadIdx.x] = combined(values[threadIdx.x], values[threadIdx.x + half]);
        }
        __syncthreads();
    }
    const Value result = values[threadIdx.x & (lanes - 1)];
    __syncthreads();  // all have read theirs before another call overwrites it
    return result;
}

// Reduction over `parts` blocks, of which this is number `part`. Each writes its values to `partial`,
// and the last one combines them in order: no floating-point atomics, the same bits in every run. True
// in the threads that then hold a result in `own`: those of the first row with `inside`.
template <class Value>
__device__ inline bool reduce_blocks(Value& own, int lanes, bool inside, unsigned int part,
                                     unsigned int parts, Value* partial, long long stride,
                                     unsigned int* ticket) {
    own = reduce_block(own, lanes);
    const bool writes = threadIdx.x < lanes && inside;
    if (parts == 1) return writes;
    if (writes) partial[part * stride] = own;
    if (!is_last_block(ticket, parts) || !writes) return false;
    own = combine_parts(partial, parts, stride);
    return true;
}

// -- sliding windows (`Geometry`: geometry.py) --------------------------------------------------------

struct Position {
    long long n;
    int y, x;
};

__device__ inline Position position_of(long long pixel, int height, int width) {
    const Position position = {pixel / width / height, static_cast<int>(pixel / width % height),
                               static_cast<int>(pixel % width)};
    return position;
}

// The output pixel whose window has its tap (i, j) on a pixel of the image, or -1. Backward passes use
// it to gather where scattering would need atomics.
__device__ inline long long window_of(const Position& pixel, int i, int j, const Geometry& g) {
    const int y = pixel.y + g.top - i * g.dilation_h, x = pixel.x + g.left - j * g.dilation_w;
    if (y < 0 || y % g.stride_h || y / g.stride_h >= g.out_height) return -1;
    if (x < 0 || x % g.stride_w || x / g.stride_w >= g.out_width) return -1;
    return (pixel.n * g.out_height + y / g.stride_h) * g.out_width + x / g.stride_w;
}
