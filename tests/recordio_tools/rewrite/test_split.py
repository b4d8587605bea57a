"""Parts of a set: disjoint, of the sizes asked for, with one meaning of a label."""

import numpy as np
import pytest
import sets
from hypothesis import given
from hypothesis import strategies as st

from recordio_tools.__main__ import main
from recordio_tools.dataset import RecordDataset
from recordio_tools.errors import UserError
from recordio_tools.rewrite import split

COUNTS = [9, 6, 30, 4, 7]
LABELS = np.repeat(np.arange(5), COUNTS)


@pytest.fixture
def source(tmp_path):
    labels = np.random.default_rng(0).permutation(LABELS)
    return RecordDataset(sets.write(tmp_path / "source", sets.insightface(labels.tolist()), "5,8,8", list("abcde")))


@given(st.integers(0, 2), st.integers(0, 1), st.sampled_from([None, range(0, 1), range(3, 5)]), st.integers(0, 9))
def test_every_image_is_in_one_part_and_parts_have_their_sizes(validation, test, strangers, seed):
    class Source:
        labels, num_classes, folder = np.random.default_rng(seed).permutation(LABELS), 5, "set"

        def __len__(self):
            return len(LABELS)

    if not (validation or test or strangers):
        return
    rows = split.assign(Source(), split.Parts(validation, test, strangers), seed)
    assert np.sort(np.concatenate(list(rows.values()))).tolist() == list(range(len(LABELS)))
    known = [label for label in range(5) if label not in (strangers or ())]
    for name, size in (("validation", validation), ("test", test)):
        assert (name in rows) == (size > 0)
        if size:
            counted = np.bincount(Source.labels[rows[name]], minlength=5)
            assert counted.tolist() == [size * (label in known) for label in range(5)]
    assert set(Source.labels[rows["train"]]) == set(known)
    assert ("open" in rows) == (strangers is not None)


def test_places_are_an_order_of_each_identity_by_its_draws():
    labels = np.random.default_rng(1).integers(0, 4, 50)
    draws, place = split.uniforms(3, 50), split.places(labels, 3)
    for label in range(4):
        own = np.flatnonzero(labels == label)
        assert own[np.argsort(draws[own])].tolist() == own[np.argsort(place[own])].tolist()
        assert sorted(place[own]) == list(range(len(own)))


def test_the_parts_are_data_folders_with_the_same_labels(tmp_path, source, capsys):
    out = tmp_path / "out"
    words = ["split", str(source.folder), str(out), "--validation", "2", "--test", "1", "--open", "2:4"]
    assert main(words) == 0
    assert f"{out / 'open'}: 34 images of 2 identities\n" in capsys.readouterr().err
    parts = {name: RecordDataset(out / name) for name in ("train", "validation", "test", "open")}
    assert [parts[name].names for name in parts] == [["a", "b", "e"]] * 3 + [["c", "d"]]
    assert np.bincount(parts["train"].labels).tolist() == [6, 3, 4]
    assert np.bincount(parts["validation"].labels).tolist() == [2, 2, 2]
    images = [bytes(one.jpeg(i)) for one in parts.values() for i in range(len(one))]
    assert len(images) == len(source)
    assert sorted(images) == sorted(bytes(source.jpeg(i)) for i in range(len(source)))


@pytest.mark.parametrize(
    "parts, words",
    [
        (split.Parts(), "nothing to hold out"),
        (split.Parts(validation=3, test=1), "identity 3 has 4 images, expected 5 at least to hold out 4"),
        (split.Parts(strangers=range(4, 6)), "strangers 4:6 given, expected a range within 0:5"),
        (split.Parts(strangers=range(0, 5)), "strangers 0:5 given"),
        (split.Parts(strangers=range(2, 2)), "strangers 2:2 given"),
    ],
)
def test_what_cannot_be_split_is_refused_and_nothing_is_written(tmp_path, source, parts, words):
    with pytest.raises(UserError, match=words):
        split.split(source, tmp_path / "out", parts, seed=0)
    assert not (tmp_path / "out").exists()
