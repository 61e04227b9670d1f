"""Philox4x64-10: random bits as a function of (seed, position).

Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3" (2011). Block
``position`` of four 64-bit words depends on the seed and the position only, so a device can
generate any part of the sequence in parallel. The words equal those of ``numpy.random.Philox``.
"""

from __future__ import annotations

from typing import Any

WORDS_PER_BLOCK = 8  # 32-bit words
_ROUNDS = 10
_MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
_WEYL = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
_MASK64 = (1 << 64) - 1
_MASK32 = 0xFFFFFFFF


def philox(xp: Any, seed: int, position: int, blocks: int) -> Any:
    """Blocks ``position`` to ``position + blocks - 1`` as uint64 of shape (blocks, 4)."""
    counter = xp.arange(blocks, dtype=xp.uint64) + xp.uint64(position)
    zero = xp.zeros_like(counter)
    words = [counter, zero, zero, zero]
    keys = [seed & _MASK64, 0]
    for _ in range(_ROUNDS):
        high0, low0 = _multiply_wide(xp, words[0], _MULTIPLIERS[0])
        high1, low1 = _multiply_wide(xp, words[2], _MULTIPLIERS[1])
        words = [
            high1 ^ words[1] ^ xp.uint64(keys[0]),
            low1,
            high0 ^ words[3] ^ xp.uint64(keys[1]),
            low0,
        ]
        keys = [(key + weyl) & _MASK64 for key, weyl in zip(keys, _WEYL, strict=True)]
    return xp.stack(words, axis=1)


def _multiply_wide(xp: Any, a: Any, constant: int) -> tuple[Any, Any]:
    """High and low 64 bits of the 128-bit product, from four 32-bit products."""
    shift, mask = xp.uint64(32), xp.uint64(_MASK32)
    b_low, b_high = xp.uint64(constant & _MASK32), xp.uint64(constant >> 32)
    a_low, a_high = a & mask, a >> shift
    low_low, high_low, low_high = a_low * b_low, a_high * b_low, a_low * b_high
    middle = (low_low >> shift) + (high_low & mask) + (low_high & mask)
    high = a_high * b_high + (high_low >> shift) + (low_high >> shift) + (middle >> shift)
    return high, a * xp.uint64(constant)
