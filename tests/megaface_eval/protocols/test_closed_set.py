"""Closed-set identification against loops in float64."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_sets import unit_rows

from megaface_eval.errors import InputError
from megaface_eval.protocols import closed_set
from megaface_eval.protocols.closed_set import TEMPLATES, ClosedSetRule, enrolled, search_people


def ranks_by_loops(unit, labels, chosen, rule):
    """Rank of each probe's person, in the order of the rows."""
    ranks = []
    for probe in np.flatnonzero(~chosen):
        scores = {}
        for person in set(labels[chosen].tolist()):
            rows = unit[chosen & (labels == person)].astype(float)
            mean = rows.sum(axis=0) / np.linalg.norm(rows.sum(axis=0))
            each = [mean] if rule.template == "mean" else rows
            scores[person] = max(round(float(unit[probe].astype(float) @ row), 12) for row in each)
        own = scores.pop(int(labels[probe]))
        ranks.append(sum(score > own or (rule.pessimistic and score == own) for score in scores.values()))
    return ranks


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    people=st.integers(2, 8),
    enrol=st.integers(1, 4),
    template=st.sampled_from(TEMPLATES),
    pessimistic=st.booleans(),
)
def test_ranks_equal_loops(seed, people, enrol, template, pessimistic):
    rng = np.random.default_rng(seed)
    labels = 10 * np.concatenate([np.arange(people), np.zeros(enrol, int), rng.integers(0, people, 20)])
    rng.shuffle(labels)
    unit = unit_rows(rng, len(labels), 4)
    unit[rng.integers(0, len(labels), 5)] = unit[0]  # ties
    rule = ClosedSetRule(enrol=enrol, template=template, pessimistic=pessimistic, seed=seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(closed_set, "STRIP", 7)
        found = search_people(unit, labels, rule)
    chosen = enrolled(labels, enrol, seed)
    for person in np.unique(labels):
        assert chosen[labels == person].sum() == min(enrol, (labels == person).sum())
    assert found.rank.tolist() == ranks_by_loops(unit, labels, chosen, rule)
    assert found.label.tolist() == labels[~chosen].tolist()
    assert found.people == people


def test_who_cannot_be_searched_is_refused():
    unit = unit_rows(np.random.default_rng(0), 4, 3)
    with pytest.raises(InputError, match="nobody has more than 2 images"):
        search_people(unit, np.array([0, 0, 1, 1]), ClosedSetRule(enrol=2))
    with pytest.raises(InputError, match="all images are of one person"):
        search_people(unit, np.zeros(4, int), ClosedSetRule(enrol=2))
