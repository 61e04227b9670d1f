"""Tuning constants of the CUDA kernels, each with its unit and reason."""

# Threads per block. Eight warps hide latency, and with two blocks per multiprocessor
# (``__launch_bounds__(THREADS, 2)``) each thread may use 128 registers.
THREADS = 256

# Blocks per grid of a grid-stride loop: enough to fill any GPU, and a valid grid size on all.
MAX_BLOCKS = 65_535

# Blocks per multiprocessor into which reductions are split. More of them only lengthen the last
# step, in which one block adds the partial sums.
BLOCKS_PER_MULTIPROCESSOR = 4

# Elements that make a block of a split reduction worth its partial sum: 4 per thread.
MIN_ELEMENTS_PER_BLOCK = 1024

# The corresponding minimum for the weight gradient of a convolution, in output pixels: 16 steps of
# a tile.
MIN_PIXELS_PER_BLOCK = 256

# Its maximum: a thread adds the pixels one by one, and longer sums in float32 lose more digits.
MAX_PIXELS_PER_BLOCK = 4096

# Terms that a thread adds in the precision of the data before it continues in double precision, in
# which many GPUs do 32 or 64 times fewer operations a second: with this value that does not count.
SUM_BLOCK = 64

# Terms up to which one thread computes a whole sum: no shared memory, no second step.
SHORT_REDUCTION = 32

# Rows and columns of the weight gradient that one block computes: 4 x 4 per thread.
GRADIENT_TILE = 64

# Output channels per block of the implicit GEMM. The smallest tile that holds a group's channels
# leaves the fewest threads idle; wider groups use several of the largest.
FORWARD_TILES = (16, 32, 64)

# Output channels, and terms (kh * kw * C), from which im2col and cuBLAS beat the implicit GEMM:
# enough arithmetic for each column that is written.
GEMM_MIN_OUTPUTS = 128
GEMM_MIN_TERMS = 512

# Output channels per group below which tiles stay mostly empty: one thread per output instead.
DEPTHWISE_MAX_OUTPUTS = 8

# Bytes of im2col columns at a time: large enough for cuBLAS to be efficient, small beside images.
IM2COL_WORKSPACE = 64 * 2**20

# Optimizer updates: parameters per launch (their addresses are kernel arguments, of which there may
# be 4 KB) and elements per block.
PARAMETERS = 64
BLOCK_ELEMENTS = 4096

# Label checks in flight, 8 bytes each; one more synchronizes.
MAX_PENDING_LABEL_CHECKS = 4096

# Batches whose pinned buffers may wait for their copies; one more blocks the loading thread.
MAX_UPLOADS_IN_FLIGHT = 8
