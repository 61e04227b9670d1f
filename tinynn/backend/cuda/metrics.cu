// The running loss and accuracy of an epoch, kept on the GPU so that no batch synchronizes.

// totals[0] += loss * rows, totals[1] += correct predictions, and totals[2] counts the batches before
// the first loss that is not finite, which sets `failed`. The prediction of a row is the index of its
// largest logit, as in numpy.argmax: the first of equal values; a NaN counts as the largest. With one
// logit per row it is 1 where that is positive. One block; each thread takes every THREADS-th row.
extern "C" __global__ void accumulate_metrics(const ACCUMULATE* loss, const SCALAR* logits,
                                              const long long* labels, long long rows, int classes,
                                              double* totals, bool* failed) {
    __shared__ unsigned int correct;
    if (threadIdx.x == 0) correct = 0;
    __syncthreads();
    unsigned int own = 0;
    for (long long row = threadIdx.x; row < rows; row += blockDim.x) {
        const SCALAR* values = logits + row * classes;
        ACCUMULATE best = widen(values[0]);
        int predicted = classes == 1 && best > 0;
        for (int k = 1; k < classes; ++k) {
            const ACCUMULATE value = widen(values[k]);
            if (value > best || (value != value && best == best)) {
                best = value;
                predicted = k;
            }
        }
        own += predicted == labels[row];
    }
    atomicAdd(&correct, own);  // integers: the order does not matter
    __syncthreads();
    if (threadIdx.x == 0) {
        totals[0] += static_cast<double>(*loss) * static_cast<double>(rows);
        totals[1] += correct;
        if (!(*loss - *loss == 0)) *failed = true;
        if (!*failed) totals[2] += 1;
    }
}
