"""The base class itself on NumPy arrays: what every backend is compared with."""

from tinynn.gpucheck.parity import REFERENCE as PLAIN

__all__ = ["PLAIN"]
