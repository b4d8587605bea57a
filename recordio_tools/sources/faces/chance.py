"""Counter-based random numbers: every number is a pure function of its keys, the same on any machine.

numpy's generators promise no stream across versions; a hash of 64-bit integers has nothing that could change.
"""

import numpy as np

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_MASK = (1 << 64) - 1


def mix(state: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014), element by element on a uint64 array."""
    state = (state ^ (state >> np.uint64(30))) * _FIRST
    state = (state ^ (state >> np.uint64(27))) * _SECOND
    return state ^ (state >> np.uint64(31))


def uniforms(count: int, seed: int, stream: int, *keys: np.ndarray) -> np.ndarray:
    """Float64 numbers in [0, 1) of shape (B, count), row b from (seed, stream, keys[0][b], keys[1][b], …).

    seed and stream are non-negative integers, each key an integer array of shape (B,).
    """
    state = np.full(len(keys[0]), seed & _MASK, np.uint64)
    for key in (np.full_like(state, stream), *keys):
        state = mix((state ^ np.asarray(key).astype(np.uint64)) + GOLDEN)
    counters = np.arange(1, count + 1, dtype=np.uint64) * GOLDEN
    return (mix(state[:, None] + counters) >> np.uint64(11)) * 2.0**-53


def bell(u: np.ndarray) -> np.ndarray:
    """Uniform numbers in [0, 1) bent towards 1/2: halfway between a uniform and a triangular law, still on [0, 1)."""
    triangular = np.where(u < 0.5, np.sqrt(u / 2), 1 - np.sqrt((1 - u) / 2))
    return (u + triangular) / 2
