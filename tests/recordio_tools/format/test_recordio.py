"""The byte format against its plain twin, and what damaged bytes are answered with."""

import pickle
import struct
import tracemalloc

import numpy as np
import pytest
import sets
from hypothesis import given
from hypothesis import strategies as st

from recordio_tools.format.recordio import IRHeader, RecordError, RecordWriter, decode, encode, pack, unpack

pieces = st.lists(st.one_of(st.just(sets.MAGIC), st.binary(max_size=6), st.just(sets.MAGIC[:2])), max_size=12)
payloads = pieces.map(b"".join)


def as_array(content: bytes) -> np.ndarray:
    return np.frombuffer(content, np.uint8)


@given(payloads)
def test_encode_is_the_plain_twin(payload):
    assert encode(payload) == sets.frame(payload)


@given(st.lists(payloads, min_size=1, max_size=6))
def test_decode_returns_what_was_framed(contents):
    data, offset = as_array(b"".join(sets.frame(content) for content in contents)), 0
    for content in contents:
        record, offset = decode(data, offset)
        assert record.tobytes() == content
    assert offset == len(data)


@pytest.mark.parametrize("alignment", range(8))
def test_magic_at_every_alignment(alignment):
    content = b"x" * alignment + sets.MAGIC * 3 + b"yz"
    parts = encode(content).count(sets.MAGIC)
    assert parts == (4 if alignment % 4 == 0 else 1 + 3)
    assert decode(as_array(encode(content)), 0)[0].tobytes() == content


def test_whole_records_are_views():
    data = as_array(sets.frame(b"abcdefg"))
    assert np.shares_memory(decode(data, 0)[0], data)


def test_file_may_end_before_the_padding():
    record, end = decode(as_array(sets.frame(b"abcde")[:-3]), 0)
    assert (record.tobytes(), end) == (b"abcde", 13)


@pytest.mark.parametrize(
    "data, offset, kind",
    [
        (b"", 0, "truncated"),
        (sets.frame(b"abcd")[:7], 0, "truncated"),
        (sets.frame(b"abcdefgh")[:-1], 0, "truncated"),
        (sets.frame(b"abcd"), -4, "truncated"),
        (sets.frame(b"abcd"), 400, "truncated"),
        (sets.frame(b"abcd"), 4, "magic"),
        (sets.MAGIC + struct.pack("<I", 2**29 - 1), 0, "truncated"),
        (sets.MAGIC + struct.pack("<I", 2 << 29), 0, "part"),
        (sets.MAGIC + struct.pack("<I", 5 << 29), 0, "part"),
        (sets.frame(b"abcd" + sets.MAGIC)[:-8], 0, "truncated"),
        (sets.frame(b"abcd" + sets.MAGIC)[:-8] + sets.frame(b"whole"), 0, "part"),
        (sets.MAGIC + struct.pack("<I", 1 << 29 | 3) + b"abc\0" + sets.MAGIC + struct.pack("<I", 3 << 29), 0, "part"),
    ],
)
def test_damage_is_named(data, offset, kind):
    with pytest.raises(RecordError) as caught:
        decode(as_array(data), offset, path="a.rec", key=7)
    assert (caught.value.kind, caught.value.key, caught.value.path) == (kind, 7, "a.rec")
    assert str(caught.value).startswith("a.rec: record key 7 at byte ")


def test_overlapping_part_sequences_are_refused():
    """Starts whose lengths all lead into one tail of parts would make reading quadratic."""
    tail = (sets.MAGIC + struct.pack("<I", 2 << 29)) * 1000 + sets.MAGIC + struct.pack("<I", 3 << 29)
    starts = b"".join(sets.MAGIC + struct.pack("<I", 1 << 29 | 8 * (99 - i)) for i in range(100))
    data = as_array(starts + tail)
    with pytest.raises(RecordError, match="holds a magic word") as caught:
        decode(data, 0)
    assert caught.value.kind == "part"
    assert decode(data, 99 * 8)[1] == len(data)


def test_a_hostile_length_allocates_nothing():
    data = as_array(sets.MAGIC + struct.pack("<I", 2**29 - 1) + b"few bytes")
    tracemalloc.start()
    with pytest.raises(RecordError, match="claims 536870911 bytes, the file has 9 more"):
        decode(data, 0)
    assert tracemalloc.get_traced_memory()[1] < 100_000
    tracemalloc.stop()


def test_payload_of_2_to_the_29_is_refused():
    with pytest.raises(RecordError, match="at most 536870911 bytes, this one has 536870912"):
        encode(bytes(2**29))


def test_writer_tells_where_records_begin(tmp_path):
    contents = [b"a", b"", sets.MAGIC, b"12345678"]
    with open(tmp_path / "x.rec", "wb") as file:
        writer = RecordWriter(file)
        offsets = [writer.write(content) for content in contents]
    data = as_array((tmp_path / "x.rec").read_bytes())
    assert [decode(data, offset)[0].tobytes() for offset in offsets] == contents
    assert offsets == [0, 12, 20, 36]


@given(st.floats(width=32, allow_nan=False), st.integers(0, 2**64 - 1), st.binary(max_size=20))
def test_scalar_header(label, identifier, image):
    assert pack(IRHeader(0, label, identifier), image) == sets.payload(label, image, identifier)
    header, rest = unpack(as_array(sets.payload(label, image, identifier)))
    assert header == (0, label, identifier, 0)
    assert rest.tobytes() == image


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=15), st.binary(max_size=20))
def test_vector_header(labels, image):
    assert pack(IRHeader(0, labels, 3), image) == sets.payload(labels, image, 3)
    header, rest = unpack(as_array(sets.payload(labels, image, 3)))
    assert (header.flag, header.label.tolist(), header.id) == (len(labels), labels, 3)
    assert rest.tobytes() == image


@pytest.mark.parametrize(
    "content", [b"", bytes(23), struct.pack("<IfQQ", 1, 0, 0, 0), struct.pack("<IfQQ", 2**32 - 1, 0, 0, 0)]
)
def test_a_header_that_does_not_fit_is_named(content):
    with pytest.raises(RecordError, match="its image header needs") as caught:
        unpack(as_array(content), key=5, offset=8)
    assert (caught.value.kind, caught.value.key, caught.value.offset) == ("header", 5, 8)


def test_errors_survive_pickling():
    error = RecordError("is odd", path="x.rec", key=3, offset=12, kind="part")
    back = pickle.loads(pickle.dumps(error))
    assert (str(back), back.key, back.offset, back.kind) == ("x.rec: record key 3 at byte 12: is odd", 3, 12, "part")
