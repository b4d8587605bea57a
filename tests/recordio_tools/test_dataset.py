"""Sets of every dialect, written by hand, and every way in which one can be wrong."""

import multiprocessing
import pickle
import struct

import numpy as np
import pytest
import sets

from recordio_tools.dataset import RecordDataset
from recordio_tools.format.recordio import RecordError

LABELS = sets.LABELS


def assert_holds(ds: RecordDataset, records: list[tuple[int, bytes]]) -> None:
    """Keys, labels and images are those of the records that carry an image, in the order of the keys."""
    expected = []
    for key, content in sorted(records):
        flag, label = struct.unpack_from("<If", content)
        image = content[24 + 4 * flag :]
        if image:
            expected.append((key, int(struct.unpack_from("<f", content, 24)[0] if flag else label), image))
    assert ds.keys.tolist() == [key for key, _, _ in expected]
    assert ds.labels.tolist() == [label for _, label, _ in expected]
    assert ds.labels.dtype == ds.keys.dtype == np.int64
    assert [ds.jpeg(i).tobytes() for i in range(len(ds))] == [image for _, _, image in expected]
    assert len(ds) == ds.num_images == len(expected)


@pytest.mark.parametrize("vector", [False, True])
@pytest.mark.parametrize("place", ["first", "middle", "last", "none"])
@pytest.mark.parametrize("shuffled", [False, True])
def test_dialects(tmp_path, place, vector, shuffled):
    records = sets.insightface(LABELS, place=place, vector=vector)
    if shuffled:
        np.random.default_rng(0).shuffle(records)
    ds = RecordDataset(sets.write(tmp_path, records, "5,8,8\n"))
    assert_holds(ds, records)
    assert (ds.num_classes, ds.image_size, ds.names) == (5, (8, 8), None)
    assert sorted(ds.range_keys.tolist()) == ([] if place == "none" else [0, *range(8, 13)])


@pytest.mark.parametrize("keys", [range(7), range(1, 8), [3, 10, 11, 500, 501, 10**9, 10**12]])
def test_keys_from_zero_from_one_and_sparse(tmp_path, keys):
    records = [(key, sets.payload(label, sets.jpeg(key % 251), key)) for key, label in zip(keys, LABELS, strict=True)]
    assert_holds(RecordDataset(sets.write(tmp_path, records)), records)


def test_payloads_in_several_parts(tmp_path):
    records = [(key, sets.payload(key % 3, sets.MAGIC * (key % 4) + b"jpeg" * key, 0xCED7230A)) for key in range(1, 20)]
    ds = RecordDataset(sets.write(tmp_path, records, "3,8,8"))
    assert_holds(ds, records)
    assert ds.headers.multipart.all()


def test_without_property_classes_and_size_come_from_the_images(tmp_path):
    records = [(key, sets.payload(key, sets.jpeg(key, (6, 10)))) for key in range(1, 4)]
    ds = RecordDataset(sets.write(tmp_path, records))
    assert (ds.num_classes, ds.image_size) == (4, (6, 10))


def test_names(tmp_path):
    ds = RecordDataset(sets.write(tmp_path, sets.insightface(LABELS), "5,8,8", ["Ä", "b c", "c", "d", "e"]))
    assert ds.names == ["Ä", "b c", "c", "d", "e"]
    (tmp_path / "names.txt").write_bytes("Ä\r\nb\u2028c\r\n \r\nd\r\n\r\n".encode())
    assert RecordDataset(tmp_path).names == ["Ä", "b\u2028c", " ", "d", ""]


def test_a_rec_file_opens_like_its_folder(tmp_path):
    sets.write(tmp_path, sets.insightface(LABELS))
    (tmp_path / "train.rec").rename(tmp_path / "faces.rec")
    (tmp_path / "train.idx").rename(tmp_path / "faces.idx")
    assert RecordDataset(tmp_path / "faces.rec").labels.tolist() == LABELS


def test_whole_records_are_not_copied(tmp_path):
    ds = RecordDataset(sets.write(tmp_path, sets.insightface(LABELS)))
    assert np.shares_memory(ds.jpeg(2), ds.data)
    assert not ds.jpeg(2).flags.writeable


def _sum_of(ds: RecordDataset, i: int) -> int:
    return int(ds.jpeg(i).sum())


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_other_processes_read_the_same(tmp_path, start):
    ds = RecordDataset(sets.write(tmp_path, sets.insightface(LABELS), "5,8,8"))
    copy = pickle.loads(pickle.dumps(ds))
    assert copy.labels.tolist() == LABELS
    with multiprocessing.get_context(start).Pool(2) as pool:
        sums = pool.starmap(_sum_of, [(ds, i) for i in range(len(ds))])
    assert sums == [sum(sets.jpeg(key * 7)) for key in range(1, 8)]


def test_a_label_that_float32_cannot_hold_is_not_an_identity(tmp_path):
    folder = sets.write(tmp_path, [(1, sets.payload(2.0**24, b"jpeg"))])
    with pytest.raises(RecordError, match="expected one of the 16777216 classes"):
        RecordDataset(folder)


@pytest.mark.parametrize("what", sets.BROKEN)
def test_what_is_wrong_is_named(tmp_path, what):
    folder, kind, key, words = sets.broken(tmp_path, what)
    with pytest.raises(RecordError, match=words) as caught:
        RecordDataset(folder)
    assert (caught.value.kind, caught.value.key) == (kind, key)
    assert "\n" not in str(caught.value)
