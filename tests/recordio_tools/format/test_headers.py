"""Vectorised headers against decoding record by record."""

import numpy as np
import pytest
import sets
from hypothesis import given
from hypothesis import strategies as st

from recordio_tools.format import headers
from recordio_tools.format.headers import read_headers
from recordio_tools.format.recordio import RecordError, decode, unpack

MAGIC_LABEL = np.frombuffer(sets.MAGIC, "<f4")[0].item()
labels = st.one_of(
    st.integers(0, 9),
    st.just(MAGIC_LABEL),
    st.lists(st.sampled_from([0.0, 1.0, 7.5, MAGIC_LABEL]), min_size=1, max_size=4),
)
identifiers = st.sampled_from([0, 5, 0xCED7230A, 0xCED7230A << 32])
images = st.lists(st.sampled_from([b"a", b"bcde", sets.MAGIC]), max_size=6).map(b"".join)
records = st.builds(sets.payload, labels, images, identifiers)


@given(st.lists(records, min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_heads_are_those_of_the_decoded_records(contents, random):
    order = list(range(len(contents)))
    random.shuffle(order)
    data, offsets = b"", [0] * len(contents)
    for row in order:
        offsets[row] = len(data)
        data += sets.frame(contents[row])
    data = np.frombuffer(data, np.uint8)
    found = read_headers(data, np.arange(len(contents)), np.array(offsets), "x.rec")
    for row, offset in enumerate(offsets):
        record, end = decode(data, offset)
        header, image = unpack(record)
        values = header.label if header.flag else [header.label]
        assert found.flag[row] == header.flag
        assert found.label[row] == np.float32(values[0])
        assert np.isnan(found.second[row]) if header.flag < 2 else found.second[row] == values[1]
        assert (found.image_bytes[row], found.ends[row]) == (len(image), end)
        assert found.multipart[row] == (data[offset + 7] >> 5 != 0)


def test_chunks_make_no_difference(monkeypatch):
    data = np.frombuffer(b"".join(sets.frame(sets.payload(label, b"abcd")) for label in range(50)), np.uint8)
    offsets = np.arange(50) * (len(data) // 50)
    whole = read_headers(data, np.arange(50), offsets, "x.rec")
    monkeypatch.setattr(headers, "CHUNK", 7)
    for one, other in zip(whole, read_headers(data, np.arange(50), offsets, "x.rec"), strict=True):
        np.testing.assert_array_equal(one, other)
    assert whole.label.tolist() == list(range(50))


def test_a_record_that_the_index_names_often_is_decoded_twice_at_most(monkeypatch):
    data = np.frombuffer(
        sets.frame(sets.payload(3, sets.MAGIC * 50)) + sets.frame(sets.payload([4, 5], sets.MAGIC)), np.uint8
    )
    second = len(sets.frame(sets.payload(3, sets.MAGIC * 50)))
    calls = []
    monkeypatch.setattr(headers, "decode", lambda data, offset, **place: calls.append(offset) or decode(data, offset))
    offsets = np.array([0, second] * 300 + [0])
    found = read_headers(data, np.arange(601), offsets, "x.rec")
    assert sorted(calls) == [0, 0, second, second]
    assert found.label.tolist() == [3, 4] * 300 + [3]
    assert found.image_bytes.tolist() == [200, 4] * 300 + [200]
    assert found.ends.tolist() == [second, len(data)] * 300 + [second]
    assert found.multipart.all()


good = sets.frame(sets.payload(3, b"abcd"))


@pytest.mark.parametrize(
    "data, offset, kind",
    [
        (good, -4, "index"),
        (good, len(good), "index"),
        (good, 2**62, "index"),
        (good, 2, "index"),
        (good, 4, "index"),
        (good[:-4], 0, "truncated"),
        (sets.frame(bytes(20)) + good, 0, "header"),
        (sets.frame(b"\x04" + bytes(23)) + good, 0, "header"),
        (sets.frame(b"\xff\xff\xff\xff" + bytes(20)) + good, 0, "header"),
        (sets.frame(b"abcd" + sets.MAGIC + b"efgh"), 0, "header"),
        (sets.frame(b"abcd" + sets.MAGIC + b"efgh"), 12, "part"),
    ],
)
def test_damage_is_named_with_key_and_offset(data, offset, kind):
    with pytest.raises(RecordError) as caught:
        read_headers(np.frombuffer(data, np.uint8), np.array([41]), np.array([offset]), "x.rec")
    assert (caught.value.key, caught.value.offset, caught.value.kind) == (41, offset, kind)
