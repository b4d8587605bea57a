"""Merged sets against their sources."""

import numpy as np
import pytest
import sets

from recordio_tools.dataset import RecordDataset
from recordio_tools.format.recordio import RecordError
from recordio_tools.rewrite.merge import merge


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


def test_identities_of_one_name_are_one(tmp_path, sources):
    other = RecordDataset(sets.write(tmp_path / "c", sets.insightface([0, 1]), "2,8,8", ["z", "new"]))
    merge([sources[0], other], tmp_path / "out", by_name=True)
    out = RecordDataset(tmp_path / "out")
    assert out.names == ["x", "y", "z", "new"]
    one, two = contents(sources[0]), contents(other)
    assert sorted(contents(out)) == sorted([*one, (2, two[0][1]), (3, two[1][1])])


def test_a_mapping_says_who_is_who(tmp_path, sources):
    (tmp_path / "map.tsv").write_text("1\t0\ty\n0\t1\ty\n1\t3\tAda Lovelace\n")
    merge(sources, tmp_path / "out", mapping=tmp_path / "map.tsv")
    out = RecordDataset(tmp_path / "out")
    assert out.names == ["x", "y", "z", "b-1", "b-2", "Ada Lovelace"]
    new_label = [{0: 0, 1: 1, 2: 2}, {0: 1, 1: 3}]
    expected = [(new_label[n][label], image) for n, ds in enumerate(sources) for label, image in contents(ds)]
    assert sorted(contents(out)) == sorted(expected)


@pytest.mark.parametrize(
    "text, words",
    [
        ("0 1 y\n", "line 1 is '0 1 y', expected source<TAB>label<TAB>name"),
        ("0\t1\ty\nx\t1\ty\n", "line 2 is"),
        ("2\t0\ty\n", "source 2 label 0 is not among the 2 sets given"),
        ("0\t3\ty\n", "source 0 label 3 is not"),
        ("0\t1\t\n", "line 1 is"),
    ],
)
def test_mappings_that_do_not_fit(tmp_path, sources, text, words):
    (tmp_path / "map.tsv").write_text(text)
    with pytest.raises(RecordError, match=words):
        merge(sources, tmp_path / "out", mapping=tmp_path / "map.tsv")
    assert not (tmp_path / "out").exists()


def test_joining_by_name_needs_names(tmp_path, sources):
    with pytest.raises(RecordError, match=r"has no names\.txt"):
        merge(sources, tmp_path / "out", by_name=True)
