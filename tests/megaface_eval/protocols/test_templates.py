"""Templates of many images against loops in float64."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_sets import set_of, unit_rows

from megaface_eval.errors import InputError
from megaface_eval.protocols import templates
from megaface_eval.protocols.templates import (
    DETECTORS,
    FLIPS,
    NORMS,
    Faces,
    People,
    PoolingRule,
    TemplatePairs,
    pair_scores,
    pool,
    search_galleries,
    tpir_of_both,
)


def faces_of(template, media):
    """Faces whose template ids are 10, 20, …"""
    known, place = np.unique(template, return_inverse=True)
    names = [f"{i}.jpg" for i in range(len(template))]
    return Faces(names, place.astype(np.int32), np.asarray(media), 10 * (known + 1))


def pooled_by_loops(rows, mirrored, faces, rule, scores):
    """The module's head, line by line."""
    pooled = []
    for template in range(len(faces.ids)):
        total = 0.0
        images = [i for i in range(len(rows)) if faces.template[i] == template]
        for media in {int(faces.media[i]) for i in images}:
            of_media = []
            for i in (i for i in images if faces.media[i] == media):
                x = rows[i].astype(float)
                other = mirrored[i].astype(float)
                x = {"off": x, "add": x + other, "concat": np.concatenate([x, other])}[rule.flip]
                x = x / math.sqrt(sum(x**2)) if rule.norm == "unit" else x
                of_media.append(x * float(scores[i]) if rule.detector == "weigh" else x)
            total = total + sum(of_media) / len(of_media)
        pooled.append(total / math.sqrt(sum(total**2)))
    return np.array(pooled)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    rule=st.builds(
        PoolingRule, flip=st.sampled_from(FLIPS), norm=st.sampled_from(NORMS), detector=st.sampled_from(DETECTORS)
    ),
    images=st.integers(1, 30),
    medias=st.integers(1, 8),
)
def test_pooling_equals_loops(seed, rule, images, medias):
    rng = np.random.default_rng(seed)
    rows, mirrored = rng.standard_normal((2, images, 5)).astype(np.float32)
    faces = faces_of(rng.integers(0, 6, images), rng.integers(0, medias, images))
    scores = rng.uniform(0.1, 1, images).astype(np.float32)
    expected = pooled_by_loops(rows, mirrored, faces, rule, scores)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(templates, "ROWS", 7)  # several blocks, which part templates and medias
        got = pool(set_of(rows), faces, rule, mirrored=set_of(mirrored), scores=scores)
    np.testing.assert_allclose(got, expected, atol=1e-11)


def test_what_cannot_be_pooled_is_refused():
    faces, plain = faces_of([0, 0, 1], [0, 1, 0]), PoolingRule(detector="ignore")
    good = np.ones((3, 4), np.float32)
    for rows, rule, scores, problem in (
        (good[:2], plain, None, "2 rows of 4 numbers, expected 3 of 4"),
        (good * [[1], [np.nan], [1]], plain, None, "row 1 is zero, or holds NaN"),
        (good * [[1], [0], [1]], PoolingRule(norm="unit", detector="ignore"), None, "row 1 is zero"),
        (good * [[1], [-1], [1]], plain, None, "the images of template 10 add up to nothing"),
        (good, PoolingRule(), np.array([1, 1, 0]), "template 20 add up to nothing"),
    ):
        with pytest.raises(InputError, match=problem):
            pool(set_of(rows), faces, rule, mirrored=None, scores=scores)
    with pytest.raises(InputError, match="2 rows"):
        pool(set_of(good), faces, PoolingRule(flip="add"), mirrored=set_of(good[:2]), scores=None)


@pytest.mark.parametrize("dense", [0, 10**6])
def test_pairs_score_the_same_in_products_and_one_by_one(dense, monkeypatch):
    monkeypatch.setattr(templates, "DENSE", dense)
    monkeypatch.setattr(templates, "PAIRS", 50)
    monkeypatch.setattr(templates, "ROWS", 20)
    rng = np.random.default_rng(0)
    unit = unit_rows(rng, 30, 8).astype(float)
    one, other = rng.integers(0, 30, (2, 333)).astype(np.int32)
    scores = pair_scores(unit, TemplatePairs(one, other, np.zeros(333, bool)))
    expected = [round(sum(unit[a] * unit[b]), 12) for a, b in zip(one, other, strict=True)]
    np.testing.assert_allclose(scores, expected, atol=1.1e-12)


def _people(people):
    return zip(people.template, people.subject, strict=True)


def search_by_loops(unit, galleries, probes, pessimistic):
    """Rank of each mate in its gallery and in both, and all scores of other people."""
    both = [(g, t, s) for g, gallery in enumerate(galleries) for t, s in _people(gallery)]
    ranks, joint, others = [], [], []
    for template, subject in _people(probes):
        scored = [(g, s == subject, round(float(unit[template] @ unit[t]), 12)) for g, t, s in both]
        home, _, own = next(one for one in scored if one[1])
        beats = [g for g, mine, score in scored if not mine and (score > own or (pessimistic and score == own))]
        ranks.append(beats.count(home))
        joint.append(len(beats))
        others += [score for _, mine, score in scored if not mine]
    return ranks, joint, sorted(others, reverse=True)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), people=st.integers(2, 14), probes=st.integers(1, 40), pessimistic=st.booleans())
def test_searches_equal_loops(seed, people, probes, pessimistic):
    rng = np.random.default_rng(seed)
    unit = unit_rows(rng, people + probes, 3).astype(float)
    unit[rng.integers(0, people + probes, 6)] = unit[0]  # ties
    split = int(rng.integers(1, people))
    rows = rng.permutation(people)
    galleries = [People("G", part.astype(np.int32), 50 + part) for part in (rows[:split], rows[split:])]
    subject = rng.integers(0, people, probes) + 50
    probe = People("probes", np.arange(people, people + probes, dtype=np.int32), subject)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(templates, "STRIP", 9)
        found = search_galleries(unit, galleries, probe, pessimistic=pessimistic)
    ranks, joint, others = search_by_loops(unit, galleries, probe, pessimistic)
    assert found.rank.tolist() == ranks
    assert found.rank_in_both.tolist() == joint
    for fpir in (0.01, 0.1):
        threshold = others[math.ceil(probes * fpir) - 1]
        assert tpir_of_both(found, fpir) == (np.mean(found.own > threshold), threshold)
    for gallery in (0, 1):
        searches, home = found.of(gallery), np.isin(subject - 50, rows[:split]) == (gallery == 0)
        best = (unit[people:] @ unit[rows[:split] if gallery == 0 else rows[split:]].T).max(axis=1)
        np.testing.assert_allclose(searches.mated_score, best[home], atol=1e-11)
        np.testing.assert_allclose(searches.nonmated_score, best[~home], atol=1e-11)
        assert searches.correct.tolist() == (found.rank[home] == 0).tolist()


def test_people_enrolled_twice_or_never_are_refused():
    unit = np.eye(4)
    one, two = People("G1", np.array([0]), np.array([7])), People("G2", np.array([1]), np.array([7]))
    probes = People("probe_mixed", np.array([2]), np.array([7]))
    with pytest.raises(InputError, match="subject 7 is enrolled by two templates"):
        search_galleries(unit, [one, two], probes)
    with pytest.raises(InputError, match="probe_mixed: subject 7 is in no gallery"):
        search_galleries(unit, [replace(one, subject=np.array([8])), replace(two, subject=np.array([9]))], probes)
