"""Verification packs and the ten-fold protocol."""

import numpy as np
import pytest

from megaface_eval.features.feature_set import load_features, write_features
from megaface_eval.formats.packs import pack_distances, score_pairs, ten_fold, validate


def plain_ten_fold(distances, same):
    """Accuracy of each fold by loops over thresholds."""
    folds = np.array_split(np.arange(len(same)), 10)
    accuracies = []
    for fold in folds:
        rest = [i for i in range(len(same)) if i not in set(fold)]
        best, best_rate = 0.0, -1.0
        for step in range(400):
            rate = np.mean([(distances[i] < step * 0.01) == same[i] for i in rest])
            if rate > best_rate:
                best, best_rate = step * 0.01, rate
        accuracies.append(np.mean([(distances[i] < best) == same[i] for i in fold]))
    return np.mean(accuracies), np.std(accuracies)


def test_ten_fold_equals_a_loop():
    rng = np.random.default_rng(0)
    same = rng.random(103) < 0.5
    distances = np.where(same, 1.0, 1.9) + 0.5 * rng.standard_normal(103)
    score = ten_fold(distances, same)
    assert (score.accuracy, score.spread) == pytest.approx(plain_ten_fold(distances, same))
    assert 0.6 < score.accuracy < 1


def test_distances_with_and_without_the_mirror_image(tmp_path):
    rng = np.random.default_rng(0)
    one, other = rng.standard_normal((2, 8, 16)).astype(np.float32)
    write_features(tmp_path / "a", one, np.arange(8))
    write_features(tmp_path / "b", other, np.arange(8))
    plain, mirrored = load_features(tmp_path / "a"), load_features(tmp_path / "b")
    for rows, extra in ((one, None), (one.astype(float) + other, mirrored)):
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        expected = [((unit[2 * i] - unit[2 * i + 1]) ** 2).sum() for i in range(4)]
        np.testing.assert_allclose(pack_distances(plain, extra), expected, rtol=1e-5)


def plain_validate(distances, same, far):
    """VAL and FAR of each fold by loops over thresholds."""
    met = []
    for fold in np.array_split(np.arange(len(same)), 10):
        rest = [i for i in range(len(same)) if i not in set(fold) and not same[i]]
        within = [t / 1000 for t in range(4000) if np.mean([distances[i] < t / 1000 for i in rest]) <= far]
        threshold = max(within)
        met.append([np.mean([distances[i] < threshold for i in fold if same[i] == kind]) for kind in (True, False)])
    return np.mean(met, axis=0), np.std([one for one, _ in met])


@pytest.mark.parametrize("far", [1e-3, 0.05, 0.3])
def test_val_equals_a_loop(far):
    rng = np.random.default_rng(1)
    same = np.arange(80) % 2 == 0
    distances = np.where(same, 1.0, 1.9) + 0.5 * rng.standard_normal(80)
    (val, met), spread = plain_validate(distances, same, far)
    found = validate(distances, same, far)
    assert (found.val, found.far, found.spread) == pytest.approx((val, met, spread))


def test_area_and_eer_equal_loops():
    rng = np.random.default_rng(2)
    same = rng.random(60) < 0.5
    distances = np.round(np.where(same, 1.0, 1.5) + 0.5 * rng.standard_normal(60), 1)  # with ties
    found = score_pairs(distances, same)
    first = [(a < b) + (a == b) / 2 for a in distances[same] for b in distances[~same]]
    assert found.auc == pytest.approx(np.mean(first))
    errors = [max(np.mean(distances[~same] <= t), np.mean(distances[same] > t)) for t in [-1, *distances]]
    assert found.eer == pytest.approx(min(errors))


def test_what_pairs_of_one_kind_cannot_tell_is_left_out():
    found = score_pairs(np.linspace(0, 2, 20), np.ones(20, bool))
    assert (found.validation, found.auc, found.eer) == (None, None, None)
    same = np.arange(40) >= 20  # the first folds hold strangers alone
    assert score_pairs(np.linspace(0, 2, 40), same).validation is None
