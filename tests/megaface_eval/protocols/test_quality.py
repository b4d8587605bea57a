"""Error against reject, beside a slow twin written from the definition."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megaface_eval.protocols.quality import AREA_TO, SHARES, Trials, errors_by_rejected, mean_error, measure


def slow_errors(errors, rows, quality):
    """Error with 0 … Q images rejected at most: whole groups of equal quality, from the worst, while they fit."""
    found = []
    for allowed in range(len(quality) + 1):
        rejected = set()
        for value in sorted(set(quality)):
            group = {i for i, q in enumerate(quality) if q == value}
            if len(rejected) + len(group) > allowed:
                break
            rejected |= group
        left = [wrong for wrong, (one, two) in zip(errors, rows, strict=True) if not rejected & {one, two}]
        found.append(sum(left) / len(left) if left else None)
    return found


def slow_mean(errors, images, to=Fraction(1, 5)):
    """The area under the steps, in exact shares."""
    area = 0.0
    for rejected, error in enumerate(errors):
        width = min(Fraction(rejected + 1, images), to) - min(Fraction(rejected, images), to)
        if width > 0 and error is None:
            return None
        area += float(width) * (error or 0.0)
    return area / float(to)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 14), st.integers(1, 6))
def test_the_curve_and_its_area_are_the_plain_ones(seed, images, values):
    rng = np.random.default_rng(seed)
    quality = rng.integers(0, values, images).astype(float)  # with ties
    rows = np.array([(i, j) for i in range(images) for j in range(images) if i != j and rng.random() < 0.7] or [(0, 1)])
    wrong = rng.random(len(rows)) < 0.4
    trials = Trials.of(wrong, rows, quality, np.arange(images) // 2)
    fast, slow = errors_by_rejected(trials), slow_errors(wrong.tolist(), rows.tolist(), quality.tolist())
    assert [None if np.isnan(e) else pytest.approx(e) for e in fast] == slow
    expected = slow_mean(slow[:-1], images)
    assert mean_error(fast) == (None if expected is None else pytest.approx(expected))


def test_equal_quality_rejects_nobody_and_order_decides_nothing():
    rng = np.random.default_rng(0)
    rows = np.array([(i, j) for i in range(30) for j in range(i)])
    wrong, labels = rng.random(len(rows)) < 0.3, np.arange(30) // 3
    found = measure(Trials.of(wrong, rows, np.ones(30), labels))
    assert set(found["curve"]["error"]) == {wrong.mean()}
    assert found["relative"] == pytest.approx(1)
    quality, order = rng.integers(0, 5, 30).astype(float), rng.permutation(30)
    shuffled = Trials.of(wrong, np.argsort(order)[rows], quality[order], labels[order])
    assert measure(Trials.of(wrong, rows, quality, labels))["curve"] == measure(shuffled)["curve"]


def test_a_quality_that_knows_rejects_errors_first():
    rows = np.array([(i, i + 1) for i in range(0, 100, 2)])
    bad = np.arange(50) < 10  # a tenth of the images are in the bad pairs' first half
    quality = np.ones(100)
    quality[rows[bad, 0]] = 0
    found = measure(Trials.of(bad, rows, quality, np.arange(100) // 2))
    assert found["at"][0]["rate"] == 0.2
    assert [at["rate"] for at in found["at"][2:]] == [0, 0]
    assert (found["at"][2]["trials"], found["at"][2]["low"]) == (40, 0)
    assert found["mean"] == pytest.approx(0.2 * 0.1 / AREA_TO)
    assert found["curve"]["share"] == list(SHARES[: 1 + len(found["curve"]["share"]) - 1])


def test_no_errors_have_no_relative_and_no_trials_no_area():
    rows = np.array([(0, 1), (2, 3)])
    assert measure(Trials.of(np.zeros(2, bool), rows, np.arange(4.0), np.array([0, 0, 1, 1])))["relative"] is None
    lone = measure(Trials.of(np.ones(1, bool), np.array([(0, 1)]), np.arange(20.0), np.zeros(20, int)))
    assert (lone["mean"], lone["curve"]["share"][-1] < 0.06) == (None, True)
