"""Sizes of encoded images, and every error that a corrupt one raises."""

import numpy as np
import pytest
import sets

from recordio_tools.format.pictures import DECODE_ERRORS, decode_size, image_size


def test_size_is_height_and_width():
    encoded = sets.jpeg(5, (6, 10))
    assert image_size(encoded) == decode_size(np.frombuffer(encoded, np.uint8)) == (6, 10)


def test_a_cut_image_has_a_size_but_does_not_decode():
    cut = sets.jpeg(5, (60, 100))[:-80]
    assert image_size(cut) == (60, 100)
    with pytest.raises(OSError, match="truncated"):
        decode_size(cut)


def test_mutated_images_raise_nothing_else():
    rng = np.random.default_rng(0)
    outcomes = {"decoded": 0, "refused": 0}
    for _ in range(2000):
        encoded = bytearray(sets.jpeg(7, (8, 8)))
        encoded[int(rng.integers(len(encoded)))] = rng.integers(256)
        cut = int(rng.integers(1, len(encoded))) if rng.integers(4) == 0 else len(encoded)
        try:
            decode_size(bytes(encoded[:cut]))
            outcomes["decoded"] += 1
        except DECODE_ERRORS:
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 200
