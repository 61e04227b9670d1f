"""The reference backend on NumPy arrays: every other backend is compared with it."""

from tinynn.gpucheck.parity import REFERENCE as PLAIN

__all__ = ["PLAIN"]
