// The running loss and accuracy of an epoch, so that nobody has to fetch them after each batch.

// As long as each loss was a finite number totals[2] counts the batches; the first that is not sets
// failed. totals[0] += loss * rows; totals[1] += the number of rows whose largest logit, the first of
// equals and NaN before all others as in NumPy, stands at their label. With one logit a row the
// class is 1 where it is above 0. One block: each thread takes every blockDim.x-th row.
extern "C" __global__ void accumulate_metrics(
    const ACCUMULATE* loss, const SCALAR* logits, const long long* labels,
    long long rows, int classes, double* totals, bool* failed
) {
    __shared__ unsigned int right;
    if (threadIdx.x == 0) right = 0;
    __syncthreads();
    unsigned int mine = 0;
    for (long long row = threadIdx.x; row < rows; row += blockDim.x) {
        const SCALAR* values = logits + row * classes;
        ACCUMULATE best = widen(values[0]);
        int found = classes == 1 && best > 0;
        for (int k = 1; k < classes; ++k) {
            const ACCUMULATE value = widen(values[k]);
            if (value > best || (value != value && best == best)) {
                best = value;
                found = k;
            }
        }
        mine += found == labels[row];
    }
    atomicAdd(&right, mine);  // whole numbers: the order does not matter
    __syncthreads();
    if (threadIdx.x == 0) {
        totals[0] += static_cast<double>(*loss) * static_cast<double>(rows);
        totals[1] += right;
        if (!(*loss - *loss == 0)) *failed = true;
        if (!*failed) totals[2] += 1;
    }
}
