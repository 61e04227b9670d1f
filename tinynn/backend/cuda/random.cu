// The library's random sequence: Philox4x64-10 (Salmon, Moraes, Dror and Shaw, 2011), the same bits as
// tinynn/backend/philox.py. Block `position + b` of the sequence is eight 32-bit words; thread b
// generates it.

#define WORDS 8  // per block of the sequence

__device__ inline void philox(unsigned long long seed, unsigned long long counter,
                              unsigned int* words) {
    unsigned long long a = counter, b = 0, c = 0, d = 0, key0 = seed, key1 = 0;
    for (int round = 0; round < 10; round++) {
        const unsigned long long high0 = __umul64hi(a, 0xD2E7470EE14C6C93ULL);
        const unsigned long long high1 = __umul64hi(c, 0xCA5A826395121157ULL);
        const unsigned long long low0 = a * 0xD2E7470EE14C6C93ULL;
        const unsigned long long low1 = c * 0xCA5A826395121157ULL;
        a = high1 ^ b ^ key0;
        b = low1;
        c = high0 ^ d ^ key1;
        d = low0;
        key0 += 0x9E3779B97F4A7C15ULL;
        key1 += 0xBB67AE8584CAA73BULL;
    }
    const unsigned long long block[4] = {a, b, c, d};
#pragma unroll
    for (int i = 0; i < WORDS; i++) words[i] = static_cast<unsigned int>(block[i / 2] >> i % 2 * 32);
}

extern "C" __global__ void random_bits(unsigned long long seed, unsigned long long position,
                                       long long count, unsigned int* out) {
    for (long long block = FIRST; block * WORDS < count; block += ALL) {
        unsigned int words[WORDS];
        philox(seed, position + block, words);
#pragma unroll
        for (int i = 0; i < WORDS; i++) {
            if (block * WORDS + i < count) out[block * WORDS + i] = words[i];
        }
    }
}

// Element i is kept, and multiplied by `scale`, if word i of the sequence reaches the threshold.
extern "C" __global__ void dropout(const SCALAR* x, unsigned long long seed,
                                   unsigned long long position, unsigned long long threshold,
                                   ACCUMULATE scale, long long count, SCALAR* out, bool* mask) {
    for (long long block = FIRST; block * WORDS < count; block += ALL) {
        unsigned int words[WORDS];
        philox(seed, position + block, words);
#pragma unroll
        for (int i = 0; i < WORDS; i++) {
            const long long e = block * WORDS + i;
            if (e < count) {
                const bool kept = words[i] >= threshold;
                store(out + e, kept ? widen(x[e]) * scale : ACCUMULATE(0));
                mask[e] = kept;
            }
        }
    }
}

extern "C" __global__ void masked(const SCALAR* x, const bool* mask, ACCUMULATE scale,
                                  long long count, SCALAR* out) {
    for (long long e = FIRST; e < count; e += ALL) {
        store(out + e, mask[e] ? widen(x[e]) * scale : ACCUMULATE(0));
    }
}
