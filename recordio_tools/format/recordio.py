"""The MXNet RecordIO byte format: writer and reader face to face.

A record is `u32 magic | u32 lrec | payload | zeros up to a multiple of 4`, little-endian, where `lrec` holds the part
flag in its 3 upper bits and the part's length in the 29 lower. Flag 0 is a whole record; 1, 2 and 3 are the first, a
middle and the last part of one. The writer cuts a payload wherever the magic word stands at a multiple of 4 and drops
that word; the reader puts it back between parts. So an aligned magic word in a file always begins a part, and a reader
can find its feet again after damage: it looks for the next aligned magic word with flag 0 or 1.

An image record's payload begins with an `IRHeader` (24 bytes: `u32 flag, f32 label, u64 id, u64 id2`). `flag > 0`
means that `flag` float32 labels follow and `label` is 0; the encoded image is the rest.
"""

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from recordio_tools.errors import UserError

MAGIC = 0xCED7230A
MAGIC_BYTES = struct.pack("<I", MAGIC)
MAX_LENGTH = 2**29 - 1
WHOLE, FIRST, MIDDLE, LAST = range(4)
PART_HEAD = struct.Struct("<II")
IMAGE_HEAD = struct.Struct("<IfQQ")


class RecordError(UserError):
    """What is wrong with a record, an index or a set, in one line.

    Attributes: `path` of the file, record `key` and byte `offset` where they are known (else None), and `kind`, one
    word for programs: magic, length, truncated, part, padding, header, label, index, property, names, empty, missing.
    """

    def __init__(
        self,
        problem: str,
        *,
        path: Path | str | None = None,
        key: int | None = None,
        offset: int | None = None,
        kind: str = "record",
    ):
        record = [] if key is None else [f"record key {key}"]
        record += [] if offset is None else [f"byte {offset}"]
        places = [str(path)] if path is not None else []
        places += [" at ".join(record)] if record else []
        super().__init__(": ".join([*places, problem]))
        self.path, self.key, self.offset, self.kind = path, key, offset, kind


def padded(length):
    """Bytes that a payload of `length` takes up in the file: the next multiple of 4. Works on arrays."""
    return (length + 3) // 4 * 4


def encode(payload: bytes) -> bytes:
    """Frame a payload as one record, byte for byte as dmlc's `RecordIOWriter` does.

    Raises RecordError when the payload is 2^29 bytes or longer.
    """
    if len(payload) > MAX_LENGTH:
        raise RecordError(f"a record holds at most {MAX_LENGTH} bytes, this one has {len(payload)}", kind="length")
    cuts = _aligned_magics(payload)
    starts, ends = [0, *(cut + 4 for cut in cuts)], [*cuts, len(payload)]
    pieces = []
    for number, (start, end) in enumerate(zip(starts, ends, strict=True)):
        if not cuts:
            flag = WHOLE
        elif number == 0:
            flag = FIRST
        else:
            flag = LAST if number == len(cuts) else MIDDLE
        pieces += [PART_HEAD.pack(MAGIC, flag << 29 | end - start), payload[start:end]]
    pieces.append(bytes(-len(payload) % 4))
    return b"".join(pieces)


def _aligned_magics(payload: bytes) -> list[int]:
    found, at = [], payload.find(MAGIC_BYTES)
    while at >= 0:
        if at % 4 == 0:
            found.append(at)
        at = payload.find(MAGIC_BYTES, at + 1)
    return found


def decode(
    data: np.ndarray, offset: int, *, path: Path | str | None = None, key: int | None = None
) -> tuple[np.ndarray, int]:
    """Read the record that begins at `offset` of `data` (uint8, one-dimensional; usually a memory map).

    Returns its payload (uint8: a view of `data` when the record has one part, a copy otherwise) and the offset of its
    end, padding included (the file may stop short of the padding). Nothing is allocated before the bytes are known to
    be there.

    Raises RecordError: no magic word, a part that runs past the end, or parts out of order.
    """
    start, end, flag = _part(data, offset, path, key)
    if flag == WHOLE:
        return data[start:end], min(start + padded(end - start), len(data))
    if flag != FIRST:
        raise RecordError(
            f"begins with part flag {flag}, expected 0 or 1", path=path, key=key, offset=offset, kind="part"
        )
    parts = [data[start:end]]
    while flag != LAST:
        _refuse_inner_magic(data, start, end, path, key)
        start, end, flag = _part(data, end, path, key)
        if flag not in (MIDDLE, LAST):
            problem = f"part flag {flag} where a middle or last part must follow"
            raise RecordError(problem, path=path, key=key, offset=start - 8, kind="part")
        parts += [np.frombuffer(MAGIC_BYTES, np.uint8), data[start:end]]
    return np.concatenate(parts), min(start + padded(end - start), len(data))


def _part(data: np.ndarray, offset: int, path, key) -> tuple[int, int, int]:
    """Bounds of one part's payload, and its flag."""
    if not 0 <= offset <= len(data) - PART_HEAD.size:
        problem = f"needs {PART_HEAD.size} bytes there, the file has {len(data)}"
        raise RecordError(problem, path=path, key=key, offset=offset, kind="truncated")
    magic, lrec = PART_HEAD.unpack_from(data.data, offset)
    if magic != MAGIC:
        problem = f"found 0x{magic:08x} where a record's magic word 0x{MAGIC:08x} must be"
        raise RecordError(problem, path=path, key=key, offset=offset, kind="magic")
    start = offset + PART_HEAD.size
    end = start + (lrec & MAX_LENGTH)
    if end > len(data):
        problem = f"claims {end - start} bytes, the file has {len(data) - start} more"
        raise RecordError(problem, path=path, key=key, offset=offset, kind="truncated")
    return start, end, lrec >> 29


def _refuse_inner_magic(data: np.ndarray, start: int, end: int, path, key) -> None:
    """Parts of one record never overlap another's: without this, crafted lengths could make reading quadratic."""
    if (end - start) % 4 or (data[start:end].view("<u4") == MAGIC).any():
        problem = "a part that is not the last is unaligned or holds a magic word"
        raise RecordError(problem, path=path, key=key, offset=start - PART_HEAD.size, kind="part")


class RecordWriter:
    """Appends records to a binary file that the caller opens and closes."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self.offset = file.tell()

    def write(self, payload: bytes) -> int:
        """Append one record; returns the byte offset where it begins."""
        return self.write_framed(encode(payload))

    def write_framed(self, framed: bytes | memoryview) -> int:
        """Append records that are framed already, as they are; returns the byte offset where they begin."""
        begin = self.offset
        self._file.write(framed)
        self.offset += len(framed)
        return begin


Label = float | np.number | Sequence[float] | np.ndarray  # one label, or several, of which the first is the identity


class IRHeader(NamedTuple):
    """The header of an image record. `label` is a number, or the float32 labels when `flag` counts them."""

    flag: int
    label: Label
    id: int
    id2: int = 0

    @property
    def labels(self) -> list[float]:
        """All labels, also where there is only one."""
        return np.atleast_1d(self.label).tolist()


def pack(header: IRHeader, image: bytes = b"") -> bytes:
    """The payload of an image record, byte for byte as `mxnet.recordio.pack`: an array of labels sets `flag`."""
    if isinstance(header.label, float | int | np.number):
        return IMAGE_HEAD.pack(0, header.label, header.id, header.id2) + image
    labels = np.asarray(header.label, "<f4")
    return IMAGE_HEAD.pack(labels.size, 0, header.id, header.id2) + labels.tobytes() + image


def unpack(
    payload: np.ndarray, *, path: Path | str | None = None, key: int | None = None, offset: int | None = None
) -> tuple[IRHeader, np.ndarray]:
    """Split an image record's payload (uint8) into its header and a view of the encoded image.

    Raises RecordError when the payload is shorter than the header says. `path`, `key` and `offset` go into the error.
    """
    size = len(payload)
    whole = size >= IMAGE_HEAD.size
    flag, label, identifier, identifier2 = IMAGE_HEAD.unpack_from(payload.data) if whole else (0, 0, 0, 0)
    need = IMAGE_HEAD.size + 4 * flag
    if size < need:
        problem = f"holds {size} bytes, its image header needs {need}"
        raise RecordError(problem, path=path, key=key, offset=offset, kind="header")
    if flag:
        label = np.frombuffer(payload[IMAGE_HEAD.size : need].tobytes(), "<f4")
    return IRHeader(flag, label, identifier, identifier2), payload[need:]
