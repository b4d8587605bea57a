"""Errors by group beside a slow twin, and intervals and claims on groups whose truth is known."""

import numpy as np
import pytest
from made_tallies import TAILS
from scipy.stats import t as student

from megaface_eval.protocols.fairness import counted, estimate_dyads, false_match, false_non_match, gap, measure
from megaface_eval.protocols.metrics import PRIOR
from megaface_eval.protocols.threshold import refused_at
from megaface_eval.protocols.verification import probe_pairs


@pytest.fixture(scope="module")
def people():
    """Pairs of 14 people with 2 to 6 images, the unit rows, and a group of 8."""
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat(np.arange(14), rng.integers(2, 7, 14)))
    unit = rng.standard_normal((len(labels), 6)) + rng.standard_normal((14, 6))[labels]
    unit = (unit / np.linalg.norm(unit, axis=1, keepdims=True)).astype(np.float32)
    members = np.zeros(14, bool)
    members[rng.choice(14, 8, replace=False)] = True
    return probe_pairs(unit, unit, labels), unit.astype(float), labels, members


def slow_false_match(unit, labels, who, refused):
    """Accepted and all pairs of two different people of `who`."""
    rows = [i for i in range(len(labels)) if labels[i] in who]
    pairs = [(i, j) for i in rows for j in rows if i < j and labels[i] != labels[j]]
    accepted = [labels[[i, j]].tolist() for i, j in pairs if round(float(unit[i] @ unit[j]), 12) > refused]
    return accepted, len(pairs)


@pytest.mark.parametrize("fmr", [0.001, 0.02, 0.2])
def test_a_false_match_rate_and_its_interval_are_the_plain_ones(people, fmr):
    pairs, unit, labels, members = people
    refused = refused_at(pairs.nonmated, fmr)
    who = set(np.flatnonzero(members).tolist())
    accepted, total = slow_false_match(unit, labels, who, refused)
    rate = len(accepted) / total
    found = false_match(pairs, refused, members)
    assert float(found.rate) == pytest.approx(rate)
    without = []
    for one in who:
        some, all_ = slow_false_match(unit, labels, who - {one}, refused)
        without.append(len(some) / all_)
    variance = (len(who) - 1) / len(who) * sum((r - rate) ** 2 for r in without)
    images = np.bincount(labels)
    products = [images[i] * images[j] for i in who for j in who if i < j]
    counts = np.unique(np.sort(accepted, axis=1), axis=0, return_counts=True)[1] if accepted else np.array(products)
    clump = (counts**2).sum() / counts.sum() / total
    trials = (rate * (1 - rate) + PRIOR * clump) / (variance + PRIOR * clump**2)
    shares = [images[i] * sum(images[j] for j in who - {i}) for i in who]
    weight = sum(shares) ** 2 / sum(s**2 for s in shares)
    assert (float(found.effective), float(found.weight)) == pytest.approx((trials, weight))
    q = student.ppf(0.975, weight - 1)
    roots = np.roots([1 + q**2 / trials, -2 * rate - q**2 / trials, rate**2])
    assert found.ends() == pytest.approx(tuple(sorted(roots)), abs=1e-9)


def test_a_false_non_match_rate_is_the_plain_one(people):
    pairs, unit, labels, members = people
    refused = refused_at(pairs.nonmated, 0.05)
    rows = range(len(labels))
    scores = [unit[i] @ unit[j] for i in rows for j in rows if i < j and labels[i] == labels[j] and members[labels[i]]]
    found = false_non_match(pairs, refused, members)
    assert float(found.rate) == pytest.approx(np.mean([round(float(s), 12) <= refused for s in scores]))


def test_who_has_no_pairs_has_no_rate_and_few_have_no_interval(people):
    pairs = people[0]
    one, few = np.arange(14) == 3, np.arange(14) < 4
    everyone = ("a", "all", np.ones(14, bool))
    found = measure(pairs, refused_at(pairs.nonmated, 0.02), [("a", "one", one), ("a", "few", few), everyone])
    assert (found[0]["false_match"]["rate"], found[0]["false_match"]["pairs"]) == (None, 0)
    assert found[0]["false_non_match"]["rate"] is not None
    assert (found[1]["false_match"]["low"], found[1]["identities"]) == (None, 4)
    assert found[2]["false_match"]["rate"] == pytest.approx(int(0.02 * len(pairs.nonmated)) / len(pairs.nonmated))
    assert found[2]["false_match"]["low"] is not None
    nobody = measure(pairs, 1.0, [("a", "none", np.zeros(14, bool))])[0]
    assert (nobody["false_non_match"]["rate"], nobody["identities"]) == (None, 0)


def draw_dyads(rng, people, tail, alike, fmr):
    """False matches among made-up people; some of them, and some pairs of them, are more alike than others."""
    images = np.maximum(np.round(10 * np.exp(TAILS[tail] * rng.standard_normal(people))), 2)
    one, two = np.triu_indices(people, 1)
    wolf = alike * rng.standard_normal(people)
    pair = alike * rng.standard_normal(len(one))
    chance = fmr * np.exp(wolf[one] + wolf[two] - alike**2 + pair - alike**2 / 2)
    accepted = rng.binomial((images[one] * images[two]).astype(int), np.minimum(chance, 1))
    some = accepted > 0
    return estimate_dyads(images, np.stack([one, two], axis=1)[some], accepted[some])


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("people", [10, 20, 80])
def test_intervals_cover_and_groups_that_are_alike_are_told_apart_in_one_of_twenty_at_most(people, tail):
    sets, fmr, rng = 300, 1e-3, np.random.default_rng(0)
    noise = 2 * np.sqrt(0.05 * 0.95 / sets)
    for alike in (0.0, 0.5):
        drawn = [draw_dyads(rng, people, tail, alike, fmr) for _ in range(2 * sets)]
        found = [counted(float(d.rate), float(d.weight), float(d.effective)) for d in drawn if d.enough]
        ends = np.array([one.ends() for one in found])
        assert ((ends[:, 0] <= fmr) & (fmr <= ends[:, 1])).mean() >= 0.93
        gaps = np.array([gap(*two).ends() for two in zip(found[::2], found[1::2], strict=False)])
        assert ((gaps[:, 0] > 0) | (gaps[:, 1] < 0)).mean() <= 0.05 + noise
        if people == 80 and alike == 0:  # an interval of everything would cover too
            assert np.median(ends[:, 1] - ends[:, 0]) < 0.5 * fmr


def test_a_gap_that_is_there_is_found():
    rng = np.random.default_rng(0)
    gaps = [gap(*(draw_dyads(rng, 80, "equal", 0.3, fmr) for fmr in (3e-3, 1e-3))) for _ in range(50)]
    assert np.mean([one.ends()[0] > 0 for one in gaps]) > 0.9
