"""Rates, curves and intervals, recomputed by hand; intervals and claims on sets whose truth is known."""

import numpy as np
import pytest
from made_tallies import TAILS, draw_hits, draw_rates, draw_trials
from scipy.stats import t as student

from megaface_eval.protocols.metrics import (
    Contrast,
    Estimate,
    Tallies,
    cmc,
    contrast,
    holm,
    interval,
    interval_of_draws,
    tally,
)


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


def slow_interval(hits, trials, level=0.05):
    """Both ends, identity by identity: Wilson's interval as the roots of (r - p)² = q²·p(1 - p)/n*."""
    rate = sum(hits) / sum(trials)
    shares = [t / sum(trials) for t in trials]
    variance = sum(w**2 * (h / t - rate) ** 2 / (1 - w) for h, t, w in zip(hits, trials, shares, strict=True) if t)
    people = 1 / sum(w**2 for w in shares)
    number = people * (rate * (1 - rate) * people + 0.2) / (variance * people**2 + 0.2)
    q = student.ppf(1 - level / 2, people - 1)
    return sorted(np.roots([1 + q**2 / number, -2 * rate - q**2 / number, rate**2]))


@pytest.mark.parametrize("level", [0.05, 0.001])
def test_an_interval_is_the_plain_one(level):
    rng = np.random.default_rng(0)
    trials = np.append(rng.integers(1, 9, 12), 0)
    hits = rng.binomial(trials, 0.7)
    low, high = Estimate.of(hits, trials).ends(level)
    assert (low, high) == pytest.approx(tuple(slow_interval(hits.tolist(), trials.tolist(), level)))
    assert interval(Tallies(hits, trials)) == pytest.approx(slow_interval(hits.tolist(), trials.tolist()))


def test_all_hits_and_no_hit_leave_room():
    everyone = Tallies(np.full(12, 6.0), np.full(12, 6.0))
    low, high = interval(everyone)
    assert (round(low, 2), high) == (0.71, 1.0)
    assert interval(Tallies(np.zeros(12), everyone.trials)) == pytest.approx((0.0, 1 - low))


def test_few_identities_have_no_interval():
    four = Tallies(np.array([1.0, 2, 1, 2, 0]), np.array([2.0, 2, 2, 2, 0]))
    assert interval(four) == (None, None)
    assert contrast(four, four) is None
    heavy = Tallies(np.array([1.0, 2, 1, 2, 90]), np.array([2.0, 2, 2, 2, 99]))  # five, but one outweighs the others
    assert interval(heavy) == (None, None)
    assert interval(Tallies(np.zeros(5), np.zeros(5))) == (None, None)
    assert contrast(Tallies(np.zeros(5), np.zeros(5)), four) is None
    assert None not in interval(Tallies(np.array([1.0, 2, 1, 2, 1]), np.full(5, 2.0)))


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("people", [20, 80])
@pytest.mark.parametrize("rate", [0.5, 0.8, 0.95, 0.97, 0.99])
def test_an_interval_covers_the_truth_as_often_as_it_says(people, tail, rate):
    rng = np.random.default_rng(0)
    for alike in (0.05, 0.2, 0.5, 0.8):
        trials = draw_trials(rng, 3000, people, tail)
        found = Estimate.of(draw_hits(rng, trials, draw_rates(rng, rate, np.full(trials.shape, alike))), trials)
        low, high = found.ends()
        assert ((low <= rate) & (rate <= high))[found.enough].mean() >= 0.93
        assert found.enough.mean() > 0.8
        if rate == 0.5 and tail == "equal" and alike > 0.05:  # an interval of everything would cover too
            truth = 2 * 1.96 * np.sqrt(alike * rate * (1 - rate) / people)
            assert np.median(high - low) < 1.4 * truth


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("people", [10, 20, 80])
@pytest.mark.parametrize("rate", [0.5, 0.8, 0.95])
def test_a_report_claims_what_is_not_so_in_one_of_twenty_at_most(people, tail, rate):
    """Two methods of one rate, in the whole set and in four parts, and the gap between the parts' halves."""
    rng, sets = np.random.default_rng(1), 1000
    trials = draw_trials(rng, sets, people, tail)
    skill = draw_rates(rng, rate, np.full(trials.shape, 0.3))
    one, other = (draw_hits(rng, trials, draw_rates(rng, skill, 0.1)) for _ in range(2))
    part = rng.integers(0, 4, trials.shape)
    part[:, :4] = np.arange(4)  # none is empty
    pairs = [(one, other, mask, mask) for mask in [part < 4, *(part == i for i in range(4))]]
    pairs.append((one, one, part < 2, part >= 2))
    levels = []
    for left, right, mine, its in pairs:
        halves = [Estimate.of(np.where(m, hits, 0), np.where(m, trials, 0)) for hits, m in ((left, mine), (right, its))]
        found = Contrast(*halves)
        levels.append(np.where(found.enough, found.p, 1.0))
    noise = 2 * np.sqrt(0.05 * 0.95 / sets)
    assert holm(np.stack(levels, axis=-1))[0].any(-1).mean() <= 0.05 + noise
    assert (levels[-1] <= 0.05).mean() <= 0.05 + noise


def test_a_difference_that_is_there_is_found():
    rng = np.random.default_rng(0)
    trials = draw_trials(rng, 200, 80, "equal")
    skill = draw_rates(rng, 0.6, np.full(trials.shape, 0.2))
    one, other = draw_hits(rng, trials, skill), draw_hits(rng, trials, np.minimum(skill + 0.05, 1))
    found = Contrast(Estimate.of(other, trials), Estimate.of(one, trials))
    assert (found.p < 0.001).mean() > 0.95


def test_p_is_the_level_whose_interval_touches_nothing():
    trials = np.full(30, 12.0)
    rng = np.random.default_rng(0)
    found = contrast(Tallies(rng.binomial(12, 0.7, 30), trials), Tallies(rng.binomial(12, 0.6, 30), trials))
    for level, end in zip((found.p * 1.001, found.p * 0.999), (1, -1), strict=True):
        low, high = found.ends(level)
        assert (low > 0 or high < 0) == (end > 0)
    below, above = found.reach()
    assert found.ends() == pytest.approx((found.difference - below, found.difference + above))


def test_a_paired_difference_is_tighter_than_two_intervals():
    rng = np.random.default_rng(0)
    trials = np.full(80, 10.0)
    one = Tallies(np.round(10 * rng.beta(2, 2, 80)), trials)
    other = Tallies(np.minimum(one.hits + (rng.random(80) < 0.3), 10), trials)  # nearly the same method
    low, high = contrast(other, one).ends()
    assert low <= other.rate - one.rate <= high
    assert low > 0
    alone = interval(one)
    assert high - low < (alone[1] - alone[0]) / 3


def test_holm_stops_at_the_first_that_does_not_hold():
    holds, levels = holm(np.array([0.04, 0.001, 0.02, 0.03]))
    assert holds.tolist() == [False, True, False, False]  # 0.02 > 0.05/3, and 0.03 and 0.04 wait behind it
    np.testing.assert_allclose(levels, np.array([0.05, 0.0375, 0.05, 0.05]) / 3)
    assert [part.tolist() for part in holm(np.empty(0))] == [[], []]
    assert holm(np.array([[0.01, 0.04], [0.03, 0.04]]))[0].tolist() == [[True, True], [False, False]]


def test_resamples_give_the_interval_that_tallies_do():
    rng = np.random.default_rng(0)
    trials = np.full(40, 10.0)
    hits = rng.binomial(10, rng.beta(4, 2, 40)).astype(float)
    weights = rng.multinomial(40, np.full(40, 1 / 40), size=4000)
    drawn = (weights @ hits) / (weights @ trials)
    assert interval_of_draws(hits.sum() / 400, drawn, trials) == pytest.approx(
        interval(Tallies(hits, trials)), abs=0.01
    )
    assert interval_of_draws(0.5, np.full(9, np.nan), trials) == (None, None)
    assert interval_of_draws(0.5, np.array([0.4, 0.6]), trials[:4]) == (None, None)
