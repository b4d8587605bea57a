"""Shuffled files: the same set under the same keys, in another order, whatever the memory."""

import numpy as np
import pytest
import sets

from recordio_tools.check.verify import verify
from recordio_tools.dataset import RecordDataset
from recordio_tools.format.recordio import RecordError
from recordio_tools.rewrite import copying
from recordio_tools.rewrite.shuffle import permutation, shuffle


def test_permutation_is_a_sort_of_the_raw_stream():
    raw = np.random.PCG64(3).random_raw(50).tolist()
    assert permutation(3, 50).tolist() == sorted(range(50), key=raw.__getitem__)


@pytest.mark.parametrize("memory", [1 << 30, 20_000, 3_000])
@pytest.mark.parametrize("place", ["first", "middle", "last", "none"])
def test_only_the_places_change(tmp_path, monkeypatch, memory, place):
    monkeypatch.setattr(copying, "CHUNK_BYTES", 5_000)
    labels = sets.random_labels(0, 60, 7)
    folder = sets.write(tmp_path / "set", sets.insightface(labels, place=place), "7,8,8\n", list("abcdefg"))
    source = RecordDataset(folder)
    assert shuffle(source, tmp_path / "out", seed=4, memory=memory) == 60
    out = RecordDataset(tmp_path / "out")
    assert out.keys.tolist() == source.keys.tolist()
    assert out.labels.tolist() == labels
    assert [out.jpeg(i).tobytes() for i in range(60)] == [source.jpeg(i).tobytes() for i in range(60)]
    assert np.argsort(out.offsets).tolist() == permutation(4, 60).tolist()
    assert (out.names, out.num_classes, out.range_keys.tolist()) == (
        source.names,
        7,
        sorted(source.range_keys.tolist()),
    )
    assert verify(tmp_path / "out", decode=True).faults == []
    assert (tmp_path / "out" / "train.rec").stat().st_size == (folder / "train.rec").stat().st_size
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "names.txt",
        "property",
        "train.idx",
        "train.rec",
    ]


def test_the_bytes_do_not_depend_on_the_memory(tmp_path):
    records = [(key, sets.payload([key % 3, 1.0], sets.MAGIC * (key % 3) + b"x" * key, key)) for key in range(1, 90)]
    source = RecordDataset(sets.write(tmp_path / "set", records, "3,8,8"))
    contents = []
    for memory in (1 << 20, 2000, 500, 60):
        shuffle(source, tmp_path / str(memory), memory=memory)
        contents.append((tmp_path / str(memory) / "train.rec").read_bytes())
    assert len(set(contents)) == 1
    assert contents[0] == b"".join(sets.frame(records[row][1]) for row in permutation(0, 89).tolist())


def test_too_little_memory_is_refused(tmp_path):
    source = RecordDataset(sets.write(tmp_path / "set", sets.insightface([0, 1, 1])))
    with pytest.raises(RecordError, match="1 bytes of memory given, "):
        shuffle(source, tmp_path / "out", memory=1)
    assert not (tmp_path / "out").exists()
