// Precedes every kernel file: the types of a variant, and what several kernels share.
//
// SCALAR is the element type of arrays (__half, float or double), ACCUMULATE that of arithmetic and
// sums (float for __half). Arrays are contiguous unless a kernel says otherwise. Offsets into arrays
// are 64 bits wide, sizes of single axes 32. The code is C++11 and runs from compute capability 3.7 on.
// THREADS is the block size of every launch; tuning.py explains it.

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

__device__ inline ACCUMULATE combined(ACCUMULATE a, ACCUMULATE b) { return a + b; }

// Tree reduction in shared memory. `values` has one entry per thread, in rows of `lanes` threads (a
// power of two); afterwards entry i < lanes is the combination of column i.
template <class Value>
__device__ inline void reduce_columns(Value (&values)[THREADS], int lanes) {
    __syncthreads();
    for (int half = THREADS / 2; half >= lanes; half /= 2) {
        if (threadIdx.x < half) {
            values[threadIdx.x] = combined(values[threadIdx.x], values[threadIdx.x + half]);
        }
        __syncthreads();
    }
}

// Whether this block is the last of `blocks` to get here with one ticket (the threadFenceReduction
// pattern of the CUDA samples); all of its threads get the same answer. The last block can read what
// the others wrote before, through `volatile`, and combines their partial results in a fixed order: no
// floating-point atomics, the same bits in every run. The ticket is 0 before and after.
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

// The second step of such a reduction: the sum of `parts` partial sums that lie `stride` apart.
__device__ inline ACCUMULATE sum_partials(const volatile ACCUMULATE* partial, unsigned int parts,
                                          long long stride) {
    ACCUMULATE total = 0;
    for (unsigned int part = 0; part < parts; part++) total += partial[part * stride];
    return total;
}
