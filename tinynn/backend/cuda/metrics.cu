// The running loss and accuracy of an epoch, kept on the GPU so that no batch synchronizes.

// totals[0] += loss * examples, totals[1] += correct predictions, totals[2] counts the batches before
// the first loss that is not finite, which sets `failed`, and totals[3] += labels that are classes. The
// prediction of a row is the index of its largest logit, as in numpy.argmax: the first of equal values;
// a NaN counts as the largest. With one logit per row it is 1 where that is positive; then a label
// other than 0 and 1 makes totals[3] negative. One block; each thread takes every THREADS-th row.
extern "C" __global__ void accumulate_metrics(const ACCUMULATE* loss, long long examples,
                                              const SCALAR* logits, const long long* labels,
                                              long long rows, int classes, double no_classifier,
                                              double* totals, bool* failed) {
    __shared__ unsigned int correct, counted;
    if (threadIdx.x == 0) correct = counted = 0;
    __syncthreads();
    unsigned int own = 0, own_counted = 0;
    const int known = classes == 1 ? 2 : classes;
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
        own_counted += labels[row] >= 0 && labels[row] < known;
    }
    atomicAdd(&correct, own);  // integers: the order does not matter
    atomicAdd(&counted, own_counted);
    __syncthreads();
    if (threadIdx.x == 0) {
        totals[0] += static_cast<double>(*loss) * static_cast<double>(examples);
        totals[1] += correct;
        totals[3] += classes == 1 && counted < rows ? -no_classifier : counted;
        if (!(*loss - *loss == 0)) *failed = true;
        if (!*failed) totals[2] += 1;
    }
}
