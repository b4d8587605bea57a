"""One threshold for everybody is the one that TAR is taken at."""

import numpy as np
import pytest

from megaface_eval.errors import InputError
from megaface_eval.protocols.threshold import check_measurable, mated_rows, refused_at
from megaface_eval.protocols.verification import probe_pairs, tar_at


def test_false_non_match_with_all_images_is_what_tar_leaves():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 12, 60)
    unit = rng.standard_normal((60, 8)) + rng.standard_normal((12, 8))[labels]
    unit = (unit / np.linalg.norm(unit, axis=1, keepdims=True)).astype(np.float32)
    pairs, rows = probe_pairs(unit, unit, labels), mated_rows(labels)
    scores = (unit[rows[:, 0]].astype(float) * unit[rows[:, 1]]).sum(axis=1)
    np.testing.assert_allclose(pairs.mated, scores, atol=1e-11)  # rows in the order of the pairs
    for fmr in (0.01, 0.1):
        missed = pairs.mated <= refused_at(pairs.nonmated, fmr)
        assert 1 - missed.mean() == pytest.approx(tar_at(pairs.mated, pairs.nonmated, fmr))


def test_an_fmr_needs_pairs_enough():
    labels = np.repeat(np.arange(5), 4)  # 160 pairs of two people
    check_measurable(labels, 1 / 160)
    with pytest.raises(InputError, match="160 pairs of two people's probes, expected at least 200"):
        check_measurable(labels, 1 / 200)
    with pytest.raises(InputError, match="0 pairs"):
        check_measurable(np.zeros(4, int), 0.5)
