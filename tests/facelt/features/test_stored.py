"""A feature set read back; every way in which a folder is none."""

import numpy as np
import pytest

from facelt.errors import UserError
from facelt.features.stored import read_features


@pytest.fixture
def folder(tmp_path):
    np.save(tmp_path / "features.npy", np.arange(12, dtype=np.float32).reshape(4, 3))
    np.save(tmp_path / "labels.npy", np.array([0, 1, 1, 4]))
    return tmp_path


def test_what_was_written_is_read(folder):
    features = read_features(str(folder))
    assert (len(features), features.num_classes, features.names) == (4, 5, None)
    np.testing.assert_array_equal(features.rows_ND, np.arange(12).reshape(4, 3))
    np.testing.assert_array_equal(features.labels, [0, 1, 1, 4])
    (folder / "names.txt").write_text("a\nb\nc\nd\ne\n")
    assert read_features(str(folder)).names == ["a", "b", "c", "d", "e"]


@pytest.mark.parametrize(
    "name, value, said",
    [
        ("features.npy", np.ones(4, np.float32), "expected N x D floats"),
        ("features.npy", np.ones((4, 3), np.int64), "expected N x D floats"),
        ("features.npy", np.ones((0, 3), np.float32), "expected N x D floats"),
        ("labels.npy", np.arange(3), "expected 4 integers from 0"),
        ("labels.npy", np.array([0, 1, -1, 2]), "expected 4 integers from 0"),
        ("labels.npy", np.zeros(4), "expected 4 integers from 0"),
        ("labels.npy", np.array([{}, 1, 2, 3]), "is not readable"),
    ],
)
def test_parts_that_do_not_fit_are_refused(folder, name, value, said):
    np.save(folder / name, value)
    with pytest.raises(UserError, match=said):
        read_features(str(folder))


def test_missing_and_damaged_files_are_refused(folder):
    (folder / "names.txt").write_text("a\nb\n")
    with pytest.raises(UserError, match=r"names\.txt has 2 lines, labels go to 4"):
        read_features(str(folder))
    (folder / "features.npy").write_bytes((folder / "features.npy").read_bytes()[:100])
    with pytest.raises(UserError, match=r"features\.npy is not readable"):
        read_features(str(folder))
    (folder / "features.npy").unlink()
    with pytest.raises(UserError, match=r"no features\.npy in it; give a feature set"):
        read_features(str(folder))
