"""Convolution on a CPU: ``choice`` picks an algorithm, the other modules implement one each."""
