"""Open-set identification against loops over probes and thresholds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megaface_eval.features.feature_set import normalise
from megaface_eval.protocols.open_set import Searches, curve, measure, search_split, split_galleries, tpir_at
from megaface_eval.protocols.probes import Probes


def probes_of(seed, identities=9, images=4, dimension=6, spread=0.7):
    """Probes of so many people, so many images each."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(identities), images)
    rows = rng.standard_normal((identities, dimension))[labels] + spread * rng.standard_normal((len(labels), dimension))
    return Probes(normalise(rows.astype(np.float32)), labels)


def plain_tpir(searches, fpir):
    thresholds = [*np.unique(np.concatenate([searches.mated_score, searches.nonmated_score])), np.inf]
    within = [t for t in thresholds if (searches.nonmated_score >= t).mean() <= fpir + 1e-12]
    return max((searches.correct & (searches.mated_score >= t)).mean() for t in within)


@pytest.mark.parametrize("enrol", [1, 2])
def test_every_image_has_one_part_in_each_gallery(enrol):
    labels = probes_of(0).labels_Q
    one, two = split_galleries(labels, enrol, seed=3)
    for split, other in ((one, two), (two, one)):
        enrolled = np.concatenate(split.enrolled)
        assert sorted([*enrolled, *split.mated, *split.nonmated]) == list(range(36))
        assert all(len(rows) == enrol and len(set(labels[rows])) == 1 for rows in split.enrolled)
        own = np.array([labels[rows[0]] for rows in split.enrolled])
        np.testing.assert_array_equal(own[split.mate], labels[split.mated])
        assert not set(labels[split.nonmated]) & set(own)
        assert set(labels[split.nonmated]) == {labels[rows[0]] for rows in other.enrolled}


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1, 2]), st.booleans(), st.booleans())
def test_searches_equal_a_loop_over_probes(seed, enrol, with_distractors, pessimistic):
    probes = probes_of(seed)
    unit, labels = probes.unit_QD, probes.labels_Q
    rng = np.random.default_rng(seed)
    distractor = rng.uniform(0, 1, len(labels)) if with_distractors else None
    for split in split_galleries(labels, enrol, seed):
        found = search_split(split, probes, distractor=distractor, pessimistic=pessimistic)
        templates = [unit[rows].astype(float).mean(0) for rows in split.enrolled]
        templates = [t / np.linalg.norm(t) for t in templates]
        for i, (probe, mate) in enumerate(zip(split.mated, split.mate, strict=True)):
            scores = [float(unit[probe].astype(float) @ t) for t in templates]
            rivals = [s for j, s in enumerate(scores) if j != mate]
            rivals += [distractor[probe]] if with_distractors else []
            assert found.correct[i] == all(scores[mate] > r for r in rivals)
            assert found.mated_score[i] == pytest.approx(max([scores[mate], *rivals]), abs=1e-6)
        for i, probe in enumerate(split.nonmated):
            highest = max(float(unit[probe].astype(float) @ t) for t in templates)
            highest = max(highest, distractor[probe]) if with_distractors else highest
            assert found.nonmated_score[i] == pytest.approx(highest, abs=1e-6)


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 6)), min_size=1, max_size=20),
    st.lists(st.integers(0, 6), min_size=1, max_size=20),
    st.sampled_from([0.05, 0.1, 0.25, 0.5, 1.0]),
)
def test_tpir_is_the_best_of_all_thresholds_within_the_fpir(mated, nonmated, fpir):
    correct, score = (np.array(part) for part in zip(*mated, strict=True))
    searches = Searches(
        correct, score.astype(float), np.array(nonmated, float), np.zeros(len(mated)), np.zeros(len(nonmated))
    )
    measured = tpir_at(searches, fpir)
    if fpir * len(nonmated) < 1 - 1e-9:
        assert measured is None
    else:
        assert measured == pytest.approx(plain_tpir(searches, fpir))
        steps, tpir = curve(searches)
        if fpir in steps:
            assert tpir[steps.tolist().index(fpir)] == pytest.approx(measured)


def test_a_tie_with_an_impostor_is_a_hit_unless_pessimistic():
    unit = normalise(np.array([[1, 0], [1, 0], [1, 0], [1, 0]], np.float32))
    labels = np.array([0, 0, 1, 1])  # both identities enrolled would be alike, but they are in different galleries
    one, _ = split_galleries(labels)
    probes = Probes(unit, labels)
    distractor = np.ones(4)
    kind, harsh = (
        search_split(one, probes, distractor=distractor, pessimistic=pessimistic).correct
        for pessimistic in (False, True)
    )
    assert kind.tolist() == [True]
    assert harsh.tolist() == [False]


def test_a_score_that_knows_strangers_beats_one_that_does_not():
    probes = probes_of(1, identities=40, images=6, dimension=32, spread=0.9)
    acceptance = np.random.default_rng(0).standard_normal(len(probes))
    splits = split_galleries(probes.labels_Q)
    by_cosine = measure([search_split(s, probes) for s in splits])
    by_chance = measure([search_split(s, probes, acceptance=acceptance) for s in splits])
    level, chance = (found["tpir_at_fpir"][-1] for found in (by_cosine, by_chance))
    assert level["low"] <= level["mean"] <= level["high"]
    assert level["mean"] == pytest.approx((level["g1"] + level["g2"]) / 2)
    assert chance["mean"] < 0.25 < level["mean"]
