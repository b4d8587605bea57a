"""The index against its plain twin."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recordio_tools.format import index
from recordio_tools.format.index import format_index, read_index
from recordio_tools.format.recordio import RecordError

numbers = st.integers(0, 10**18 - 1) | st.integers(0, 30)


@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=30))
def test_format_is_the_plain_twin(rows):
    keys, offsets = np.array(rows, np.int64).T
    assert format_index(keys, offsets) == "".join(f"{key}\t{offset}\n" for key, offset in rows).encode()


def test_format_of_nothing():
    assert format_index(np.zeros(0, np.int64), np.zeros(0, np.int64)) == b""


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("last", ["", "\n"])
@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
def test_read(tmp_path, monkeypatch, ending, last, chunk):
    monkeypatch.setattr(index, "CHUNK_BYTES", chunk)
    rows = [(key * 37 % 101, key * 12345) for key in range(50)] + [(3, -8)]
    (tmp_path / "x.idx").write_bytes((ending.join(f"{key}\t{offset}" for key, offset in rows) + last).encode())
    keys, offsets = read_index(tmp_path / "x.idx")
    assert list(zip(keys.tolist(), offsets.tolist(), strict=True)) == rows


@pytest.mark.parametrize(
    "line",
    [
        "",
        "5",
        "5 7",
        "5\t",
        "\t7",
        "5\t7\t9",
        "a\tb",
        "5\t7.5",
        "5\t1e9",
        "5\t-",
        "5\t3-4",
        "5\t--4",
        "5\té",
        "5\t" + "9" * 19,
    ],
)
@pytest.mark.parametrize("chunk", [1, 1 << 20])
def test_a_malformed_line_is_named(tmp_path, monkeypatch, line, chunk):
    monkeypatch.setattr(index, "CHUNK_BYTES", chunk)
    path = tmp_path / "x.idx"
    path.write_text(f"1\t0\n2\t16\n{line}\n4\t32\n")
    with pytest.raises(RecordError, match="line 3 is") as caught:
        read_index(path)
    assert (caught.value.kind, caught.value.path) == ("index", path)


def test_an_empty_index_is_named(tmp_path):
    (tmp_path / "x.idx").write_bytes(b"")
    with pytest.raises(RecordError, match="is empty"):
        read_index(tmp_path / "x.idx")


def test_bytes_that_are_no_text_are_named(tmp_path):
    (tmp_path / "x.idx").write_bytes(b"1\t0\n\xff\xfe\x00\t9\n")
    with pytest.raises(RecordError, match="line 2 is"):
        read_index(tmp_path / "x.idx")
