"""Files as memory maps."""

from pathlib import Path

import numpy as np
import pytest

from recordio_tools.format.mapping import map_file, release, sliceable
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
