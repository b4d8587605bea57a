"""Rebuilt indexes against those that were lost."""

import numpy as np
import pytest
import sets

from recordio_tools.check.reindex import rebuild_index, write_index
from recordio_tools.dataset import RecordDataset
from recordio_tools.errors import UserError
from recordio_tools.format.index import read_index
from recordio_tools.format.recordio import RecordError

LABELS = [0, 0, 1, 1, 1, 2]


def indexed(keys, offsets) -> dict[int, int]:
    return dict(zip(keys.tolist(), offsets.tolist(), strict=True))


@pytest.mark.parametrize("place", ["first", "middle", "last", "none"])
@pytest.mark.parametrize("shuffled", [False, True])
def test_the_lost_index_comes_back(tmp_path, place, shuffled):
    """Images carry their key as id, so even a shuffled file gives its keys back; identity records keep their order."""
    records = sets.insightface(LABELS, place=place)
    if shuffled:
        images = [row for row, record in enumerate(records) if 1 <= record[0] <= len(LABELS)]
        for row, record in zip(images, np.random.default_rng(0).permutation(images), strict=True):
            records[row], records[record] = records[record], records[row]
    folder = sets.write(tmp_path, records, "3,8,8")
    lost = indexed(*read_index(folder / "train.idx"))
    (folder / "train.idx").unlink()
    assert write_index(folder) == {"path": str(folder / "train.idx"), "records": len(records), "lost_bytes": 0}
    assert indexed(*read_index(folder / "train.idx")) == lost
    assert RecordDataset(folder).labels.tolist() == LABELS


def test_ids_that_say_nothing_give_way_to_the_order(tmp_path):
    records = [(key, sets.payload(label, b"jpeg", 7)) for key, label in enumerate(LABELS)]
    keys, offsets, _ = rebuild_index(sets.write(tmp_path / "a", records))
    assert keys.tolist() == list(range(6))
    assert offsets.tolist() == [36 * row for row in range(6)]
    header = (0, sets.payload([7.0, 8.0], b""))
    identity = (7, sets.payload([1.0, 7.0], b"", 7))
    keys, _, _ = rebuild_index(sets.write(tmp_path / "b", [identity, *records, header]))
    assert keys.tolist() == [7, 1, 2, 3, 4, 5, 6, 0]


def test_ids_in_several_parts(tmp_path):
    records = [(key, sets.payload(0, sets.MAGIC * 2, key)) for key in (4, 0xCED7230A, 2)]
    keys, _, _ = rebuild_index(sets.write(tmp_path, records))
    assert keys.tolist() == [4, 0xCED7230A, 2]


def test_damage_is_counted_and_the_rest_indexed(tmp_path):
    folder = sets.write(tmp_path, sets.insightface(LABELS, place="none"))
    _, offsets = read_index(folder / "train.idx")
    rec = bytearray((folder / "train.rec").read_bytes())
    rec[offsets[2]] ^= 1
    (folder / "train.rec").write_bytes(rec)
    found, _, lost = rebuild_index(folder)
    assert found.tolist() == [1, 2, 4, 5, 6]
    assert lost == offsets[3] - offsets[2]


@pytest.mark.parametrize("place", ["first", "middle", "last"])
def test_keys_survive_the_loss_of_images(tmp_path, place):
    folder = sets.write(tmp_path, sets.insightface(LABELS, place=place), "3,8,8")
    before = indexed(*read_index(folder / "train.idx"))
    rec = bytearray((folder / "train.rec").read_bytes())
    for key in (2, 6):
        rec[before.pop(key)] ^= 1
    (folder / "train.rec").write_bytes(rec)
    keys, offsets, _ = rebuild_index(folder)
    assert indexed(keys, offsets) == before


def test_images_only(tmp_path):
    folder = sets.write(tmp_path, sets.insightface(LABELS, place="middle"), "3,8,8")
    assert write_index(folder, images_only=True)["path"] == str(folder / "train.images.idx")
    full = indexed(*read_index(folder / "train.idx"))
    assert indexed(*read_index(folder / "train.images.idx")) == {key: full[key] for key in range(1, 7)}


def test_existing_indexes_stay(tmp_path):
    folder = sets.write(tmp_path, sets.insightface(LABELS))
    before = (folder / "train.idx").read_bytes()
    with pytest.raises(UserError, match="exists already"):
        write_index(folder)
    assert (folder / "train.idx").read_bytes() == before
    write_index(folder, tmp_path / "other.idx")
    assert indexed(*read_index(tmp_path / "other.idx")) == indexed(*read_index(folder / "train.idx"))


def test_nothing_to_index(tmp_path):
    (tmp_path / "train.rec").write_bytes(b"no record at all")
    with pytest.raises(RecordError, match="holds no whole record"):
        write_index(tmp_path)
