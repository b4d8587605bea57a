"""Small feature sets in memory and on disk, and what is read back of them."""

import json

import numpy as np

from megaface_eval.features.feature_set import ArrayRows, FeatureSet, normalise


def unit_rows(rng, number, dimension):
    """Rows spread evenly over all directions, float32, of length 1."""
    return normalise(rng.standard_normal((number, dimension)).astype(np.float32))


def set_of(rows, labels=None, where="set", paths=None):
    """A feature set of these rows; all of one identity unless labels are given."""
    rows = np.asarray(rows, np.float32)
    return FeatureSet(ArrayRows(rows), np.zeros(len(rows), np.int64) if labels is None else labels, where, paths=paths)


def report_in(folder):
    """The contents of a report folder's report.json."""
    return json.loads((folder / "report.json").read_text())
