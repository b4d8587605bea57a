"""Rebuilds a lost index from the `.rec` alone, and writes the index of images only that other readers need."""

from pathlib import Path

import numpy as np

from recordio_tools.atomic import output_file
from recordio_tools.dataset import RecordDataset, find_rec
from recordio_tools.heads import heads_of
from recordio_tools.index import format_index
from recordio_tools.mapping import map_file
from recordio_tools.recordio import IMAGE_HEAD, RecordError, decode
from recordio_tools.scan import scan


def rebuild_index(source: Path) -> tuple[np.ndarray, np.ndarray, int]:
    """Keys and offsets (int64) of all whole records of a `.rec`, in the order of the file, and the bytes that are none.

    With a header record: it has key 0, images get the ids in their headers where these are exactly 1..N, else 1..N in
    the order of the file, and identity records N+1..N+K in that order. Without one: the ids where no two are alike,
    else 0..N-1. Raises RecordError when no record is whole.
    """
    rec_path = find_rec(source)
    data = map_file(rec_path)
    records, gaps = scan(data)
    offsets = records.offsets[records.offsets % 4 == 0]
    if len(offsets) == 0:
        raise RecordError("holds no whole record", path=rec_path, kind="empty")
    heads = heads_of(data, offsets)
    is_range = (heads.image_bytes == 0) & (heads.flag == 2)
    images, ranges = np.flatnonzero(~is_range), np.flatnonzero(is_range)
    ids = _ids(data, offsets, heads.image_bytes >= 0)
    keys = np.empty(len(offsets), np.int64)
    count = len(images)
    if len(ranges) == 0:
        distinct = len(np.unique(ids)) == count and (ids >= 0).all()
        keys[images] = ids if distinct else np.arange(count)
    else:
        header = _header_row(heads.label, heads.second, ranges, count)
        ordered = np.array_equal(np.sort(ids[images]), np.arange(1, count + 1))
        keys[images] = ids[images] if ordered else np.arange(1, count + 1)
        identities = ranges[ranges != header]
        keys[identities] = count + 1 + np.arange(len(identities))
        if header is not None:
            keys[header] = 0
    return keys, offsets, sum(gap.end - gap.offset for gap in gaps)


def _ids(data: np.ndarray, offsets: np.ndarray, fits: np.ndarray) -> np.ndarray:
    """The id in each record's image header (int64), -1 where there is none or it is too large for a key."""
    ids = np.full(len(offsets), -1, np.int64)
    words = data[: len(data) - len(data) % 4].view("<u4")
    at = offsets // 4
    whole = fits & (words[at + 1] >> 29 == 0)
    low, high = words[at[whole] + 4].astype(np.int64), words[at[whole] + 5].astype(np.int64)
    ids[whole] = np.where(high < 2**24, high << 32 | low, -1)
    for row in np.flatnonzero(fits & ~whole).tolist():
        identifier = IMAGE_HEAD.unpack_from(decode(data, int(offsets[row]))[0])[2]
        ids[row] = identifier if identifier < 2**56 else -1
    return ids


def _header_row(label: np.ndarray, second: np.ndarray, ranges: np.ndarray, images: int) -> int | None:
    """The header among the range records: the one whose labels are (N+1, N+1+K), as float32 holds them."""
    expected = np.float32(images + 1), np.float32(images + len(ranges))
    found = ranges[(label[ranges] == expected[0]) & (second[ranges] == expected[1])]
    if len(found):
        return int(found[0])
    unclaimed = ranges[(label[ranges] == 0) & (second[ranges] == 0)]
    return int(unclaimed[0]) if len(unclaimed) else None


def write_index(source: Path, out: Path | None = None, *, images_only: bool = False, force: bool = False) -> dict:
    """Write the index of a set: rebuilt from the `.rec`, to the `.idx` beside it, or with `images_only` a second one.

    The latter, `<name>.images.idx`, names the image records alone, so that a reader that takes every record for an
    image (DALI's) can be given it. It goes by the index at hand. Returns the path, the records named, and the bytes
    that belong to no whole record. Raises RecordError.
    """
    rec_path = find_rec(source)
    lost = 0
    if images_only:
        dataset = RecordDataset(source)
        keys, offsets = dataset.keys, dataset.offsets
        out = out or rec_path.with_suffix(".images.idx")
    else:
        keys, offsets, lost = rebuild_index(source)
        out = out or rec_path.with_suffix(".idx")
    with output_file(out, force=force) as partial:
        partial.write_bytes(format_index(keys, offsets))
    return {"path": str(out), "records": len(keys), "lost_bytes": lost}
