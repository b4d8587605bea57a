"""Key ranges against the labels, also where float32 no longer tells neighbouring keys apart."""

import numpy as np
import pytest

from recordio_tools.check.ranges import header_faults, identity_faults
from recordio_tools.format.headers import Headers


def headers(starts, ends) -> Headers:
    start, end = np.array(starts, "<f4"), np.array(ends, "<f4")
    nothing = np.zeros(len(start), np.int64)
    return Headers(np.full(len(start), 2, np.uint32), start, end, nothing, nothing, nothing.astype(bool))


def wrong_keys(image_keys, labels, keys, starts, ends) -> list[int]:
    offsets = np.arange(len(keys)) * 40
    found = identity_faults(np.array(image_keys), np.array(labels), np.array(keys), offsets, headers(starts, ends))
    assert all(fault.kind == "range" and fault.offset == keys.index(fault.key) * 40 for fault in found)
    return [fault.key for fault in found]


def test_right_ranges():
    assert wrong_keys([1, 2, 3, 4], [0, 0, 1, 3], [5, 6, 7, 8], [1, 3, 4, 4], [3, 4, 4, 5]) == []


def test_right_ranges_in_another_order_of_identities():
    assert wrong_keys([1, 2, 3], [1, 1, 0], [4, 5], [1, 3], [3, 4]) == []


@pytest.mark.parametrize(
    "start, end", [(1, 2), (1, 4), (2, 3), (0, 3), (3, 1), (float("nan"), 3), (1, float("inf")), (1e30, 3)]
)
def test_wrong_ranges(start, end):
    assert wrong_keys([1, 2, 3], [0, 0, 1], [4, 5], [start, 3], [end, 4]) == [4]


def test_identity_with_scattered_images():
    assert wrong_keys([1, 2, 3], [0, 1, 0], [4, 5], [1, 2], [4, 3]) == [4]
    assert wrong_keys([1, 3], [0, 0], [4], [1], [4]) == [4]


def test_an_empty_range_of_an_identity_with_images():
    assert wrong_keys([1, 2], [0, 1], [3, 4], [1, 2], [1, 3]) == [3]


def test_beyond_float32():
    """Keys 2^25 and 2^25 + 1 are one float; the range is right as far as it can be told."""
    first = 2**25
    keys = [first, first + 1, first + 2]
    assert wrong_keys(keys, [0, 0, 1], [first + 3, first + 4], [first, first + 2], [first + 2, first + 3]) == []
    assert wrong_keys(keys, [0, 0, 1], [first + 3, first + 4], [first - 8, first + 2], [first + 2, first + 3]) == [
        first + 3
    ]


@pytest.mark.parametrize("labels", [(0.0, 0.0), (float("nan"), 5.0), (-1.0, 4.0)])
def test_a_header_without_numbers_claims_nothing(labels):
    assert header_faults((*labels, 0), 3, 2, np.arange(6)) == []


def test_header_against_counts_and_index():
    assert header_faults((4.0, 6.0, 8), 3, 2, np.arange(6)) == []
    faults = header_faults((5.0, 9.0, 8), 3, 2, np.array([0, 1, 4, 5]))
    assert [(fault.kind, fault.key, fault.offset) for fault in faults] == [
        ("range", 0, 8),
        ("index", 2, None),
        ("index", 6, None),
    ]
    assert "(5, 9), expected (4, 6) for 3 images and 2 identity records" in faults[0].problem
    assert faults[1].problem == "keys 2 to 3 are missing, the header claims 1 to 8"
    assert faults[2].problem == "keys 6 to 8 are missing, the header claims 1 to 8"


def test_a_header_beyond_float32():
    images = 2**24 + 8
    rounded = float(np.float32(images + 1)), float(np.float32(images + 4))
    assert header_faults((*rounded, 0), images, 3, None) == []
    assert [fault.kind for fault in header_faults((rounded[0] + 2, rounded[1], 0), images, 3, None)] == ["range"]
