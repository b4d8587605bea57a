"""The vectorised walk against a plain one, and what it finds in damaged files."""

import struct

import numpy as np
import pytest
import sets
from hypothesis import given, settings
from hypothesis import strategies as st

from recordio_tools.format.scan import scan


def plain_scan(data: bytes) -> list[tuple[int, int, bool]]:
    """(offset, end, foreign) of the aligned whole records, from the definition: one head at a time."""
    size = len(data)
    headers = [at for at in range(0, size - 7, 4) if data[at : at + 4] == sets.MAGIC]

    def part(at: int) -> tuple[int, int]:
        lrec = struct.unpack_from("<I", data, at + 4)[0]
        return lrec >> 29, at + 8 + (lrec & 2**29 - 1)

    def inner(at: int, end: int) -> list[int]:
        return [head for head in headers if at < head < end]

    def record(at: int) -> int | None:
        flag, end = part(at)
        if flag not in (0, 1):
            return None
        while end <= size and not inner(at, end):
            if flag in (0, 3):
                return min(end + -end % 4, size)
            if end % 4 or end not in headers:
                return None
            at = end
            flag, end = part(at)
            if flag not in (2, 3):
                return None
        return None

    whole = {at: record(at) for at in headers if record(at) is not None}
    found, reached = [(at, end, False) for at, end in whole.items()], 0
    for at in headers:
        flag, end = part(at)
        stop = end + -end % 4
        lands = stop >= size or stop in headers
        inside = any(at < other < stop for other in whole)
        if flag == 0 and at not in whole and end <= size and inner(at, end) and lands and not inside and at >= reached:
            found.append((at, min(stop, size), True))
            reached = stop
    return sorted(found)


word = st.one_of(
    st.just(sets.MAGIC),
    st.builds(lambda flag, length: struct.pack("<I", flag << 29 | length), st.integers(0, 7), st.integers(0, 24)),
    st.sampled_from(
        [b"abcd", bytes(4), sets.frame(b"abcde"), sets.frame(b"ab" * 4 + sets.MAGIC + b"x"), sets.frame(b"")]
    ),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(word, max_size=24), st.binary(max_size=3))
def test_aligned_records_are_those_of_the_plain_walk(words, tail):
    data = b"".join(words) + tail
    records, gaps = scan(np.frombuffer(data, np.uint8))
    assert list(zip(*(column.tolist() for column in records), strict=True)) == plain_scan(data)
    covered = sorted([(a, b) for a, b, _ in plain_scan(data)] + [(gap.offset, gap.end) for gap in gaps])
    assert [a for a, _ in covered] + [len(data)] == [0] + [b for _, b in covered]


PAYLOADS = [
    b"one",
    b"two" * 5,
    b"12345678" + sets.MAGIC + b"parts" + sets.MAGIC,
    b"four!",
    b"five" * 9,
    b"six",
    b"seven" * 3,
]
FRAMES = [sets.frame(sets.payload(label, image)) for label, image in enumerate(PAYLOADS)]
STARTS = np.cumsum([0, *map(len, FRAMES)]).tolist()


def whole_frames(data: bytes) -> list[bytes]:
    records, _ = scan(np.frombuffer(data, np.uint8))
    return [data[start:end] for start, end in zip(records.offsets.tolist(), records.ends.tolist(), strict=True)]


@pytest.mark.parametrize("record", range(7))
@pytest.mark.parametrize("amount", [1, 3, 4, 6, 15])
def test_bytes_put_in_or_lost_cost_only_the_record_they_hit(record, amount):
    data = b"".join(FRAMES)
    others = FRAMES[:record] + FRAMES[record + 1 :]
    for place in range(len(FRAMES[record])):
        at = STARTS[record] + place
        longer = whole_frames(data[:at] + bytes([7]) * amount + data[at:])
        assert [frame for frame in longer if frame in others] == others, place
        if place + amount <= len(FRAMES[record]):
            shorter = whole_frames(data[:at] + data[at + amount :])
            assert [frame for frame in shorter if frame in others] == others, place


@pytest.mark.parametrize("record", range(7))
def test_a_changed_word_costs_only_the_record_it_hits(record):
    others = FRAMES[:record] + FRAMES[record + 1 :]
    changes = [bytes(4), sets.MAGIC, *(struct.pack("<I", flag << 29 | 2**29 - 1) for flag in range(8))]
    changes += [struct.pack("<I", other - STARTS[record] - 8) for other in STARTS if other - STARTS[record] >= 8]
    for place in range(0, len(FRAMES[record]), 4):
        at = STARTS[record] + place
        for change in changes:
            damaged = b"".join(FRAMES[:record]) + FRAMES[record][:place] + change
            damaged += FRAMES[record][place + 4 :] + b"".join(FRAMES[record + 1 :])
            assert len(damaged) == STARTS[-1]
            kept = whole_frames(damaged)
            assert [frame for frame in kept if frame in others] == others, (at, change)


@pytest.mark.parametrize(
    "data, kind, words",
    [
        (b"abc", "truncated", "3 bytes belong to no whole record: too few for one"),
        (b"abcdefgh", "magic", "0x64636261 where a magic word must be"),
        (sets.MAGIC + struct.pack("<I", 6 << 29), "part", "part flag 6"),
        (sets.MAGIC + struct.pack("<I", 3 << 29), "part", "part flag 3"),
        (sets.MAGIC + struct.pack("<I", 400) + b"abcd", "truncated", "claims 400 bytes where 4 are left"),
        (sets.MAGIC + struct.pack("<I", 400) + b"abcd" + FRAMES[0], "length", "claims 400 bytes where 40 are left"),
        (sets.MAGIC + struct.pack("<I", 8) + b"abcd" + FRAMES[1], "length", "run into the next record"),
        (sets.MAGIC + struct.pack("<I", 1 << 29 | 4) + b"abcd" + FRAMES[1], "part", "sequence of parts is not whole"),
    ],
)
def test_gaps_are_described(data, kind, words):
    records, gaps = scan(np.frombuffer(data, np.uint8))
    assert (len(gaps), gaps[0].offset, gaps[0].kind) == (1, 0, kind)
    assert words in gaps[0].problem
    assert gaps[0].end == (records.offsets[0] if len(records.offsets) else len(data))


def test_a_record_that_was_not_cut_at_the_magic_word_is_kept_as_foreign():
    foreign = sets.MAGIC + struct.pack("<I", 12) + b"abcd" + sets.MAGIC + b"efgh"
    records, gaps = scan(np.frombuffer(FRAMES[0] + foreign + FRAMES[1], np.uint8))
    assert records.foreign.tolist() == [False, True, False]
    assert gaps == []
