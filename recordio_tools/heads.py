"""Flag, labels and size of many records at once, read from their heads alone."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from recordio_tools.recordio import IMAGE_HEAD, MAGIC, MAX_LENGTH, PART_HEAD, WHOLE, RecordError, decode, padded, unpack

CHUNK = 1 << 19
REPAIR = "; run: python -m recordio_tools verify FOLDER --repair OUT"


class Heads(NamedTuple):
    """Arrays with one entry per record."""

    flag: np.ndarray  # uint32: number of labels behind the header, 0 for a scalar label in it
    label: np.ndarray  # float32: the first label, which names the identity
    second: np.ndarray  # float32: the second label (the end of a range, the aligned mark), NaN where there is none
    image_bytes: np.ndarray  # int64: size of the encoded image, 0 in header and identity records
    ends: np.ndarray  # int64: byte where the record ends in the file, padding included
    multipart: np.ndarray  # bool


def read_heads(data: np.ndarray, keys: np.ndarray, offsets: np.ndarray, path: Path) -> Heads:
    """Heads of the records at `offsets` (int64[N], in any order) of `data` (uint8: the whole file).

    Raises RecordError for the first record, in file order, that is not whole or whose header does not fit it.
    """
    count = len(offsets)
    heads = Heads(
        *(np.empty(count, dtype) for dtype in ("u4", "f4", "f4", "i8", "i8", "?")),
    )
    order = np.argsort(offsets, kind="stable") if (np.diff(offsets) < 0).any() else None
    for part in _chunks(count):
        rows = part if order is None else order[part]
        for whole, piece in zip(heads, _read(data, keys[rows], offsets[rows], path), strict=True):
            whole[rows] = piece
    return heads


def _chunks(count: int) -> Iterator[slice]:
    with tqdm(total=count, desc="reading labels", unit="record", unit_scale=True, delay=2, leave=False) as bar:
        for start in range(0, count, CHUNK):
            stop = min(start + CHUNK, count)
            yield slice(start, stop)
            bar.update(stop - start)


def _read(data: np.ndarray, keys: np.ndarray, offsets: np.ndarray, path: Path) -> Heads:
    size = len(data)

    def refuse(wrong: np.ndarray, problem: str, kind: str) -> None:
        if wrong.any():
            first = int(np.argmax(wrong))
            raise RecordError(problem, path=path, key=int(keys[first]), offset=int(offsets[first]), kind=kind)

    rebuild = "; rebuild the index with: python -m recordio_tools index FOLDER"
    refuse(
        (offsets < 0) | (offsets > size - PART_HEAD.size), f"lies outside the file of {size} bytes{rebuild}", "index"
    )
    refuse(offsets % 4 != 0, f"is not a multiple of 4, so no record begins there{rebuild}", "index")
    words = data[: size - size % 4].view("<u4")
    last = len(words) - 1
    at = offsets // 4

    def word(place: int) -> np.ndarray:
        return words[np.minimum(at + place, last)]

    refuse(word(0) != MAGIC, f"no magic word there, the index does not match the file{rebuild}", "index")
    lrec = word(1)
    length = (lrec & MAX_LENGTH).astype(np.int64)
    refuse(offsets + PART_HEAD.size + length > size, f"runs past the end of the file: truncated{REPAIR}", "truncated")
    multipart = (lrec >> 29) != WHOLE
    flag = word(2).copy()
    label = np.where(flag > 0, word(8), word(3)).view("<f4")
    second = np.where(flag > 1, word(9).view("<f4"), np.float32(np.nan))
    ends = np.minimum(offsets + PART_HEAD.size + padded(length), size)
    image_bytes = length - IMAGE_HEAD.size - 4 * flag.astype(np.int64)
    for row in np.flatnonzero(multipart):
        place = {"path": path, "key": int(keys[row]), "offset": int(offsets[row])}
        payload, ends[row] = decode(data, place["offset"], path=path, key=place["key"])
        header, image = unpack(payload, **place)
        labels = header.label if header.flag else [header.label]
        flag[row], label[row], image_bytes[row] = header.flag, labels[0], len(image)
        second[row] = labels[1] if header.flag > 1 else np.nan
    refuse(image_bytes < 0, f"is shorter than its image header says{REPAIR}", "header")
    return Heads(flag, label, second, image_bytes, ends, multipart)
