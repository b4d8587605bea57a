"""Attributes of identities."""

import numpy as np
import pytest

from megaface_eval.errors import InputError
from megaface_eval.features.feature_set import ArrayRows, FeatureSet
from megaface_eval.features.subgroups import find_subgroups, read_subgroups


@pytest.fixture
def probes():
    labels = np.array([0, 0, 1, 2, 2])
    return FeatureSet(ArrayRows(np.ones((5, 2), np.float32)), labels, "set", ["ann", "bob", "cat"])


def write(tmp_path, text):
    (tmp_path / "groups.tsv").write_text(text, encoding="utf-8")
    return tmp_path / "groups.tsv"


def test_two_columns_are_one_attribute(tmp_path, probes):
    path = write(tmp_path, "# comment\nann\tfemale\n\nbob\tmale\ncat\tfemale\nzoe\tmale\n")
    (masks,) = find_subgroups(path, probes).masks.values()
    assert {key: mask.tolist() for key, mask in masks.items()} == {
        "Female": [True, True, False, True, True],
        "Male": [False, False, True, False, False],
    }


def test_a_header_names_several_attributes(tmp_path, probes):
    path = write(tmp_path, "identity\tgender\tage\nann\tfemale\told\nbob\tmale\tyoung\ncat\tfemale\t\n")
    assert read_subgroups(path)["age"] == {"ann": "old", "bob": "young", "cat": ""}
    masks = find_subgroups(path, probes).masks
    assert {attribute: list(groups) for attribute, groups in masks.items()} == {
        "gender": ["Female", "Male"], "age": ["Old", "Young"],
    }  # fmt: skip
    assert masks["age"]["Old"].tolist() == [True, True, False, False, False]


def test_identities_without_names_go_by_their_number(tmp_path):
    probes = FeatureSet(ArrayRows(np.ones((2, 2), np.float32)), np.array([0, 5]), "set")
    masks = find_subgroups(write(tmp_path, "5\tMale\n0\tFemale\n"), probes).masks
    assert masks["group"]["Male"].tolist() == [False, True]


def test_a_value_of_two_attributes_has_two_titles(tmp_path, probes):
    path = write(tmp_path, "identity\thair\teyes\nann\tdark\tdark\nbob\tfair\tfair\ncat\tdark\tfair\n")
    masks = find_subgroups(path, probes).masks
    assert [list(groups) for groups in masks.values()] == [["Dark", "Fair"], ["eyes Dark", "eyes Fair"]]


@pytest.mark.parametrize(
    "text, problem",
    [
        ("", "no lines"),
        ("ann male\n", "has 1 tab-separated"),
        ("ann\tf\tx\n", "has 3 tab-separated"),
        ("ann\tf\nann\tm\n", "'ann' again"),
        ("zoe\tf\n", "none of the 3 people is in it \\(such as 'ann'\\)"),
        ("ann\t\n", "none of the 3 people"),
        ("bob\tm\nann\t\n", "2 of 3 people are not in it \\(such as 'ann'\\); complete it, or give --partial"),
        ("identity\ta\tb\nann\tf\n", "line 2 has 2"),
        ("identity\ta\ta\nann\tf\tm\n", "an attribute twice"),
    ],
)
def test_what_cannot_be_right_is_refused(tmp_path, probes, text, problem):
    with pytest.raises(InputError, match=problem):
        find_subgroups(write(tmp_path, text), probes)


def test_a_part_of_the_people_is_taken_when_said(tmp_path, probes):
    path = write(tmp_path, "ann\tf\ncat\tm\n")
    found = find_subgroups(path, probes, partial=True)
    assert found.left_out == f"{path}: 1 of 3 people are not in it (such as 'bob') and are in no group"
    assert sum(found.masks["group"].values()).tolist() == [True, True, False, True, True]
    assert find_subgroups(write(tmp_path, "ann\tf\ncat\tm\nbob\tm\n"), probes, partial=True).left_out == ""
    with pytest.raises(InputError, match="none of the 3 people"):
        find_subgroups(write(tmp_path, "zoe\tf\n"), probes, partial=True)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="not readable"):
        read_subgroups(tmp_path / "none.tsv")
