"""Who is who in two sets, on sets of a few images."""

import json
from pathlib import Path

import numpy as np
import pytest
from faces import write_faces

from facelt.features.stored import FeatureSet
from facelt.open_world.people import known_people, other_class, same_images
from recordio_tools.dataset import RecordDataset


def features(labels, names=None, listed=None, value=1.0) -> FeatureSet:
    return FeatureSet(np.full((len(labels), 2), value, np.float32), np.array(labels), names, listed)


@pytest.mark.parametrize(
    "train, test, want",
    [
        ((None, None), (None, None), None),
        ((list("abc"), None), (list("abc"), [0, 2, 5]), None),  # names decide
        ((list("abc"), None), (list("ac"), None), (1, "c", "b")),
        ((None, [0, 1, 2]), (None, [0, 2]), (1, "label 2 of the list", "label 1 of the list")),
        ((None, [0, 2, 5]), (None, [0, 2]), None),
        ((list("abc"), None), (None, [0, 2]), (1, "label 2 of the list", "label 1 of the list")),
        ((None, [0, 2, 5]), (None, None), (1, "label 1 of the list", "label 2 of the list")),
    ],
)
def test_a_label_of_another_class(train, test, want):
    assert other_class(features([0, 1, 2], *train), features([0, 1], *test)) == want


@pytest.mark.parametrize(
    "train, strangers, want",
    [
        ((list("abc"), [0, 1, 2]), (list("bd"), [0, 1]), [(0, "b")]),
        ((None, [0, 1, 2]), (None, [2, -1]), [(0, "label 2 of the list")]),
        ((None, [0, 1, -1]), (None, [7, -1]), []),
        ((None, None), (None, [0, 1]), []),  # numbers of their own, for all that is known
    ],
)
def test_strangers_who_are_known(train, strangers, want):
    assert known_people(features([0, 1, 2], *train), features([0, 1], *strangers)) == want


def with_paths(folder: Path, paths: list[str], labels: int) -> RecordDataset:
    write_faces(folder, classes=labels, images=len(paths) // labels)
    (folder / "names.txt").unlink()
    (folder / "paths.txt").write_text("".join(f"{path}\n" for path in paths))
    return RecordDataset(folder)


def test_strangers_of_a_known_person_s_folder(tmp_path):
    train = with_paths(tmp_path / "train", ["a/1", "a/2", "all/1", "all/2", "all/3", "c/1"], 3)
    known = with_paths(tmp_path / "open", ["z/1", "all/4", "d/1", "a/9"], 2)
    assert known_people(train, known) == [(1, "in folder a")]
    (tmp_path / "train" / "manifest.json").write_text(json.dumps({"list_labels": [0, 1, 2]}))
    (tmp_path / "open" / "manifest.json").write_text(json.dumps({"list_labels": [-1, 0]}))
    sets = [RecordDataset(tmp_path / name) for name in ("train", "open")]
    assert known_people(*sets) == [(1, "label 0 of the list")]


def test_a_set_is_the_same_wherever_it_lies(tmp_path):
    one, other = (RecordDataset(write_faces(tmp_path / name, classes=2)) for name in ("one", "other"))
    assert same_images(one, other)
    assert not same_images(one, RecordDataset(write_faces(tmp_path / "more", classes=3)))
    assert same_images(features([0, 1]), features([0, 1]))
    assert not same_images(features([0, 1]), features([0, 1], value=2.0))
    assert not same_images(features([0, 1]), features([0, 0]))
    assert not same_images(one, features([0, 1]))
