"""Every tuning constant of the CPU kernels, with its unit, what it trades off and how it was found.

All were measured with float32 on one and two cores of an AMD EPYC (Zen 4: 32 KB L1, 1 MB L2 per
core) with NumPy 2.4 and OpenBLAS 0.3.31; ``python benchmarks/cpu_ideas.py`` measures the gains
again. None of them changes a result by more than rounding, and none depends on the number of
threads: that keeps results bitwise equal for any number of them.

Read them as ``tuning.NAME``, so that a test or an experiment can set another value.
"""

# -- hardware -------------------------------------------------------------------------------------

# Bytes. x86 and most ARM cores. Vector loads that straddle two cache lines take about twice as
# long, and a prefetch needs to touch each line once.
CACHE_LINE = 64

# -- threads --------------------------------------------------------------------------------------

# Polls of a lock before a thread sleeps, each followed by an addition of SPIN_ELEMENTS elements
# (about 5 microseconds without the GIL): some milliseconds in all. Waking a sleeping thread takes
# 30-100 microseconds, as long as a small tile. Spinning longer would waste a core.
SPIN_ITERATIONS = 500
SPIN_ELEMENTS = 1 << 15

# -- tiles ----------------------------------------------------------------------------------------

# Bytes that one tile reads and writes. One thread would be as fast with smaller tiles, which fit
# into its L2 cache. Two threads contend for the GIL at every operation, which takes as long as a
# small one does, so their operations should be long. Larger tiles fall out of the cache.
TILE_BYTES = 3 << 20

# Elements of one chunk of an elementwise operation, a pooling or a batch norm (1 MB of float32).
# Below it, handing a chunk to a thread costs more than it saves.
CHUNK = 1 << 18

# -- elementwise operations -----------------------------------------------------------------------

# Elements from which on a formula of several operations is evaluated in chunks. Smaller arrays stay
# in the last-level cache between the operations, and a chunk costs a copy into the result: measured
# on one thread, chunks make sigmoid a fifth slower at 0.6 million elements and a third faster at 8.
EVALUATE_FROM = 4 * CHUNK

# Elements of NumPy's iterator buffer. An operand that is broadcast along shorter runs than this
# halves the speed of NumPy's vector loops, so short rows are repeated up to this length.
LONG_ROW = 8192

# Bytes. An array smaller than this is not aligned: finding the cache line takes longer than the
# alignment saves.
ALIGN_FROM = 1 << 15

# Elements. A ReLU of fewer is one plain call of NumPy (some microseconds).
RELU_FROM = 1 << 13

# -- sums -----------------------------------------------------------------------------------------

# Terms that are added in float32 before float64 takes over: as fast as one product for all terms
# from here on, and within 64 roundings of the exact sum.
SUM_BLOCK = 64

# Elements of a row of the products that add up blocks: BLAS needs 3 microseconds for one, of which
# the call is a small part.
SUM_ROW = 2048

# Elements that are converted to float64 at a time (128 KB).
SUM_CHUNK = 1 << 14

# Elements up to which NumPy adds in float64: splitting into blocks takes longer.
SUM_IN_FLOAT64 = 1 << 12

# -- matrix products ------------------------------------------------------------------------------

# Blocks of one large product, at most: even shares for 2, 4 and 8 threads.
MATMUL_BLOCKS = 8

# Terms of the parts into which products with more terms are cut.
MATMUL_TERMS = 4096

# Multiply-adds of one block, at least (some hundred microseconds): less does not repay a thread.
MATMUL_BLOCK_WORK = 8 * 10**6

# -- batch normalization --------------------------------------------------------------------------

# Elements from which on several threads pay; waking them costs as much as a smaller batch norm.
NORM_PARALLEL_FROM = 1 << 19

# Elements of the rows whose columns are added up at once: long enough for the vector loops, and
# two of them stay in the L1 cache. The 512 or so rows of a chunk are added one by one.
NORM_ROW = 512

# Squared mean / variance. Up to this ratio E[x²] - E[x]² loses no more than one decimal digit of
# the variance; beyond it the mean is subtracted first, in a second pass.
NORM_FAR = 4.0

# Beyond this ratio it is also subtracted before x is scaled: x · scale + shift would have lost two
# digits more than its input.
NORM_CENTER = 1e4

# -- optimizer updates ----------------------------------------------------------------------------

# Parameters of a model from which on its update runs on several threads.
UPDATE_PARALLEL_FROM = 1 << 20

# Elements per chunk, on several threads and on one. An update reads and writes up to four arrays
# in several passes; they must stay in the L2 cache between them.
UPDATE_CHUNK_PARALLEL = CHUNK // 2
UPDATE_CHUNK = CHUNK // 8

# -- scratch buffers ------------------------------------------------------------------------------

# Bytes of scratch buffers that a thread keeps; ``tinynn.memory.set_limit`` changes it. A training
# step of the networks in benchmarks/ needs less than a tenth.
BUFFER_LIMIT = 1 << 28

# Views of buffers that a thread keeps: some for each layer of a network.
CACHED_VIEWS = 64

# -- convolution by row products ------------------------------------------------------------------

# Multiply-adds (M·N·K). Up to this size OpenBLAS multiplies float32 matrices without packing them
# into blocks first ("small matrix optimization"): 1.4 times faster for narrow matrices.
SMALL_GEMM = 10**6

# Rows of such a small product, at least; with fewer, the calls cost more than the packing.
SMALL_GEMM_MIN_ROWS = 32

# Elements to which the rows of a Winograd-transformed image are padded: one cache line of float32.
ALIGNED_ELEMENTS = 16

# Bytes. Input smaller than this is not prefetched: the hardware prefetcher suffices.
PREFETCH_FROM = 1 << 16

# Positions of tiles in an image for which the views of a Winograd transform are kept.
CACHED_POSITIONS = 64

# Partial sums of a weight gradient. Fixed, so that the order of summation never depends on the
# number of threads; more of them would cost memory and a longer last sum.
WEIGHT_GRADIENT_SUMS = 8

# Input channels times output channels of a group, at most, for which elementwise products beat
# matrix products.
DEPTHWISE_MAX_PRODUCTS = 4

# -- Winograd F(m, r) -----------------------------------------------------------------------------

# Candidates for m, the output rows computed together (1: row by row). The one with the fewest
# products is taken. More than 6 would exceed WINOGRAD_MAX_PRODUCTS for a 3×3 kernel.
WINOGRAD_ROWS = (1, 2, 4, 6)

# Products m + r - 1 of one F(m, r), at most. With more, the entries of its matrices and so the
# rounding errors grow fast: 8 keeps them below 30 roundings of the largest result
# (tests/backend/test_winograd.py). Kernels with more rows are split.
WINOGRAD_MAX_PRODUCTS = 8

# -- FFT ------------------------------------------------------------------------------------------

# Pixels. Sides of an FFT tile that are tried: transforms are dense matrix products, so larger ones
# do not pay.
FFT_SIZES = (8, 12, 16, 24, 32, 48, 64)

# Pixels of the longer side of a kernel, at least.
FFT_MIN_KERNEL = 5

# Factor by which the FFT must need fewer multiplications than row products, to pay for its copies.
# This value made the fewest wrong choices where both were timed, for kernels of 5 to 15 pixels and
# 3 to 128 channels.
FFT_MARGIN = 1.6

# Bytes of spectra held at a time; a batch that has more is processed in parts.
FFT_SPECTRA_BYTES = 1 << 26

# Parts into which a batch is cut for the threads.
FFT_PARTS = 8
