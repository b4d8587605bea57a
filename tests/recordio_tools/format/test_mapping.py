"""Files as memory maps."""

import mmap
from pathlib import Path

import numpy as np
import pytest

from recordio_tools.format.mapping import map_file, read_ahead, release, sliceable
from recordio_tools.format.recordio import RecordError


def resident() -> int:
    """Bytes of files that this process holds mapped in memory."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssFile"))
    return int(line.split()[1]) * 1024


def test_the_map_is_the_file(tmp_path):
    content = bytes(range(256)) * 40
    (tmp_path / "x").write_bytes(content)
    data = map_file(tmp_path / "x")
    assert data.tobytes() == content
    assert not data.flags.writeable


def test_released_pages_leave_the_process_and_can_be_read_again(tmp_path):
    content = np.random.default_rng(0).bytes(64 << 20)
    (tmp_path / "x").write_bytes(content)
    data = map_file(tmp_path / "x")
    before = resident()
    total = int(data.sum(dtype=np.int64))
    assert resident() - before > 60 << 20
    release(data[5:].view(np.uint8))
    assert resident() - before < 8 << 20
    assert int(data.sum(dtype=np.int64)) == total


def test_arrays_that_are_no_map_are_left_alone():
    data = np.arange(9)
    release(data)
    assert data.tolist() == list(range(9))


def test_missing_and_empty(tmp_path):
    (tmp_path / "empty").touch()
    for name, words in (("none", "no such file"), ("empty", "the file is empty")):
        with pytest.raises(RecordError, match=words):
            map_file(tmp_path / name)


def test_pieces_are_those_of_the_array(tmp_path):
    content = bytes(range(256)) * 3
    (tmp_path / "x").write_bytes(content)
    whole = map_file(tmp_path / "x")
    for data in (whole, whole[5:], np.frombuffer(content, np.uint8), np.array(list(content), np.uint8)):
        assert bytes(sliceable(data)[7:300]) == data[7:300].tobytes()


class Advised(mmap.mmap):
    """A map that remembers what it was asked to read, and asks for it."""

    asked: list[tuple[int, int, int]]

    def madvise(self, option: int, start: int, length: int) -> None:
        self.asked.append((option, start, start + length))
        super().madvise(option, start, length)


def test_reading_ahead_asks_for_the_pages_that_hold_the_ranges(tmp_path):
    page = mmap.PAGESIZE
    (tmp_path / "x").write_bytes(bytes(5 * page + 7))
    with open(tmp_path / "x", "rb") as file:
        owner = Advised(file.fileno(), 0, access=mmap.ACCESS_READ)
    owner.asked = []
    starts, ends = np.array([0, page - 1, 3 * page, 5 * page]), np.array([9, page + 1, 4 * page, 5 * page + 7])
    read_ahead(np.frombuffer(owner, np.uint8), starts, ends)
    want = [(0, 9), (0, page + 1), (3 * page, 4 * page), (5 * page, 5 * page + 7)]
    assert owner.asked == [(mmap.MADV_WILLNEED, first, end) for first, end in want]
    read_ahead(np.zeros(9, np.uint8), starts, ends)  # no map
