"""Score cohorts against scores written from their definition."""

import numpy as np
import pytest
from small_sets import set_of, unit_rows

from megaface_eval.errors import InputError
from megaface_eval.features.feature_set import normalise
from megaface_eval.features.gallery import Gallery
from megaface_eval.protocols.cohort import Cohort
from megaface_eval.protocols.identification import Rules, identify
from megaface_eval.protocols.probes import Probes
from megaface_eval.search.ranks import Search


@pytest.mark.parametrize("k", [1, 5, 30])
def test_closeness_is_the_mean_of_the_k_nearest(k):
    rng = np.random.default_rng(0)
    rows, members = unit_rows(rng, 40, 12), unit_rows(rng, 30, 12)
    table = np.sort(rows.astype(float) @ members.astype(float).T, axis=1)[:, ::-1]
    np.testing.assert_allclose(Cohort(members, k).closeness(rows), table[:, :k].mean(axis=1), atol=1e-12)


def test_closeness_does_not_depend_on_the_batch():
    rng = np.random.default_rng(1)
    rows, cohort = unit_rows(rng, 300, 64), Cohort(unit_rows(rng, 500, 64), 20)
    whole = cohort.closeness(rows)
    np.testing.assert_array_equal(np.concatenate([cohort.closeness(rows[i : i + 7]) for i in range(0, 300, 7)]), whole)


@pytest.mark.parametrize("form", ["gallery", "symmetric"])
def test_products_of_extended_rows_are_the_normalised_scores(form):
    rng = np.random.default_rng(0)
    q, x, cohort = unit_rows(rng, 9, 12), unit_rows(rng, 13, 12), Cohort(unit_rows(rng, 50, 12), 4, 0.5, form)
    expected = q.astype(float) @ x.astype(float).T - 0.5 * cohort.closeness(x)
    if form == "symmetric":
        expected -= 0.5 * cohort.closeness(q)[:, None]
    extended = cohort.queries(q).astype(float) @ cohort.members(x).astype(float).T
    np.testing.assert_allclose(extended, expected, atol=1e-7)
    lengths = [np.linalg.norm(part, axis=1).max() for part in (cohort.queries(q), cohort.members(x))]
    assert lengths[0] * lengths[1] <= cohort.scale


def test_ranks_are_those_of_the_normalised_scores():
    rng = np.random.default_rng(2)
    labels = np.repeat(np.arange(8), 3)
    rows = rng.standard_normal((8, 12))[labels] + rng.standard_normal((24, 12))
    q, x = normalise(rows.astype(np.float32)), rng.standard_normal((200, 12)).astype(np.float32)
    cohort = Cohort(unit_rows(rng, 60, 12), 5, 0.7)
    gallery = Gallery(set_of(x), [200], extend=cohort.members)
    found = identify(Probes(q, labels, cohort), gallery, Rules(), Search())
    members = cohort.members(normalise(x.copy())).astype(float)
    for query, mate, rank in zip(found.query, found.mate, found.ranks[0], strict=True):
        own = cohort.queries(q)[query].astype(float)
        score = own @ cohort.members(q)[mate].astype(float)
        assert rank == (members @ own > score).sum()
    plain = identify(Probes(q, labels), Gallery(set_of(x), [200]), Rules(), Search())
    assert (plain.ranks != found.ranks).any()


@pytest.mark.parametrize(
    "k, weight, problem", [(0, 0.5, "k from 1"), (9, 0.5, "not 9"), (3, 0.0, "weight"), (3, 5.0, "weight")]
)
def test_a_cohort_that_cannot_be_is_refused(k, weight, problem):
    with pytest.raises(InputError, match=problem):
        Cohort(np.eye(8, dtype=np.float32), k, weight)
