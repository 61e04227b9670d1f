"""Random bits: one sequence for a seed, on every backend, from every position."""

import numpy as np
import pytest

from tinynn.backend import Backend, get_backend
from tinynn.backend.philox import WORDS_PER_BLOCK, philox

SEEDS = [0, 1, 12345, 2**64 - 1]


def numpy_words(seed: int, position: int, count: int) -> np.ndarray:
    """NumPy's Philox, which increments its counter before its first block."""
    generator = np.random.Philox(key=seed, counter=(position - 1) % 2**256)
    return generator.random_raw(-(-count // 2)).view(np.uint32)[:count]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("position", "count"), [(0, 8), (0, 0), (5, 37), (2**40, 1000)])
def test_words_are_those_of_numpys_philox(
    seed: int, position: int, count: int, device: str
) -> None:
    backend = get_backend(device)
    expected = numpy_words(seed, position, count)
    for bits in (backend.random_bits, lambda *a: Backend.random_bits(backend, *a)):
        words = backend.to_host(bits(seed, position, count))
        assert words.dtype == np.uint32
        np.testing.assert_array_equal(words, expected)


def test_a_part_of_the_sequence_is_a_part_of_the_sequence(device: str) -> None:
    backend = get_backend(device)
    whole = backend.to_host(backend.random_bits(3, 0, 10 * WORDS_PER_BLOCK))
    part = backend.to_host(backend.random_bits(3, 4, 2 * WORDS_PER_BLOCK))
    np.testing.assert_array_equal(part, whole[4 * WORDS_PER_BLOCK : 6 * WORDS_PER_BLOCK])


def test_first_words_of_philox4x64() -> None:
    """Known answers of the Random123 library: counter 0, key 0."""
    expected = [0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B]
    assert philox(np, 0, 0, 1).tolist() == [expected]
