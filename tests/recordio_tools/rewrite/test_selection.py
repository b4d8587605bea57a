"""Selections against the source, with given and with numbered labels."""

import json

import numpy as np
import pytest
import sets

from recordio_tools.dataset import RecordDataset
from recordio_tools.format.recordio import RecordError
from recordio_tools.rewrite.selection import relabel, write_selection


@pytest.fixture
def source(tmp_path):
    return RecordDataset(sets.write(tmp_path / "source", sets.insightface([0, 0, 1, 2, 2]), "4,8,8", list("abcd")))


def test_relabel():
    assert relabel(np.array([4, 1, 4]), 6).tolist() == [-1, 0, -1, -1, 1, -1]


def test_identities_can_be_given_other_labels(tmp_path, source):
    manifest = write_selection(source, np.array([0, 3, 4]), tmp_path / "out", labels=np.array([1, 0, 0]))
    assert manifest["by_old_label"]["new_label"] == [1, -1, 0, -1]
    out = RecordDataset(tmp_path / "out")
    assert (out.labels.tolist(), out.names) == ([0, 0, 1], ["c", "a"])
    assert [out.jpeg(i).tobytes() for i in range(3)] == [source.jpeg(i).tobytes() for i in (3, 4, 0)]
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_identities_can_be_split_and_joined(tmp_path, source):
    manifest = write_selection(source, np.arange(5), tmp_path / "out", labels=np.array([0, 1, 1, 1, 1]))
    assert manifest["by_old_label"]["new_label"] == [None, 1, 1, -1]
    out = RecordDataset(tmp_path / "out")
    assert (out.labels.tolist(), out.num_classes, out.names) == ([0, 1, 1, 1, 1], 2, None)


def test_the_manifest_names_what_was_chosen(tmp_path, source):
    manifest = write_selection(source, np.array([2, 3]), tmp_path / "out", choice={"method": "mine"})
    assert manifest == json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert (manifest["method"], manifest["images"], manifest["identities"], manifest["dropped"]) == ("mine", 2, 2, [0])
    assert manifest["source"]["name"] == "source"
    assert manifest["by_old_label"] == {"before": [2, 1, 2, 0], "after": [0, 1, 1, 0], "new_label": [-1, 0, 1, -1]}


def test_nothing_selected(tmp_path, source):
    with pytest.raises(RecordError, match="no image is selected"):
        write_selection(source, np.zeros(0, np.int64), tmp_path / "out")
