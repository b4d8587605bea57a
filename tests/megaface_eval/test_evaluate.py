"""Columns of the table, and scores by which probes are accepted as known."""

import numpy as np
import pytest

from megaface_eval.errors import InputError
from megaface_eval.evaluate import acceptance_score, group_columns, shot_columns
from megaface_eval.features.feature_set import load_features, write_features


def test_buckets_without_counts_are_not_measured():
    columns = shot_columns(None, (5, 2, 1), 3)
    assert [(column.key, column.probes is None) for column in columns] == [
        ("many", True), ("few", True), ("one", True), ("zero", True), ("full", False),
    ]  # fmt: skip
    measured = {column.key: column.probes for column in shot_columns(np.array([0, 2, 7]), (5, 2, 1), 3)}
    assert measured["few"].tolist() == [False, True, False]
    assert measured["full"].all()


def test_sub_groups_have_a_column_each():
    (column,) = group_columns({"gender": {"Male": np.array([True])}})
    assert (column.key, column.title, column.group) == ("group:Male", "Male", "Sub-groups")
    male, old = group_columns({"gender": {"Male": np.array([True])}, "age": {"Old": np.array([True])}})
    assert (male.group, old.group) == ("Sub-groups: gender", "Sub-groups: age")


def test_acceptance_is_by_length_or_by_a_column_and_may_be_negated(tmp_path):
    rows = np.array([[3, 4], [0, 2]], np.float32)
    write_features(tmp_path, rows, np.zeros(2, int))
    np.save(tmp_path / "distance.npy", np.array([1, 5]))
    probes = load_features(tmp_path)
    for name, scores in (("norm", [5, 2]), ("-norm", [-5, -2]), ("distance.npy", [1, 5]), ("-distance.npy", [-1, -5])):
        assert acceptance_score(probes, name).tolist() == scores
    with pytest.raises(InputError, match="no readable"):
        acceptance_score(probes, "none.npy")
