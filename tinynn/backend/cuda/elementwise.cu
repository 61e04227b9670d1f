// Elementwise kernels. Most are generated from formulas and appended to this file: see elementwise.py.

// out[row][column] += bias[column]
extern "C" __global__ void add_bias(SCALAR* out, const SCALAR* bias, long long count, int columns) {
    for (long long i = FIRST; i < count; i += ALL) {
        store(out + i, widen(out[i]) + widen(bias[i % columns]));
    }
}
