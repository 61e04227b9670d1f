"""The CPU backend: NumPy, threads and cache-sized tiles. ``backend.py`` lists its kernels."""
