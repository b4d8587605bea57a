"""Both protocols against loops written from their definitions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_sets import set_of

from megaface_eval.errors import InputError
from megaface_eval.features.feature_set import normalise
from megaface_eval.features.gallery import Gallery
from megaface_eval.protocols.identification import Rules, identify, mated_pairs
from megaface_eval.protocols.probes import Probes
from megaface_eval.search.ranks import Search


def score(a, b):
    return (a.astype(np.float64) * b.astype(np.float64)).sum()


def plain_ranks(unit, labels, distractors, rules):
    """{(query, mate): rank} by loops over images."""

    def beats(rival, mate):
        return rival >= mate if rules.ties == "pessimistic" else rival > mate

    found = {}
    for i in range(len(unit)):
        mates = [j for j in range(len(unit)) if j != i and labels[j] == labels[i]]
        rivals = [score(unit[i], x) for x in distractors]
        if rules.impostors == "all":
            rivals += [score(unit[i], unit[j]) for j in range(len(unit)) if labels[j] != labels[i]]
        if rules.protocol == "paper" and mates:
            mates = [max(mates, key=lambda j: (score(unit[i], unit[j]), -j))]
        for j in mates:
            found[i, j] = sum(beats(rival, score(unit[i], unit[j])) for rival in rivals)
    return found


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from(["devkit", "paper"]),
    st.sampled_from(["devkit", "pessimistic"]),
    st.sampled_from(["distractors", "all"]),
    st.sampled_from(["random", "clustered", "tied"]),
)
def test_ranks_equal_the_definition(seed, protocol, ties, impostors, kind):
    rng = np.random.default_rng(seed)
    probes, rows = rng.standard_normal((14, 5)).astype(np.float32), rng.standard_normal((60, 5)).astype(np.float32)
    if kind == "clustered":  # all within a hundredth of one direction
        probes, rows = probes[:1] + 0.01 * probes, probes[:1] + 0.01 * rows
    if kind == "tied":  # mates and strangers are copies of a few vectors: equal scores everywhere
        probes, rows = probes[rng.integers(4, size=14)], probes[rng.integers(4, size=60)]
    labels = np.append(rng.integers(4, size=12), [9, 9])
    unit = normalise(probes.copy())
    rules = Rules(protocol=protocol, ties=ties, impostors=impostors)
    found = identify(Probes(unit, labels), Gallery(set_of(rows), [10, 60]), rules, Search())
    for at, size in enumerate((10, 60)):
        expected = plain_ranks(unit, labels, normalise(rows.copy())[:size], rules)
        ranks = dict(
            zip(zip(found.query.tolist(), found.mate.tolist(), strict=True), found.ranks[at].tolist(), strict=True)
        )
        assert ranks == expected
    table = np.array([[score(q, x) for x in normalise(rows.copy())] for q in unit])
    np.testing.assert_array_equal(found.best_row, table.argmax(axis=1))


def test_a_planted_tie_counts_only_when_pessimistic():
    rng = np.random.default_rng(0)
    probes = rng.standard_normal((2, 16)).astype(np.float32)
    probes[1] = probes[0] + 0.3 * rng.standard_normal(16)
    rows = np.concatenate([np.repeat(probes[1:], 3, axis=0), -probes[:1]])  # three copies of the mate, one opposite
    pair, gallery = Probes(normalise(probes.copy()), np.zeros(2, int)), Gallery(set_of(rows), [4])
    by_ties = {
        ties: identify(pair, gallery, Rules(ties=ties), Search()).ranks[0, 0] for ties in ("devkit", "pessimistic")
    }
    assert by_ties == {"devkit": 0, "pessimistic": 3}


def test_pairs_are_all_ordered_pairs():
    labels = np.array([4, 1, 4, 4, 2])
    query, mate = mated_pairs(labels)
    pairs = [(i, j) for i in range(5) for j in range(5) if i != j and labels[i] == labels[j]]
    assert list(zip(query.tolist(), mate.tolist(), strict=True)) == pairs


def test_labels_that_make_one_crowd_of_all_are_refused():
    with pytest.raises(InputError, match="one identity has 20000 images"):
        mated_pairs(np.zeros(20_000, int))


def test_probes_without_mates_are_refused():
    probes, gallery = Probes(np.eye(3, 4, dtype=np.float32), np.arange(3)), Gallery(set_of(np.ones((1, 4))), [1])
    with pytest.raises(InputError, match="no identity has two"):
        identify(probes, gallery, Rules(), Search())
