"""Rates, curves and intervals, recomputed by hand."""

import numpy as np
import pytest

from megaface_eval.protocols.metrics import Bootstrap, Tallies, cmc, tally


def test_cmc_steps():
    ranks = np.array([0, 0, 3, 0, 10, 3, 0, 700])
    steps, recall = cmc(ranks)
    assert steps.tolist() == [0, 3, 10, 700]
    assert recall.tolist() == [0.5, 0.75, 0.875, 1.0]
    for k in (1, 2, 4, 11, 700, 701):
        expected = sum(r < k for r in ranks) / len(ranks)
        assert recall[np.searchsorted(steps, k - 1, side="right") - 1] == expected


def test_cmc_begins_at_rank_0_even_when_nobody_is_found_there():
    steps, recall = cmc(np.array([2, 2]))
    assert (steps.tolist(), recall.tolist()) == ([0, 2], [0.0, 1.0])


def test_no_trials_have_no_rate():
    assert Tallies(np.zeros(3), np.zeros(3)).rate is None


def test_tallies_count_hits_of_the_chosen_probes_by_identity():
    labels = np.array([7, 7, 2, 2, 2])
    query = np.array([0, 1, 2, 2, 3, 4])
    hit = np.array([True, False, True, True, False, True])
    everyone = tally(hit, query, labels, np.ones(5, bool))
    assert (everyone.hits.tolist(), everyone.trials.tolist()) == ([3, 1], [4, 2])  # identities 2 and 7
    some = tally(hit, query, labels, np.array([True, False, False, True, False]))
    assert (some.hits.tolist(), some.trials.tolist()) == ([0, 1], [1, 1])
    assert some.rate == 0.5


def test_resampled_rates_equal_a_loop_over_resamples():
    tallies = Tallies(np.array([3.0, 0, 5, 2]), np.array([4.0, 3, 5, 0]))
    bootstrap = Bootstrap(4, draws=50, seed=1)
    expected = []
    for weights in bootstrap.weights:
        drawn = np.repeat(np.arange(4), weights.astype(int))
        trials = tallies.trials[drawn].sum()
        expected.append(tallies.hits[drawn].sum() / trials if trials else np.nan)
    np.testing.assert_allclose(bootstrap.rates(tallies), expected)
    assert bootstrap.interval(tallies) == pytest.approx(tuple(np.nanpercentile(expected, [2.5, 97.5])))


def test_an_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    bootstrap = Bootstrap(60)
    covered = 0
    for _ in range(300):
        skill = rng.beta(6, 4, 60)  # identities differ, their images agree: what resampling identities is for
        trials = np.full(60, 20.0)
        low, high = bootstrap.interval(Tallies(rng.binomial(20, skill).astype(float), trials))
        covered += low <= 0.6 <= high
    assert 0.90 <= covered / 300 <= 0.98


def test_a_paired_difference_is_tighter_than_two_intervals():
    rng = np.random.default_rng(0)
    trials = np.full(80, 10.0)
    one = Tallies(np.round(10 * rng.beta(2, 2, 80)), trials)
    other = Tallies(np.minimum(one.hits + (rng.random(80) < 0.3), 10), trials)  # nearly the same method
    bootstrap = Bootstrap(80)
    low, high = bootstrap.difference(other, one)
    assert low <= other.rate - one.rate <= high
    assert low > 0
    alone = bootstrap.interval(one)
    assert high - low < (alone[1] - alone[0]) / 3


def test_one_identity_has_no_interval():
    lonely = Tallies(np.array([1.0, 0]), np.array([2.0, 0]))
    assert Bootstrap(2).interval(lonely) == (None, None)
    assert Bootstrap(2).difference(lonely, Tallies(np.ones(2), np.ones(2))) == (None, None)
