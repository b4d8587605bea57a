"""Walks every byte of a RecordIO file, vectorised: the whole records in it and the gaps between them.

A writer never leaves the magic word at a multiple of 4 inside a part, so in a sound file the aligned magic words are
exactly the heads of the parts. All of them are found at once, and each part is held against where the next begins. What
does not fit is damage, and sound data goes on at the next head of a whole record. Inside damage, heads at other
alignments are looked for as well: bytes that were lost or put in shift all that follows.
"""

from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from recordio_tools.format.mapping import release
from recordio_tools.format.recordio import (
    FIRST,
    IMAGE_HEAD,
    LAST,
    MAGIC,
    MAGIC_BYTES,
    MAX_LENGTH,
    MIDDLE,
    PART_HEAD,
    WHOLE,
    padded,
)

CHUNK_WORDS = 8 << 20
SHORT_REGION = 1 << 20  # bytes: up to here it pays to look for magic words before walking at every alignment


class WholeRecords(NamedTuple):
    """Whole records in file order."""

    offsets: np.ndarray  # int64: first byte
    ends: np.ndarray  # int64: byte after the last, padding included
    foreign: np.ndarray  # bool: the payload holds an aligned magic word, as no conforming writer leaves it


class Gap(NamedTuple):
    """Bytes [offset, end) that belong to no whole record, and why."""

    offset: int
    end: int
    kind: str
    problem: str


def scan(data: np.ndarray) -> tuple[WholeRecords, list[Gap]]:
    """Find all whole records of `data` (uint8, one-dimensional) and what lies between them. Never raises."""
    records = _scan_aligned(data)
    if gaps := _gaps(records, len(data)):
        records = _add_shifted(data, records, gaps)
    return records, [Gap(start, end, *_diagnose(data, start, end)) for start, end in _gaps(records, len(data))]


def _scan_aligned(data: np.ndarray) -> WholeRecords:
    """Whole records whose offset is a multiple of 4 from the start of `data`."""
    size = len(data)
    words = data[: size - size % 4].view("<u4")
    at, lrec = _part_heads(words, data)
    offsets = at * 4
    flags = (lrec >> 29).astype(np.uint8)
    ends = offsets + PART_HEAD.size + (lrec & MAX_LENGTH).astype(np.int64)
    following = np.append(offsets[1:], size)
    fits = ends <= following
    first, last = _sequences(flags, fits, fits & (ends == following) & (ends % 4 == 0))
    if len(first) == len(offsets):
        return WholeRecords(offsets, np.minimum(padded(ends), size), np.zeros(len(offsets), bool))
    foreign = _unescaped(flags, offsets, ends, size, first)
    first = np.concatenate([first, foreign])
    stops = np.minimum(padded(ends[np.concatenate([last, foreign])]), size)
    order = np.argsort(first, kind="stable")
    is_foreign = np.arange(len(first)) >= len(last)
    return WholeRecords(offsets[first][order], stops[order], is_foreign[order])


def _part_heads(words: np.ndarray, data: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices (int64) of the magic words with a word behind them, and that word. `words` is a view of `data`."""
    found, following = [np.zeros(0, np.int64)], [np.zeros(0, np.uint32)]
    small = len(words) <= CHUNK_WORDS
    with tqdm(
        total=words.nbytes, desc="scanning", unit="B", unit_scale=True, delay=2, leave=False, disable=small
    ) as bar:
        for start in range(0, len(words) - 1, CHUNK_WORDS):
            part = words[start : min(start + CHUNK_WORDS, len(words) - 1)]
            found.append(np.flatnonzero(part == MAGIC) + start)
            following.append(words[found[-1] + 1])
            bar.update(part.nbytes)
            release(data)
    return np.concatenate(found), np.concatenate(following)


def _sequences(flags: np.ndarray, fits: np.ndarray, linked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the first and of the last part of every whole record.

    `fits`: the part ends before the next begins; `linked`: it ends, unpadded, exactly where the next begins.
    """
    whole = np.flatnonzero((flags == WHOLE) & fits)
    opening = np.flatnonzero(flags == FIRST)
    if len(opening) == 0:
        return whole, whole
    not_middle = np.flatnonzero(flags != MIDDLE)
    following = np.searchsorted(not_middle, opening, side="right")
    opening, following = opening[following < len(not_middle)], following[following < len(not_middle)]
    closing = not_middle[following]
    loose = np.concatenate([[0], np.cumsum(~linked)])  # loose[i]: parts before i that are not linked
    joined = (flags[closing] == LAST) & fits[closing] & (loose[closing] == loose[opening])
    first, last = np.concatenate([whole, opening[joined]]), np.concatenate([whole, closing[joined]])
    order = np.argsort(first, kind="stable")
    return first[order], last[order]


def _unescaped(flags: np.ndarray, offsets: np.ndarray, ends: np.ndarray, size: int, first: np.ndarray) -> np.ndarray:
    """Whole parts that run over magic words, hold no whole record and end at a head or the end of the file.

    Such a record was written without cutting it at the magic word. `first` are the records already found.
    """
    count = len(offsets)
    stops = padded(ends)
    place = np.searchsorted(offsets, stops)
    lands = (stops >= size) | (offsets[np.minimum(place, count - 1)] == stops) if count else np.zeros(0, bool)
    long = np.flatnonzero((flags == WHOLE) & (place > np.arange(count) + 1) & (ends <= size) & lands)
    inside = np.searchsorted(first, place[long]) - np.searchsorted(first, long, side="right")
    accepted, reached = [], 0
    for part in long[inside == 0].tolist():
        if offsets[part] >= reached:
            accepted.append(part)
            reached = stops[part]
    return np.array(accepted, np.int64)


def _gaps(records: WholeRecords, size: int) -> list[tuple[int, int]]:
    starts, stops = np.append(0, records.ends), np.append(records.offsets, size)
    wide = stops > starts
    return list(zip(starts[wide].tolist(), stops[wide].tolist(), strict=True))


def _add_shifted(data: np.ndarray, records: WholeRecords, gaps: list[tuple[int, int]]) -> WholeRecords:
    """Add records at other alignments inside the gaps.

    A record that a gap follows may owe its last bytes to the next, lost bytes having pulled that one in; it gives way
    when shifted records reach across its end.
    """
    found, dropped = [], []
    for start, end in gaps:
        before = int(np.searchsorted(records.ends, start))
        loose = before < len(records.ends) and records.ends[before] == start
        region = int(records.offsets[before]) + 1 if loose else start
        shifted = _shifted(data, region, start, end)
        if shifted and loose and min(shifted)[0] < start:
            dropped.append(before)
        found += shifted
    if not found:
        return records
    keep = np.ones(len(records.ends), bool)
    keep[dropped] = False
    offsets, ends = np.array(found, np.int64).T
    offsets = np.concatenate([records.offsets[keep], offsets])
    order = np.argsort(offsets, kind="stable")
    ends = np.concatenate([records.ends[keep], ends])[order]
    foreign = np.concatenate([records.foreign[keep], np.zeros(len(found), bool)])[order]
    return WholeRecords(offsets[order], ends, foreign)


def _shifted(data: np.ndarray, region: int, gap: int, end: int) -> list[tuple[int, int]]:
    """Unaligned records in [region, end) whose chain reaches past `gap`: each touches a neighbour, or the end.

    At any alignment a payload may hold the magic word by chance, so a record must be long enough for an image header.
    """
    chains = []
    for begin in _alignments(data, region, end):
        part = _scan_aligned(data[begin:end])
        fit = part.ends - part.offsets >= PART_HEAD.size + IMAGE_HEAD.size
        offsets, ends = part.offsets[fit] + begin, part.ends[fit] + begin
        touches = np.append(ends[:-1] == offsets[1:], ends[-1:] == end)
        breaks = np.flatnonzero(~touches[:-1]) + 1  # a chain is a run of records that follow each other exactly
        edges = np.concatenate([[0], breaks, [len(touches)]]) if len(touches) else breaks
        for first, stop in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
            if ends[stop - 1] > gap and (stop - first > 1 or touches[first]):
                chains.append(list(zip(offsets[first:stop].tolist(), ends[first:stop].tolist(), strict=True)))
    taken: list[tuple[int, int]] = []
    for chain in sorted(chains):
        if not taken or chain[0][0] >= taken[-1][1]:
            taken += chain
    return taken


def _alignments(data: np.ndarray, region: int, end: int) -> list[int]:
    """The first bytes of [region, end) at each alignment but 0, without those at which no magic word stands."""
    begins = [begin for begin in range(region, min(region + 4, end)) if begin % 4]
    if end - region > SHORT_REGION:
        return begins
    content = data[region:end].tobytes()
    found, at = set(), content.find(MAGIC_BYTES)
    while at >= 0 and len(found) < 4:
        found.add((region + at) % 4)
        at = content.find(MAGIC_BYTES, at + 1)
    return [begin for begin in begins if begin % 4 in found]


def _diagnose(data: np.ndarray, start: int, end: int) -> tuple[str, str]:
    """Kind and description of what is wrong at the start of a gap."""
    extent = f"{end - start} bytes belong to no whole record: "
    if end - start < PART_HEAD.size:
        return "truncated", extent + "too few for one"
    magic, lrec = PART_HEAD.unpack_from(data.data, start)
    flag, length = lrec >> 29, lrec & MAX_LENGTH
    if magic != MAGIC:
        return "magic", extent + f"0x{magic:08x} where a magic word must be"
    if flag not in (WHOLE, FIRST):
        return "part", extent + f"part flag {flag} where a record must begin"
    if start + PART_HEAD.size + length > len(data):
        kind = "truncated" if end == len(data) else "length"
        return kind, extent + f"claims {length} bytes where {len(data) - start - PART_HEAD.size} are left"
    if flag == WHOLE:
        return "length", extent + f"claims {length} bytes, which run into the next record"
    return "part", extent + "its sequence of parts is not whole"
