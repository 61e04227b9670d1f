"""The CUDA backend: CuPy and our own kernels. ``backend.py`` lists what they replace."""
