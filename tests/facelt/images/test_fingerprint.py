"""A set is told from another by its size, labels, records and a sample of its bytes, wherever it lies."""

import shutil

import pytest
from faces import write_faces

from facelt.images.fingerprint import fingerprint
from recordio_tools.dataset import RecordDataset


@pytest.fixture
def folder(tmp_path):
    return write_faces(tmp_path / "data")


def test_a_moved_set_is_the_same(folder, tmp_path):
    moved = shutil.copytree(folder, tmp_path / "moved")
    first, second = fingerprint(RecordDataset(folder)), fingerprint(RecordDataset(moved))
    assert first == second
    assert first.differences(second) == ""


def test_other_sizes_labels_and_bytes_are_told_apart(folder, tmp_path):
    first = fingerprint(RecordDataset(folder))
    more = fingerprint(RecordDataset(write_faces(tmp_path / "more", classes=6)))
    assert f"{first.classes} classes, now 6" in first.differences(more)
    content = (folder / "train.rec").read_bytes()
    at = content.index(b"\xff\xd8\xff") + 30
    (folder / "train.rec").write_bytes(content[:at] + b"!" + content[at + 1 :])
    assert first.differences(fingerprint(RecordDataset(folder))) == "other images"
