"""A score is one number, whoever computes it beside what."""

from fractions import Fraction

import numpy as np
import pytest
from small_sets import unit_rows

from megaface_eval.search import scores
from megaface_eval.search.scores import product_error, score_pairs


def test_a_score_is_the_exact_product_to_the_last_bits_of_float64():
    left, right = unit_rows(np.random.default_rng(1), 20, 512), unit_rows(np.random.default_rng(2), 20, 512)
    measured = score_pairs(left, np.arange(20), right, np.arange(20))
    for i in range(20):
        exact = sum(Fraction(float(a)) * Fraction(float(b)) for a, b in zip(left[i], right[i], strict=True))
        assert abs(Fraction(measured[i]) - exact) < Fraction(product_error(512, np.float64))


def test_a_score_does_not_depend_on_the_pairs_beside_it(monkeypatch):
    left, right = unit_rows(np.random.default_rng(1), 40, 65), unit_rows(np.random.default_rng(2), 50, 65)
    rng = np.random.default_rng(0)
    one, other = rng.integers(40, size=300), rng.integers(50, size=300)
    whole = score_pairs(left, one, right, other)
    alone = [
        score_pairs(left[a : a + 1], np.zeros(1, int), right[b : b + 1], np.zeros(1, int))[0]
        for a, b in zip(one, other, strict=True)
    ]
    np.testing.assert_array_equal(whole, alone)
    np.testing.assert_array_equal(whole, score_pairs(right, other, left, one))
    monkeypatch.setattr(scores, "CHUNK", 7)
    np.testing.assert_array_equal(whole, score_pairs(left, one, right, other))


def test_the_bounds_are_those_of_higham():
    unit = 2.0**-24
    assert product_error(512) == pytest.approx(514 * unit, rel=0.02)
    assert product_error(512, np.float64) == pytest.approx(2 * 514 * 2.0**-53, rel=0.02)
