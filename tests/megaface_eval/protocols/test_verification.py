"""ROC, TAR at FAR and EER against loops over pairs and thresholds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score, roc_curve

from megaface_eval.features.feature_set import normalise
from megaface_eval.protocols.verification import (
    Pairs,
    area,
    corners,
    equal_error_rate,
    probe_pairs,
    roc,
    tar_at,
    tar_nearest,
    threshold_at,
    verify,
    weighted_tar,
    whole_identities,
)

scores = st.lists(st.integers(-5, 5), min_size=1, max_size=25)  # whole numbers: ties are the rule


def falling(values):
    return np.sort(np.asarray(values, float))[::-1]


@given(scores, scores, st.sampled_from([0.01, 0.05, 0.1, 0.3, 0.5, 1.0]))
def test_tar_at_far_is_the_best_of_all_thresholds_within_it(mated, nonmated, far):
    mated, nonmated = np.asarray(mated, float), np.asarray(nonmated, float)
    candidates = [*np.unique(np.concatenate([mated, nonmated])), np.inf]
    within = [(mated >= t).mean() for t in candidates if (nonmated >= t).mean() <= far + 1e-12]
    measured = tar_at(mated, falling(nonmated), far)
    if far * len(nonmated) < 1 - 1e-9:
        assert measured is None
    else:
        assert measured == pytest.approx(max(within))


@given(scores, scores)
def test_eer_is_the_best_of_all_thresholds(mated, nonmated):
    mated, nonmated = np.asarray(mated, float), np.asarray(nonmated, float)
    thresholds = np.unique(np.concatenate([mated, nonmated]))
    expected = min(max((mated < t).mean(), (nonmated >= t).mean()) for t in thresholds)
    assert equal_error_rate(mated, falling(nonmated)) == pytest.approx(expected)


@given(scores, scores)
def test_every_point_of_the_roc_is_a_threshold_s_rates(mated, nonmated):
    mated, nonmated = np.asarray(mated, float), np.asarray(nonmated, float)
    points = {(f"{(nonmated >= t).mean():.9f}", f"{(mated >= t).mean():.9f}") for t in np.unique(nonmated)}
    far, tar, _ = roc(mated, falling(nonmated))
    assert {(f"{f:.9f}", f"{t:.9f}") for f, t in zip(far, tar, strict=True)} == points
    assert (np.diff(far) >= 0).all()
    assert (np.diff(tar) >= -1e-12).all()


def test_pairs_are_all_unordered_pairs():
    rng = np.random.default_rng(0)
    unit = normalise(rng.standard_normal((600, 8)).astype(np.float32))
    labels = rng.integers(30, size=600)
    pairs = probe_pairs(unit, unit, labels)
    table = unit.astype(float) @ unit.astype(float).T
    upper = np.triu(np.ones((600, 600), bool), 1)
    same = labels[:, None] == labels
    np.testing.assert_allclose(np.sort(pairs.mated), np.sort(table[upper & same]), atol=1e-11)
    np.testing.assert_allclose(pairs.nonmated, falling(table[upper & ~same]), atol=1e-11)
    one, other = pairs.nonmated_identities[0]
    at = np.unravel_index(np.argmax(np.where(upper & ~same, table, -2)), table.shape)
    assert {one, other} == {np.unique(labels, return_inverse=True)[1][i] for i in at}


@settings(max_examples=20)
@given(st.integers(0, 10**6))
def test_a_weighted_tar_is_that_of_identities_drawn_so_often(seed):
    rng = np.random.default_rng(seed)
    unit = normalise(rng.standard_normal((30, 3)).astype(np.float32))
    labels = np.repeat(np.arange(6), 5)
    pairs = probe_pairs(unit, unit, labels)
    weights = rng.multinomial(6, np.full(6, 1 / 6)).astype(float)
    mated = np.repeat(pairs.mated, weights[pairs.mated_identity].astype(int))
    number = weights[pairs.nonmated_identities].prod(axis=1).astype(int)
    nonmated = np.repeat(pairs.nonmated, number)
    for far in (0.05, 0.2):
        (measured,) = weighted_tar(pairs, weights, (far,))
        if len(nonmated) == 0:
            assert np.isnan(measured)
        elif far * len(nonmated) >= 1:
            assert measured == pytest.approx(tar_at(mated, falling(nonmated), far))


def test_an_interval_is_given_where_a_rate_is():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(20), 8)
    centres = rng.standard_normal((20, 16))
    unit = normalise((centres[labels] + rng.standard_normal((160, 16))).astype(np.float32))
    found = verify(probe_pairs(unit, unit, labels))
    assert found["mated_pairs"] == 20 * 28
    assert found["nonmated_pairs"] == 160 * 159 // 2 - 20 * 28
    for level in found["tar_at_far"]:
        assert (level["tar"] is None) == (level["far"] * found["nonmated_pairs"] < 1)
        if level["tar"] is not None:
            assert level["low"] <= level["tar"] <= level["high"]


def test_no_nonmated_pairs_have_no_rates():
    empty = Pairs(np.ones(3), np.zeros(3, int), np.empty(0), np.empty((0, 2), int), np.array([3]))
    found = verify(empty)
    assert found["eer"] is None
    assert {level["tar"] for level in found["tar_at_far"]} == {None}


def test_a_sample_holds_whole_identities():
    labels = np.random.default_rng(0).integers(40, size=500)
    kept = whole_identities(labels, 200, seed=1)
    assert 100 < len(kept) <= 200
    for label in np.unique(labels[kept]):
        assert (labels[kept] == label).sum() == (labels == label).sum()
    assert whole_identities(labels, 500).tolist() == list(range(500))


@pytest.mark.parametrize("seed", range(4))
def test_an_identity_that_does_not_fit_is_passed_over(seed):
    labels = np.repeat([3, 5, 9], [90, 10, 10])
    assert whole_identities(labels, 20, seed).tolist() == list(range(90, 110))
    assert whole_identities(labels, 5, seed).tolist() == []


@given(mated=scores, nonmated=scores)
def test_corners_are_those_of_scikit_learn_and_the_area_is_too(mated, nonmated):
    far, tar, threshold = corners(np.array(mated, float), falling(nonmated))
    same = [1] * len(mated) + [0] * len(nonmated)
    expected = roc_curve(same, mated + nonmated)
    for got, its in zip((far, tar, threshold), expected, strict=True):
        np.testing.assert_array_equal(got, its)
    assert area(np.array(mated), falling(nonmated)) == pytest.approx(roc_auc_score(same, mated + nonmated))
    for level in (1e-6, 0.05, 0.3):
        away = [abs(one - level) for one in far]
        last = max(i for i, one in enumerate(away) if one == min(away))
        assert tar_nearest((far, tar, threshold), level) == (tar[last], threshold[last], far[last])


@given(mated=scores, nonmated=scores, far=st.sampled_from([0.01, 0.05, 0.2, 0.5, 1.0]))
def test_the_threshold_is_the_lowest_score_that_is_accepted(mated, nonmated, far):
    fits = [t for t in mated + nonmated if np.mean(np.array(nonmated) >= t) <= far + 1e-12]
    expected = min(fits, default=None) if far * len(nonmated) >= 1 else None
    found = threshold_at(np.array(mated), falling(nonmated), far)
    assert found == expected
    if found is not None:
        assert np.mean(np.array(mated) >= found) == tar_at(np.array(mated), falling(nonmated), far)
