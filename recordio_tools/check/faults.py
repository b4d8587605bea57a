"""Faults of records and of the index, as a list instead of the first one raised."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from recordio_tools.dataset import describe_label, wrong_labels
from recordio_tools.format.headers import CHUNK, Headers
from recordio_tools.format.index import read_index
from recordio_tools.format.mapping import release
from recordio_tools.format.recordio import WHOLE, RecordError
from recordio_tools.format.scan import Gap, WholeRecords

NO_KEY = -1
T = TypeVar("T")


class Fault(NamedTuple):
    """One fault: its kind (a word), the record's key and byte offset where known, and what is wrong."""

    kind: str
    key: int | None
    offset: int | None
    problem: str


def collect(read: Callable[[], T], faults: list[Fault]) -> T | None:
    """What `read` returns; when it raises RecordError, None, and the error is among the faults."""
    try:
        return read()
    except RecordError as error:
        faults.append(Fault(error.kind, error.key, error.offset, str(error)))
        return None


class IndexMatch(NamedTuple):
    """What an index says of the records of its file."""

    keys: np.ndarray  # int64: the key of every record, NO_KEY where the index names none
    in_index: np.ndarray | None  # int64: all keys of the index, wherever they point; None when it cannot be read
    faults: list[Fault]  # of the index, and the gaps


def match_index(path: Path, records: WholeRecords, gaps: list[Gap], size: int) -> IndexMatch:
    """Hold the index at `path` against the whole records and gaps of its file of `size` bytes, in both directions."""
    faults: list[Fault] = []
    keys = np.full(len(records.offsets), NO_KEY, np.int64)
    index = collect(lambda: read_index(path), faults) if path.is_file() else None
    in_gaps = {gap.offset: NO_KEY for gap in gaps}
    if index is not None:
        faults += _match(index, records.offsets, size, keys, in_gaps)
        problem = "a whole record that the index does not name"
        faults += [Fault("index", None, offset, problem) for offset in records.offsets[keys == NO_KEY].tolist()]
    elif not faults:
        faults.append(Fault("index", None, None, f"{path}: no such index"))
    for gap in gaps:
        key = in_gaps[gap.offset]
        faults.append(Fault(gap.kind, None if key == NO_KEY else key, gap.offset, gap.problem))
    return IndexMatch(keys, None if index is None else index[0], faults)


def _match(
    index: tuple[np.ndarray, np.ndarray], offsets: np.ndarray, size: int, keys: np.ndarray, in_gaps: dict[int, int]
) -> list[Fault]:
    """Hold an index (keys and offsets) against the offsets of the records.

    Fills in `keys`, of every record, and the keys `in_gaps`, by offset, of entries that point at the start of a gap.
    """
    index_keys, index_offsets = index
    if (np.diff(index_keys) <= 0).any():
        order = np.lexsort((index_offsets, index_keys))
        index_keys, index_offsets = index_keys[order], index_offsets[order]
    place = np.searchsorted(offsets, index_offsets)
    nearest = np.minimum(place, len(offsets) - 1)
    hit = offsets[nearest] == index_offsets if len(offsets) else np.zeros(len(place), bool)
    repeated = np.append(False, index_keys[1:] == index_keys[:-1])
    faults = []
    for row in np.flatnonzero(repeated | (index_keys < 0) | ~hit).tolist():
        key, offset = int(index_keys[row]), int(index_offsets[row])
        if repeated[row]:
            faults.append(Fault("index", key, offset, "the index has this key already"))
        elif key < 0:
            faults.append(Fault("index", key, offset, "the index has a negative key"))
        elif not 0 <= offset < size:
            faults.append(Fault("index", key, offset, f"the index points outside the file of {size} bytes"))
        elif offset in in_gaps:
            in_gaps[offset] = key  # the gap's own fault names it
        else:
            faults.append(Fault("index", key, offset, "the index points where no whole record begins"))
    good = np.flatnonzero(hit & ~repeated & (index_keys >= 0))
    if (np.diff(place[good]) > 0).all():
        keys[place[good]] = index_keys[good]
        return faults
    named, first = np.unique(place[good], return_index=True)
    keys[named] = index_keys[good[first]]
    for row in np.setdiff1d(good, good[first]).tolist():
        problem = f"the index names this record under key {keys[place[row]]} too"
        faults.append(Fault("index", int(index_keys[row]), int(index_offsets[row]), problem))
    return faults


def record_faults(data: np.ndarray, keys: np.ndarray, records: WholeRecords, headers: Headers) -> list[Fault]:
    """Whole records whose padding, escaping, header or content is wrong."""
    unfit = headers.image_bytes < 0
    empty = (headers.image_bytes == 0) & (headers.flag != 2)
    checks = [
        ("magic", records.foreign, "holds a magic word at a multiple of 4 that its writer should have cut out"),
        ("magic", records.offsets % 4 != 0, "does not begin at a multiple of 4"),
        ("padding", _wrong_padding(data, records), "the bytes after its payload are not zero"),
        ("header", unfit, "is shorter than its image header says"),
        ("empty", empty, "holds no image, and its flag is not that of a header or identity record"),
    ]
    return [
        fault_at(kind, keys[row], records.offsets[row], problem)
        for kind, wrong, problem in checks
        for row in np.flatnonzero(wrong).tolist()
    ]


def _wrong_padding(data: np.ndarray, records: WholeRecords) -> np.ndarray:
    """Aligned single-part records whose bytes up to the multiple of 4 are not zeros, or are missing."""
    wrong = np.zeros(len(records.offsets), bool)
    words = data[: len(data) - len(data) % 4].view("<u4")
    for start in range(0, len(wrong), CHUNK):
        offsets, ends = records.offsets[start : start + CHUNK], records.ends[start : start + CHUNK]
        at = offsets // 4
        lrec = words[at + 1]
        single = (offsets % 4 == 0) & (lrec >> 29 == WHOLE)
        used = lrec % 4  # bytes of the last word, 0 for all; the flags are multiples of 4
        padding = words[np.minimum(ends // 4, len(words)) - 1] >> (8 * used)
        short = ends % 4 != 0  # the file stops before the padding
        wrong[start : start + CHUNK] = single & (short | ((used > 0) & (padding != 0)))
        release(data)
    return wrong


def label_faults(keys: np.ndarray, offsets: np.ndarray, headers: Headers, classes: int | None) -> list[Fault]:
    """Image records whose label is no class."""
    wrong = (headers.image_bytes > 0) & wrong_labels(headers.label, classes)
    return [
        fault_at("label", keys[row], offsets[row], describe_label(headers.label[row], classes))
        for row in np.flatnonzero(wrong).tolist()
    ]


def fault_at(kind: str, key: int | np.integer, offset: int | np.integer, problem: str) -> Fault:
    """A fault of a record; NO_KEY becomes None."""
    return Fault(kind, None if key == NO_KEY else int(key), int(offset), problem)
