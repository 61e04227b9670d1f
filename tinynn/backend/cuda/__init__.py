"""The CUDA backend: CuPy and our own kernels. ``backend.py`` is the table of kernels."""
