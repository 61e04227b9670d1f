// Stands before every kernel file: the types of a variant, and what several kernels need.
//
// SCALAR is what arrays hold (__half, float or double), ACCUMULATE what sums are made in (float for
// __half). Arrays are contiguous unless a kernel says otherwise. Offsets into arrays are 64 bits
// wide, sizes of single axes 32. Only what C++11 and compute capability 3.7 have is used.

#include <cuda_fp16.h>

__device__ inline float widen(__half value) { return __half2float(value); }
__device__ inline float widen(float value) { return value; }
__device__ inline double widen(double value) { return value; }

__device__ inline void store(__half* place, float value) { *place = __float2half_rn(value); }
__device__ inline void store(float* place, float value) { *place = value; }
__device__ inline void store(double* place, double value) { *place = value; }

// The number of this thread in the grid, and how many there are: `for (i = FIRST; i < n; i += ALL)`.
#define FIRST (static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x)
#define ALL (static_cast<long long>(gridDim.x) * blockDim.x)

// Whether this block is the last of `blocks` that come here with one ticket; all its threads get the
// same answer. What the other blocks wrote before can then be read (through `volatile`), always in
// the same order: sums come out with the same bits in every run. The ticket is 0 before and after.
__device__ inline bool is_last_block(unsigned int* ticket, unsigned int blocks) {
    __shared__ bool last;
    __threadfence();  // the writes of this thread come before its block's ticket
    __syncthreads();
    if (threadIdx.x == 0 && threadIdx.y == 0) {
        last = atomicInc(ticket, blocks - 1) == blocks - 1;  // wraps round to 0
    }
    __syncthreads();
    __threadfence();
    return last;
}
