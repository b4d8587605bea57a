"""Rebuilds a lost index from the `.rec` alone, and writes the index of images only that other readers need."""

from pathlib import Path

import numpy as np

from recordio_tools.atomic import check_writable, output_file
from recordio_tools.check.ranges import EXACT
from recordio_tools.dataset import RecordDataset, find_rec
from recordio_tools.format.headers import headers_of
from recordio_tools.format.index import format_index
from recordio_tools.format.mapping import map_file
from recordio_tools.format.recordio import IMAGE_HEAD, RecordError, decode
from recordio_tools.format.scan import scan


def rebuild_index(source: Path) -> tuple[np.ndarray, np.ndarray, int]:
    """Keys and offsets (int64) of the whole records of a `.rec`, in file order, and how many bytes belong to none.

    With a header record: it has key 0 and says how many images there were, N. Images get the ids in their headers where
    these are distinct and within 1..N, else 1.. in the order of the file; identity records get N+1.. in that order.
    Without one: the ids where no two are alike, else 0.. in the order of the file. Raises RecordError when no record is
    whole.
    """
    rec_path = find_rec(source)
    data = map_file(rec_path)
    records, gaps = scan(data)
    offsets = records.offsets[records.offsets % 4 == 0]
    if len(offsets) == 0:
        raise RecordError("holds no whole record", path=rec_path, kind="empty")
    headers = headers_of(data, offsets)
    is_range = (headers.image_bytes == 0) & (headers.flag == 2)
    images, ranges = np.flatnonzero(~is_range), np.flatnonzero(is_range)
    ids = _ids(data, offsets, headers.image_bytes >= 0)
    keys = np.empty(len(offsets), np.int64)
    if len(ranges) == 0:
        keys[images] = _distinct(ids, 0, np.iinfo(np.int64).max)
    else:
        header = _header_row(headers.label, headers.second, ranges, len(images))
        claimed = len(images) if header is None else max(len(images), int(headers.label[header]) - 1)
        if header is not None and headers.label[header] == np.float32(len(images) + 1):
            claimed = len(images)  # also where float32 has rounded it
        keys[images] = _distinct(ids[images], 1, claimed)
        identities = ranges[ranges != header]
        keys[identities] = claimed + 1 + np.arange(len(identities))
        keys[ranges[ranges == header]] = 0
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
        identifier = IMAGE_HEAD.unpack_from(decode(data, int(offsets[row]))[0].data)[2]
        ids[row] = identifier if identifier < 2**56 else -1
    return ids


def _distinct(ids: np.ndarray, first: int, last: int) -> np.ndarray:
    """The ids, when they can serve as keys: distinct and within first..last; else first, first + 1, …"""
    fit = len(np.unique(ids)) == len(ids) and ids.min(initial=first) >= first and ids.max(initial=first) <= last
    return ids if fit else np.arange(first, first + len(ids))


def _header_row(label: np.ndarray, second: np.ndarray, ranges: np.ndarray, images: int) -> int | None:
    """The header among the range records: its labels are (N+1, N+1+K), for K others, and N is no less than `images`."""
    with np.errstate(invalid="ignore"):  # signalling NaN
        start, end = label[ranges].astype(float), second[ranges].astype(float)
    exact = (start == np.float32(images + 1)) & (end == np.float32(images + len(ranges)))
    after_loss = (end - start == len(ranges) - 1) & (start > images) & (end < EXACT)
    unclaimed = (start == 0) & (end == 0)
    for fits in (exact, after_loss, unclaimed):
        if fits.any():
            return int(ranges[np.argmax(fits)])
    return None


def write_index(source: Path, out: Path | None = None, *, images_only: bool = False, force: bool = False) -> dict:
    """Write the index of a set: rebuilt from the `.rec`, to the `.idx` beside it, or with `images_only` a second one.

    That, `<name>.images.idx`, names the image records alone, for readers that take every record for an image (DALI's);
    it is made from the index that is there. Returns the path, the number of records named, and the bytes that belong to
    no whole record. Raises RecordError, and UserError where the index exists and `force` is not set.
    """
    rec_path = find_rec(source)
    out = out or rec_path.with_suffix(".images.idx" if images_only else ".idx")
    check_writable(out, force=force, folder=False)
    lost = 0
    if images_only:
        dataset = RecordDataset(source)
        keys, offsets = dataset.keys, dataset.offsets
    else:
        keys, offsets, lost = rebuild_index(source)
    with output_file(out, force=force) as partial:
        partial.write_bytes(format_index(keys, offsets))
    return {"path": str(out), "records": len(keys), "lost_bytes": lost}
