// Element by element: consecutive threads read and write consecutive numbers.

#define UNARY(NAME, RESULT)                                                            \
    extern "C" __global__ void NAME(const SCALAR* values, long long count, SCALAR* out) { \
        for (long long i = FIRST; i < count; i += ALL) {                               \
            const ACCUMULATE x = widen(values[i]);                                     \
            store(out + i, RESULT);                                                    \
        }                                                                              \
    }

UNARY(relu, x < 0 ? ACCUMULATE(0) : x)  // NaN stays
UNARY(sigmoid, tanh(x * ACCUMULATE(0.5)) * ACCUMULATE(0.5) + ACCUMULATE(0.5))
UNARY(softplus, (x > 0 ? x : ACCUMULATE(0)) + log1p(exp(x > 0 ? -x : x)))
UNARY(error_function, erf(x))

extern "C" __global__ void relu_gradient(const SCALAR* grad, const SCALAR* result, long long count,
                                         SCALAR* out) {
    for (long long i = FIRST; i < count; i += ALL) {
        store(out + i, widen(result[i]) > 0 ? widen(grad[i]) : ACCUMULATE(0));
    }
}

// out[row][column] += bias[column], in place.
extern "C" __global__ void add_bias(SCALAR* out, const SCALAR* bias, long long count, int columns) {
    for (long long i = FIRST; i < count; i += ALL) {
        store(out + i, widen(out[i]) + widen(bias[i % columns]));
    }
}
