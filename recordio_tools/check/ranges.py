"""Header and identity records held against the images' own keys and labels.

The header record's labels are (N+1, N+1+K): images have keys 1..N, identity records N+1..N+K. An identity record's
labels are the half-open range of its images' keys. float32 holds them, so above 2^24 only the nearest float can be
asked for.
"""

import numpy as np

from recordio_tools.check.faults import Fault, fault_at
from recordio_tools.format.headers import Headers

EXACT = 2**24


def header_faults(
    header: tuple[float, float, int], num_images: int, num_identities: int, in_index: np.ndarray | None
) -> list[Fault]:
    """Faults of the header record. One whose labels are zero or not numbers claims nothing, and is no fault.

    Args:
        header: its two labels, and the byte where it begins.
        num_images, num_identities: how many such records the file holds.
        in_index: int64, the keys that the index names; None where it cannot be read.
    """
    start, end, offset = header
    if not (start > 0 and end > 0):
        return []
    faults = []
    expected = np.float32(num_images + 1), np.float32(num_images + 1 + num_identities)
    if (np.float32(start), np.float32(end)) != expected:
        given = f"({start:.0f}, {end:.0f})" if max(start, end) < 1e18 else f"({start:g}, {end:g})"
        wanted = f"({num_images + 1}, {num_images + 1 + num_identities})"
        problem = f"the header's labels are {given}, expected {wanted} for {num_images} images"
        faults.append(Fault("range", 0, offset, f"{problem} and {num_identities} identity records"))
    if in_index is not None and end <= EXACT:
        for first, last in _missing(_ascending(in_index), int(end)):
            keys = f"key {first} is" if first == last else f"keys {first} to {last} are"
            faults.append(Fault("index", first, None, f"{keys} missing, the header claims 1 to {end - 1:.0f}"))
    return faults


def identity_faults(
    image_keys: np.ndarray, labels: np.ndarray, keys: np.ndarray, offsets: np.ndarray, headers: Headers
) -> list[Fault]:
    """Identity records whose key range is not that of one identity's images.

    Args:
        image_keys, labels: int64[N] of the images, in ascending order of the keys.
        keys, offsets, headers: int64[M], int64[M] and M entries, of the identity records in any order.
    """
    if len(labels) == 0 or len(keys) == 0:
        return []
    order = np.argsort(keys, kind="stable")
    keys, offsets = keys[order], offsets[order]
    with np.errstate(invalid="ignore"):  # signalling NaN
        start, end = headers.label[order].astype(float), headers.second[order].astype(float)
    faults = []
    for row in np.flatnonzero(_wrong_ranges(image_keys, labels, keys, start, end)).tolist():
        problem = f"its key range [{start[row]:g}, {end[row]:g}) is not that of the images of one identity"
        faults.append(fault_at("range", keys[row], offsets[row], problem))
    return faults


def _ascending(keys: np.ndarray) -> np.ndarray:
    """The positive keys, each once, ascending."""
    keys = keys[keys > 0]
    return keys if (np.diff(keys) > 0).all() else np.unique(keys)


def _missing(present: np.ndarray, end: int) -> list[tuple[int, int]]:
    """Runs (first, last) of the keys in [1, end) that are not among the ascending `present`."""
    edges = np.concatenate([[0], present[present < end], [end]])
    before = np.flatnonzero(np.diff(edges) > 1)
    return [(int(edges[place]) + 1, int(edges[place + 1]) - 1) for place in before]


def _wrong_ranges(
    image_keys: np.ndarray, labels: np.ndarray, keys: np.ndarray, start: np.ndarray, end: np.ndarray
) -> np.ndarray:
    """Which identity records (bool) hold neither the range of the identity at their place nor that of any other."""
    classes = int(labels.max()) + 1
    count = np.bincount(labels, minlength=classes)
    grouped = bool((np.diff(labels) >= 0).all())
    order = np.arange(len(labels)) if grouped else np.lexsort((image_keys, labels))
    edges = np.cumsum(count)
    present = count > 0
    first, last = np.zeros(classes, np.int64), np.zeros(classes, np.int64)
    first[present] = image_keys[order[(edges - count)[present]]]
    last[present] = image_keys[order[edges[present] - 1]]
    unbroken = present & (last - first + 1 == count)
    place = keys - keys[0]
    known = place < classes
    at = np.minimum(place, classes - 1)
    right = known & unbroken[at] & (start == first[at].astype("f4")) & (end == (last[at] + 1).astype("f4"))
    empty = (start == end) & (~known | ~present[at])
    wrong = ~(right | empty)
    if not wrong.any():
        return wrong
    true = {(np.float32(a), np.float32(b + 1)) for a, b in zip(first[unbroken], last[unbroken], strict=True)}
    for row in np.flatnonzero(wrong).tolist():
        wrong[row] = (np.float32(start[row]), np.float32(end[row])) not in true
    return wrong
