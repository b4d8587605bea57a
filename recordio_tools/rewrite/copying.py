"""Image records from set to set as bytes: the encoded image stays as it is, label and id in the header change."""

import os
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from tqdm import tqdm

from recordio_tools.format.image_records import ImageRecords
from recordio_tools.format.mapping import release, sliceable
from recordio_tools.format.recordio import MAX_LENGTH, PART_HEAD, encode, pack, padded
from recordio_tools.writer import DatasetWriter

CHUNK_BYTES = 16 << 20
MOST_SLICES = 1000  # handed over at once; systems take 1024
SHORT_RUN = 256  # bytes: under this, gathering words beats copying slices
_PADDING = np.array(
    [0xFFFFFFFF, 0xFF, 0xFFFF, 0xFFFFFF], "<u4"
)  # what a payload uses of its last word, by length modulo 4


def copy_images(source: ImageRecords, rows: np.ndarray, labels: np.ndarray, writer: DatasetWriter) -> None:
    """Append the images at `rows` of `source` (int64[n]), in that order, as identities `labels` (int64[n]).

    Further labels (aligned mark, boxes) stay as they are; the id becomes the image's place in the new set.
    """
    sizes = padded(source.ends[rows] - source.offsets[rows])
    with tqdm(total=int(sizes.sum()), desc="copying", unit="B", unit_scale=True, delay=2, leave=False) as bar:
        for part in portions(sizes):
            anew = source.headers.multipart[rows[part]] | (source.offsets[rows[part]] % 4 != 0)
            edges = np.flatnonzero(np.diff(anew, prepend=not anew[0], append=not anew[-1]))
            for start, stop in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
                copy = _write_anew if anew[start] else _copy_whole
                run = slice(part.start + start, part.start + stop)
                copy(source, rows[run], labels[run], writer)
            bar.update(int(sizes[part].sum()))
            release(source.data)


def portions(sizes: np.ndarray) -> Iterator[slice]:
    """Consecutive slices of records of `sizes` bytes (int64[n]): of at most CHUNK_BYTES in all, or of one record."""
    total, start = np.cumsum(sizes), 0
    while start < len(sizes):
        done = total[start - 1] if start else 0
        stop = max(int(np.searchsorted(total, done + CHUNK_BYTES, side="right")), start + 1)
        yield slice(start, stop)
        start = stop


def _copy_whole(source: ImageRecords, rows: np.ndarray, labels: np.ndarray, writer: DatasetWriter) -> None:
    buffer, starts = gather(source.data, source.offsets[rows], source.ends[rows])
    words, at = buffer.view("<u4"), starts // 4
    label_at = at + np.where(source.headers.flag[rows] > 0, 8, 3)
    words[label_at] = labels.astype("<f4").view("<u4")
    words[at + 4] = writer.num_images + 1 + np.arange(len(rows))
    words[at + 5] = 0
    length = words[at + 1] & MAX_LENGTH
    last = at + PART_HEAD.size // 4 + padded(length) // 4 - 1
    words[last] &= _PADDING[length % 4]  # a damaged source may hold anything in the padding
    writer.add_framed(writer.rec_writer.write_framed(buffer.data) + starts, labels)


def _write_anew(source: ImageRecords, rows: np.ndarray, labels: np.ndarray, writer: DatasetWriter) -> None:
    for row, label in zip(rows.tolist(), labels.tolist(), strict=True):
        header, image = source.record(row)
        named = [label, *header.labels[1:]] if header.flag else label
        record = encode(pack(header._replace(label=named, id=writer.num_images + 1), image.tobytes()))
        writer.add_framed(np.array([writer.rec_writer.write_framed(record)]), np.array([label]))


def gather(data: np.ndarray, offsets: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Byte ranges of a file one after the other, each padded with zeros to a multiple of 4, and where each starts.

    Args:
        data: uint8, the file.
        offsets, ends: int64[n], the ranges [offset, end).

    Returns:
        uint8, the bytes, and int64[n], the starts in them.

    Neighbours in the file are copied in one piece; short scattered ranges are gathered word by word, vectorised.
    """
    sizes = padded(ends - offsets)
    starts = np.cumsum(sizes) - sizes
    total = int(sizes.sum())
    fresh = np.concatenate([[True], offsets[1:] != ends[:-1]])
    run_offsets, run_starts = offsets[fresh], starts[fresh]
    run_sizes = np.diff(run_starts, append=total)
    run_ends = run_offsets + run_sizes
    complete = len(data) - len(data) % 4
    if len(run_sizes) * SHORT_RUN > total and int(run_ends.max()) <= complete:
        counts = run_sizes // 4
        first = run_offsets // 4 - (np.cumsum(counts) - counts)
        places = np.repeat(first, counts) + np.arange(total // 4)
        return np.take(data[:complete].view("<u4"), places).view(np.uint8), starts
    whole = sliceable(data)
    pieces = [whole[start:end] for start, end in zip(run_offsets.tolist(), run_ends.tolist(), strict=True)]
    for cut in np.flatnonzero(run_ends > len(data)).tolist():
        pieces[cut] = bytes(pieces[cut]).ljust(int(run_sizes[cut]), b"\0")
    return np.frombuffer(bytearray().join(pieces), np.uint8), starts


def write_slices(file: BinaryIO, data: np.ndarray, offsets: np.ndarray, sizes: np.ndarray) -> None:
    """Append the byte ranges [offset, offset + size) of `data` to a file, straight from the memory map.

    Args:
        file: open for writing.
        data: uint8, the source.
        offsets, sizes: int64[n]; sizes are multiples of 4, and what lies behind the end of `data` is written as zeros.
    """
    whole, size = data.data, len(data)
    file.flush()
    for start in range(0, len(offsets), MOST_SLICES):
        part = slice(start, start + MOST_SLICES)
        ends = (offsets[part] + sizes[part]).tolist()
        pieces: list[memoryview | bytes] = [
            whole[begin:end] for begin, end in zip(offsets[part].tolist(), ends, strict=True)
        ]
        for place in [place for place, end in enumerate(ends) if end > size]:
            pieces[place] = bytes(pieces[place]).ljust(int(sizes[start + place]), b"\0")
        written = os.writev(file.fileno(), pieces) if hasattr(os, "writev") else 0
        if written < sum(map(len, pieces)):
            file.write(b"".join(pieces)[written:])
            file.flush()
