"""Merged and cut sets against their sources."""

import numpy as np
import pytest
import sets

from recordio_tools.dataset import RecordDataset
from recordio_tools.recordio import RecordError
from recordio_tools.rewrite import merge, select, subset


def contents(ds: RecordDataset) -> list[tuple[int, bytes]]:
    return [(label, ds.jpeg(i).tobytes()) for i, label in enumerate(ds.labels.tolist())]


@pytest.fixture
def sources(tmp_path):
    mixed = sets.insightface([0, 0, 1, 2, 2, 2])
    np.random.default_rng(0).shuffle(mixed)
    named = sets.write(tmp_path / "a", mixed, "3,8,8", ["x", "y", "z"])
    plain = sets.write(tmp_path / "b", [(9 - n, sets.payload([n % 2, 1.0], b"b%d" % n)) for n in range(5)], "4,8,8")
    return [RecordDataset(named), RecordDataset(plain)]


def test_merge(tmp_path, sources):
    assert merge(sources, tmp_path / "out") == 11
    out = RecordDataset(tmp_path / "out")
    one, other = map(contents, sources)
    assert contents(out) == one + sorted([(label + 3, image) for label, image in other], key=lambda pair: pair[0])
    assert out.num_classes == 7
    assert out.names == ["x", "y", "z", "b-0", "b-1", "b-2", "b-3"]
    assert [out.record(i)[0].label[1] for i in range(6, 11)] == [1.0] * 5


def test_merge_without_names(tmp_path, sources):
    merge([sources[1], sources[1]], tmp_path / "out")
    assert RecordDataset(tmp_path / "out").names is None


def test_merge_refuses_other_sizes(tmp_path, sources):
    other = RecordDataset(sets.write(tmp_path / "c", sets.insightface([0]), "1,9,8"))
    with pytest.raises(RecordError, match=r"image size \(9, 8\) differs from \(8, 8\)"):
        merge([*sources, other], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("most", [None, 1, 2, 100])
def test_select_is_the_plain_loop(most):
    labels = np.random.default_rng(3).integers(0, 8, 60)
    kept, seen = [], {}
    for row, label in enumerate(labels.tolist()):
        if label in (1, 4, 6) and (most is None or seen.get(label, 0) < most):
            kept.append(row)
            seen[label] = seen.get(label, 0) + 1
    assert select(labels, np.array([1, 4, 6]), most).tolist() == kept


def test_subset(tmp_path, sources):
    subset(sources[0], tmp_path / "out", identities=range(1, 3), max_per_identity=2)
    out = RecordDataset(tmp_path / "out")
    source = contents(sources[0])
    assert contents(out) == [(0, source[2][1]), (1, source[3][1]), (1, source[4][1])]
    assert (out.names, out.num_classes) == (["y", "z"], 2)
    assert not (tmp_path / "out" / "manifest.json").exists()


@pytest.mark.parametrize(
    "options, words",
    [
        ({"identities": range(2, 5)}, "identities 2:5 given, expected a range within 0:4"),
        ({"identities": range(2, 2)}, "identities 2:2 given"),
        ({"identities": range(2, 4)}, "identities 2:4 have no image"),
        ({"max_per_identity": 0}, "at most 0 images per identity given"),
    ],
)
def test_subset_refuses_what_is_not_there(tmp_path, sources, options, words):
    with pytest.raises(RecordError, match=words):
        subset(sources[1], tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
