"""Subsets against the source."""

import numpy as np
import pytest
import sets

from recordio_tools.dataset import RecordDataset
from recordio_tools.format.recordio import RecordError
from recordio_tools.rewrite.subset import first_images, subset

LABELS = [0, 0, 0, 0, 1, 2, 2, 3, 3, 3]


@pytest.fixture
def source(tmp_path):
    records = sets.insightface(LABELS)
    np.random.default_rng(0).shuffle(records)
    return RecordDataset(sets.write(tmp_path / "a", records, "5,8,8", ["w", "x", "y", "z", "nobody"]))


def kept(tmp_path, source, **options) -> tuple[list[int], list[str]]:
    """Rows of the source that the subset holds, found by their bytes, and its names; labels must fit both."""
    subset(source, tmp_path / "out", **options)
    out = RecordDataset(tmp_path / "out")
    images = [source.jpeg(i).tobytes() for i in range(len(source))]
    rows = [images.index(out.jpeg(i).tobytes()) for i in range(len(out))]
    assert [out.names[label] for label in out.labels] == [source.names[LABELS[row]] for row in rows]
    return rows, out.names


@pytest.mark.parametrize("most", [1, 2, 100])
def test_first_images_is_the_plain_loop(most):
    labels = np.random.default_rng(3).integers(0, 8, 60)
    expected, seen = [], {}
    for row, label in enumerate(labels.tolist()):
        if row % 3 and seen.get(label, 0) < most:
            expected.append(row)
            seen[label] = seen.get(label, 0) + 1
    assert first_images(labels, np.flatnonzero(np.arange(60) % 3), most).tolist() == expected


def test_by_range(tmp_path, source):
    assert kept(tmp_path, source, identities=range(1, 3)) == ([4, 5, 6], ["x", "y"])


def test_by_list(tmp_path, source):
    (tmp_path / "list.txt").write_text("z\nx\n")
    assert kept(tmp_path, source, listed=tmp_path / "list.txt") == ([4, 7, 8, 9], ["x", "z"])


def test_by_counts(tmp_path, source):
    assert kept(tmp_path, source, min_images=2, max_images=3) == ([5, 6, 7, 8, 9], ["y", "z"])


def test_all_conditions_together(tmp_path, source):
    (tmp_path / "list.txt").write_text("w\nx\nz\n")
    options = {"listed": tmp_path / "list.txt", "min_images": 2, "identities": range(0, 4), "max_per_identity": 2}
    assert kept(tmp_path, source, **options) == ([0, 1, 7, 8], ["w", "z"])


def test_lists_of_labels_where_there_are_no_names(tmp_path):
    source = RecordDataset(sets.write(tmp_path / "b", sets.insightface([0, 1, 2])))
    (tmp_path / "list.txt").write_text("2\n0\n")
    subset(source, tmp_path / "out", listed=tmp_path / "list.txt")
    assert RecordDataset(tmp_path / "out").jpeg(1).tobytes() == sets.jpeg(21)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"identities": range(2, 6)}, "identities 2:6 given, expected a range within 0:5"),
        ({"identities": range(2, 2)}, "identities 2:2 given"),
        ({"identities": range(4, 5)}, "no identity with an image meets what is asked for"),
        ({"min_images": 9}, "no identity with an image"),
        ({"max_per_identity": 0}, "at most 0 images per identity given"),
    ],
)
def test_what_is_not_there_is_refused(tmp_path, source, options, words):
    with pytest.raises(RecordError, match=words):
        subset(source, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_unknown_identities_are_refused(tmp_path, source):
    (tmp_path / "list.txt").write_text("x\n3\n")
    with pytest.raises(RecordError, match="line 2 is '3', expected the name of an identity"):
        subset(source, tmp_path / "out", listed=tmp_path / "list.txt")
