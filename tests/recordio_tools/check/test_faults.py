"""The index held against the records of its file."""

import numpy as np
import pytest
import sets

from recordio_tools.check.faults import NO_KEY, collect, fault_at, match_index, record_faults
from recordio_tools.format.headers import headers_of
from recordio_tools.format.recordio import RecordError
from recordio_tools.format.scan import scan

FRAMES = [sets.frame(sets.payload(label, b"jpeg" * label)) for label in range(1, 5)]
DATA = np.frombuffer(b"".join(FRAMES[:2]) + bytes(40) + b"".join(FRAMES[2:]), np.uint8)
STARTS = [0, 36, 116, 160]  # of the records; 76 to 116 is damage


def match(tmp_path, rows):
    (tmp_path / "x.idx").write_text("".join(f"{key}\t{offset}\n" for key, offset in rows))
    records, gaps = scan(DATA)
    assert records.offsets.tolist() == STARTS
    named = match_index(tmp_path / "x.idx", records, gaps, len(DATA))
    return named, [fault[:3] for fault in named.faults]


def test_a_right_index_leaves_the_gap_alone(tmp_path):
    named, faults = match(tmp_path, [(9, 160), (1, 0), (4, 116), (2, 36), (3, 76)])
    assert named.keys.tolist() == [1, 2, 4, 9]
    assert sorted(named.in_index.tolist()) == [1, 2, 3, 4, 9]
    assert faults == [("magic", 3, 76)]


@pytest.mark.parametrize(
    "row, words",
    [
        ((7, 4), "the index points where no whole record begins"),
        ((7, 80), "the index points where no whole record begins"),
        ((7, -4), "the index points outside the file"),
        ((7, 1000), "the index points outside the file"),
        ((1, 116), "the index has this key already"),
        ((-7, 116), "the index has a negative key"),
        ((7, 36), "the index names this record under key 2 too"),
    ],
)
def test_a_wrong_line(tmp_path, row, words):
    named, _ = match(tmp_path, [(1, 0), (2, 36), (5, 160), row])
    assert named.keys.tolist() == [1, 2, NO_KEY, 5]
    problems = {(fault.key, fault.offset): fault.problem for fault in named.faults if fault.kind == "index"}
    assert words in problems[row]
    assert problems[None, 116] == "a whole record that the index does not name"
    assert len(problems) == 2


def test_faults_of_whole_records():
    contents = [sets.payload(0, b"abcde"), sets.payload(0, b""), b"short", sets.payload([1.0, 2.0], b"")]
    data = bytearray(b"".join(sets.frame(content) for content in contents))
    data[8 + 24 + 6] = 1
    data = np.frombuffer(bytes(data), np.uint8)
    records, _ = scan(data)
    headers = headers_of(data, records.offsets)
    faults = record_faults(data, np.array([3, NO_KEY, 5, 6]), records, headers)
    assert [fault[:3] for fault in faults] == [("padding", 3, 0), ("header", 5, 72), ("empty", None, 40)]


def test_collect():
    def fail():
        raise RecordError("is odd", path="x", kind="names")

    faults = []
    assert collect(lambda: 7, faults) == 7
    assert collect(fail, faults) is None
    assert faults == [("names", None, None, "x: is odd")]
    assert fault_at("label", NO_KEY, np.int64(4), "p") == ("label", None, 4, "p")
