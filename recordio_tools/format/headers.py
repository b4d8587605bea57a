"""Flag, labels and size of many records at once, from their first words: parts, image header and two labels."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from recordio_tools.format.mapping import release
from recordio_tools.format.recordio import IMAGE_HEAD, MAGIC, MAX_LENGTH, PART_HEAD, WHOLE, RecordError, decode, padded

CHUNK = 1 << 16
HEAD_WORDS = 10  # magic, lrec, image header (6), two labels
REPAIR = "; run: python -m recordio_tools verify FOLDER --repair OUT"
REBUILD = "; rebuild the index with: python -m recordio_tools index FOLDER"


class Headers(NamedTuple):
    """What the image headers of many records say, and their sizes: arrays with one entry per record."""

    flag: np.ndarray  # uint32: number of labels behind the header, 0 for a scalar label in it
    label: np.ndarray  # float32: the first label, which names the identity
    second: np.ndarray  # float32: the second label (the end of a range, the aligned mark), NaN where there is none
    image_bytes: np.ndarray  # int64: size of the encoded image, 0 in header and identity records
    ends: np.ndarray  # int64: byte where the record ends in the file, padding included
    multipart: np.ndarray  # bool

    def pick(self, rows: np.ndarray | slice) -> "Headers":
        """Those of the records at `rows`."""
        return Headers(*(column[rows] for column in self))


def read_headers(data: np.ndarray, keys: np.ndarray, offsets: np.ndarray, path: Path) -> Headers:
    """Headers of the records that an index places at `offsets` (int64[N], in any order) of `data` (uint8: the file).

    Raises RecordError for the first record, in file order, that is not whole or whose header does not fit it.
    """
    return _in_chunks(data, offsets, lambda rows: _read(data, keys[rows], offsets[rows], path))


def headers_of(data: np.ndarray, offsets: np.ndarray) -> Headers:
    """Headers of records that are known to be whole, at any alignment.

    Where a payload is shorter than its image header says, `image_bytes` is negative and the other figures mean nothing.
    """
    return _in_chunks(data, offsets, lambda rows: _headers_of(data, offsets[rows], _first_words(data, offsets[rows])))


def _in_chunks(data: np.ndarray, offsets: np.ndarray, read: Callable[[slice | np.ndarray], Headers]) -> Headers:
    """`read` of a bounded number of rows at a time, in file order."""
    count = len(offsets)
    headers = Headers(*(np.empty(count, dtype) for dtype in ("u4", "f4", "f4", "i8", "i8", "?")))
    order = np.argsort(offsets, kind="stable") if (np.diff(offsets) < 0).any() else None
    small = count <= CHUNK
    with tqdm(total=count, desc="labels", unit="record", unit_scale=True, delay=2, leave=False, disable=small) as bar:
        for start in range(0, count, CHUNK):
            part = slice(start, min(start + CHUNK, count))
            rows = part if order is None else order[part]
            for whole, column in zip(headers, read(rows), strict=True):
                whole[rows] = column
            bar.update(part.stop - start)
            release(data)
    return headers


def _read(data: np.ndarray, keys: np.ndarray, offsets: np.ndarray, path: Path) -> Headers:
    size = len(data)

    def refuse(wrong: np.ndarray, problem: str, kind: str) -> None:
        if wrong.any():
            first = int(np.argmax(wrong))
            raise RecordError(problem, path=path, key=int(keys[first]), offset=int(offsets[first]), kind=kind)

    outside = (offsets < 0) | (offsets > size - PART_HEAD.size)
    refuse(outside, f"lies outside the file of {size} bytes{REBUILD}", "index")
    refuse(offsets % 4 != 0, f"is not a multiple of 4, so no record begins there{REBUILD}", "index")
    block = _first_words(data, offsets)
    lrec = block[:, 1]
    refuse(block[:, 0] != MAGIC, f"no magic word there, the index does not match the file{REBUILD}", "index")
    ends = offsets + PART_HEAD.size + (lrec & MAX_LENGTH)
    refuse(ends > size, f"runs past the end of the file: truncated{REPAIR}", "truncated")
    for row in _first_at_each(offsets, lrec >> 29 != WHOLE).values():
        decode(data, int(offsets[row]), path=path, key=int(keys[row]))
    headers = _headers_of(data, offsets, block)
    refuse(headers.image_bytes < 0, f"is shorter than its image header says{REPAIR}", "header")
    return headers


def _headers_of(data: np.ndarray, offsets: np.ndarray, block: np.ndarray) -> Headers:
    """Headers of whole records from their first words."""
    lrec, flag = block[:, 1], block[:, 2].copy()
    length = (lrec & MAX_LENGTH).astype(np.int64)
    label = np.where(flag > 0, block[:, 8], block[:, 3]).view("<f4")
    second = np.where(flag > 1, block[:, 9].copy().view("<f4"), np.float32(np.nan))
    ends = np.minimum(offsets + PART_HEAD.size + padded(length), len(data))
    multipart = lrec >> 29 != WHOLE
    image_bytes = length - IMAGE_HEAD.size - 4 * np.where(length < IMAGE_HEAD.size, 0, flag).astype(np.int64)
    headers = Headers(flag, label, second, image_bytes, ends, multipart)
    slow = multipart | (offsets % 4 != 0)
    first = _first_at_each(offsets, slow)
    for row in first.values():
        _set_slowly(headers, row, data, int(offsets[row]))
    for row in np.flatnonzero(slow).tolist():
        for column in headers:
            column[row] = column[first[int(offsets[row])]]
    return headers


def _first_at_each(offsets: np.ndarray, wanted: np.ndarray) -> dict[int, int]:
    """Offset -> first row, of the wanted rows: an index may name one long record a million times."""
    first: dict[int, int] = {}
    for row in np.flatnonzero(wanted).tolist():
        first.setdefault(int(offsets[row]), row)
    return first


def _first_words(data: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """uint32[n, HEAD_WORDS]: the words from each aligned offset on, zeros behind the end of the file."""
    words = data[: len(data) - len(data) % 4].view("<u4")
    at = offsets // 4
    if int(at.max(initial=0)) <= len(words) - HEAD_WORDS:
        return np.lib.stride_tricks.sliding_window_view(words, HEAD_WORDS)[at]
    places = at[:, None] + np.arange(HEAD_WORDS)
    return np.where(places < len(words), words[np.minimum(places, len(words) - 1)], np.uint32(0))


def _set_slowly(headers: Headers, row: int, data: np.ndarray, offset: int) -> None:
    """Fill in one record that cannot be read word by word: it lies in several parts, or is not aligned."""
    payload, headers.ends[row] = decode(data, offset)
    headers.multipart[row] = data[offset + 7] >> 5 != WHOLE
    if len(payload) < IMAGE_HEAD.size:
        headers.image_bytes[row] = len(payload) - IMAGE_HEAD.size
        return
    flag, label, _, _ = IMAGE_HEAD.unpack_from(payload.data)
    labels = np.frombuffer(payload[IMAGE_HEAD.size :][: 4 * min(flag, 2)].tobytes().ljust(8, b"\0"), "<f4")
    headers.flag[row], headers.label[row] = flag, labels[0] if flag else label
    headers.second[row] = labels[1] if flag > 1 else np.nan
    headers.image_bytes[row] = len(payload) - IMAGE_HEAD.size - 4 * flag
