"""The real mxnet in both directions, byte for byte; DALI's own reader on what is written here."""

from pathlib import Path

import numpy as np
import pytest
import sets
from hypothesis import given, settings
from hypothesis import strategies as st

from recordio_tools.check.reindex import write_index
from recordio_tools.dataset import DatasetWriter, RecordDataset
from recordio_tools.format.index import format_index
from recordio_tools.format.recordio import IRHeader, RecordWriter, pack, unpack

SALT = [b"", b"a", b"bc", b"def", b"ghij", sets.MAGIC, sets.MAGIC[:3], sets.MAGIC[1:]]
images = st.lists(st.sampled_from(SALT), max_size=10).map(b"".join)
magic_float = np.frombuffer(sets.MAGIC, "<f4")[0].item()
labels = st.one_of(
    st.integers(0, 100000),
    st.floats(width=32, allow_nan=False),
    st.just(magic_float),
    st.lists(st.sampled_from([0.0, 1.0, 17.0, magic_float]), min_size=1, max_size=16),
)
ids = st.one_of(st.integers(0, 2**40), st.just(0xCED7230A), st.just(0xCED7230A << 32))
headers = st.builds(IRHeader, st.just(0), labels, ids, ids)


@settings(max_examples=150, deadline=None)
@given(contents=st.lists(st.tuples(headers, images), min_size=1, max_size=8))
def test_mxnet_writes_the_same_bytes_and_reads_ours(tmp_path_factory, mxnet, contents):
    folder = tmp_path_factory.mktemp("mx")
    theirs = mxnet.recordio.MXIndexedRecordIO(str(folder / "mx.idx"), str(folder / "mx.rec"), "w")
    offsets = []
    with open(folder / "own.rec", "wb") as file:
        own = RecordWriter(file)
        for key, (header, image) in enumerate(contents):
            payload = pack(header, image)
            assert payload == mxnet.recordio.pack(mxnet.recordio.IRHeader(*header), image)
            offsets.append(own.write(payload))
            theirs.write_idx(key, payload)
    theirs.close()
    (folder / "own.idx").write_bytes(format_index(np.arange(len(contents)), np.array(offsets)))
    assert (folder / "own.rec").read_bytes() == (folder / "mx.rec").read_bytes()
    assert (folder / "own.idx").read_bytes() == (folder / "mx.idx").read_bytes()
    reader = mxnet.recordio.MXIndexedRecordIO(str(folder / "own.idx"), str(folder / "own.rec"), "r")
    for key, (header, image) in enumerate(contents):
        record = reader.read_idx(key)
        their_header, their_image = mxnet.recordio.unpack(record)
        own_header, own_image = unpack(np.frombuffer(record, np.uint8))
        assert their_image == own_image.tobytes() == image
        assert np.array_equal(their_header.label, own_header.label)
        assert their_header[2:] == own_header[2:] == header[2:]


@pytest.mark.parametrize("vector", [False, True])
def test_a_whole_set_is_what_mxnet_would_have_written(tmp_path, mxnet, vector):
    identities = sets.random_labels(0, 30, 6)
    pictures = [sets.jpeg(number) + sets.MAGIC * (number % 3) + b"tail"[: number % 4] for number in range(30)]
    with DatasetWriter(tmp_path / "own", 6, (8, 8)) as writer:
        for label, picture in zip(identities, pictures, strict=True):
            writer.add(picture, [label, 1.0] if vector else label)
    theirs = mxnet.recordio.MXIndexedRecordIO(str(tmp_path / "mx.idx"), str(tmp_path / "mx.rec"), "w")
    header = mxnet.recordio.IRHeader
    theirs.write_idx(0, mxnet.recordio.pack(header(0, [31.0, 37.0], 0, 0), b""))
    for key, (label, picture) in enumerate(zip(identities, pictures, strict=True), 1):
        theirs.write_idx(key, mxnet.recordio.pack(header(0, [label, 1.0] if vector else label, key, 0), picture))
    for label in range(6):
        keys = [key for key, own in enumerate(identities, 1) if own == label]
        record = mxnet.recordio.pack(header(0, [float(keys[0]), float(keys[-1] + 1)], 31 + label, 0), b"")
        theirs.write_idx(31 + label, record)
    theirs.close()
    assert (tmp_path / "own" / "train.rec").read_bytes() == (tmp_path / "mx.rec").read_bytes()
    assert (tmp_path / "own" / "train.idx").read_bytes() == (tmp_path / "mx.idx").read_bytes()
    ds = RecordDataset(tmp_path / "mx.rec")
    assert ds.labels.tolist() == identities
    assert [ds.jpeg(i).tobytes() for i in range(30)] == pictures


def dali(fn, rec: Path, idx: Path, count: int) -> list[tuple[list[float], bytes, np.ndarray]]:
    """(labels, encoded image, decoded image) of every record that DALI's own reader finds, in the order of the file."""
    from nvidia.dali import pipeline_def

    @pipeline_def(batch_size=count, num_threads=1, device_id=None)
    def read():
        encoded, label = fn.readers.mxnet(path=[str(rec)], index_path=[str(idx)])
        return encoded, label, fn.decoders.image(encoded)

    pipeline = read()
    pipeline.build()
    encoded, label, decoded = pipeline.run()
    return [(label.at(i).tolist(), encoded.at(i).tobytes(), decoded.at(i)) for i in range(count)]


@pytest.fixture(scope="session")
def fn():
    """DALI's operators."""
    return pytest.importorskip("nvidia.dali.fn")


def test_dali_reads_what_is_written_here(tmp_path, fn):
    identities = sets.random_labels(1, 20, 4)
    pictures = [sets.jpeg(number * 9, (16, 16)) + sets.MAGIC * (number % 2) for number in range(20)]
    with DatasetWriter(tmp_path / "set", 4, (16, 16)) as writer:
        for label, picture in zip(identities, pictures, strict=True):
            writer.add(picture, label)
    write_index(tmp_path / "set", images_only=True)
    found = dali(fn, tmp_path / "set" / "train.rec", tmp_path / "set" / "train.images.idx", 20)
    assert [encoded for _, encoded, _ in found] == pictures
    assert [label for label, _, _ in found] == [[label] for label in identities]
    assert found[3][2].shape == (16, 16, 3)
    assert abs(int(found[3][2].mean()) - 27) <= 1


@pytest.mark.parametrize("vector", [False, True])
@pytest.mark.parametrize(
    "layout", [("first", 1, 1), ("middle", 1, 1), ("last", 1, 1), ("none", 0, 1), ("none", 1, 1), ("none", 5, 7)]
)
def test_sets_of_mxnet_in_every_layout(tmp_path, mxnet, fn, vector, layout):
    """Written by mxnet; read here; then by DALI through the index of images."""
    place, first_key, step = layout
    labels = sets.random_labels(3, 12, 3)
    records = sets.insightface(labels, place=place, vector=vector)
    if place == "none":
        records = [(first_key + step * (key - 1), content) for key, content in records]
    theirs = mxnet.recordio.MXIndexedRecordIO(str(tmp_path / "train.idx"), str(tmp_path / "train.rec"), "w")
    for key, content in records:
        theirs.write_idx(key, content)
    theirs.close()
    ds = RecordDataset(tmp_path)
    assert ds.labels.tolist() == labels
    assert [ds.jpeg(i).tobytes() for i in range(12)] == [sets.jpeg(key * 7) for key in range(1, 13)]
    write_index(tmp_path, images_only=True)
    found = dali(fn, tmp_path / "train.rec", tmp_path / "train.images.idx", 12)
    assert [label for label, _, _ in found] == [[label, 1] if vector else [label] for label in labels]
    assert [encoded for _, encoded, _ in found] == [sets.jpeg(key * 7) for key in range(1, 13)]
