"""Ranks against a count written plainly from the definition, with ties planted."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_sets import set_of

from megaface_eval.features.feature_set import normalise
from megaface_eval.features.gallery import Gallery
from megaface_eval.search import faiss_scan as scan_module
from megaface_eval.search import product, ranks
from megaface_eval.search.faiss_scan import FaissScan
from megaface_eval.search.product import ProductScan
from megaface_eval.search.ranks import Search, Thresholds, count_above
from megaface_eval.search.scores import score_pairs


def plain_counts(queries, thresholds, gallery_rows, sizes, labels=None):
    """Counts and best rows from the full table of scores: the slow twin."""
    table = (queries[:, None, :].astype(np.float64) * gallery_rows[None].astype(np.float64)).sum(axis=2)
    if labels is not None:
        table[labels[0][:, None] == labels[1]] = -np.inf
    counts = np.empty((len(sizes), len(thresholds.values)), int)
    for q in range(len(queries)):
        for t in range(thresholds.offsets[q], thresholds.offsets[q + 1]):
            for s, size in enumerate(sizes):
                scores = table[q, :size]
                value = thresholds.values[t]
                counts[s, t] = (scores >= value).sum() if thresholds.inclusive else (scores > value).sum()
    return counts, table.max(axis=1), table.argmax(axis=1)


def queries_and_rows(kind, queries, rows, dimension, rng):
    """Query unit rows and gallery rows: spread out, in tight clumps, or copies of a few vectors (every score tied)."""
    if kind == "random":
        q, x = rng.standard_normal((queries, dimension)), rng.standard_normal((rows, dimension))
    elif kind == "clustered":
        centre = rng.standard_normal(dimension)
        q, x = (centre + 1e-3 * rng.standard_normal((n, dimension)) for n in (queries, rows))
    else:
        few = rng.standard_normal((5, dimension))
        q, x = few[rng.integers(5, size=queries)], few[rng.integers(5, size=rows)]
    return normalise(q.astype(np.float32)), x.astype(np.float32)


def unit(x):
    return normalise(x.copy())


def gallery_of(rows, sizes):
    return Gallery(set_of(rows), sizes)


def thresholds_at_rows(q, x, rng, number, inclusive=False):
    """Thresholds that are scores of real rows, so that ties with gallery rows are the rule."""
    query = rng.integers(len(q), size=number)
    row = rng.integers(len(x), size=number)
    return Thresholds.of(query, score_pairs(q, query, unit(x), row), len(q), inclusive)[0]


@pytest.mark.parametrize("kind", ["random", "clustered", "tied"])
@pytest.mark.parametrize("inclusive", [False, True])
@pytest.mark.parametrize("scan", [ProductScan, FaissScan])
@pytest.mark.parametrize("pilot, piece, deepest", [(0, 16, 4), (7, 50, 64), (0, 400, 2), (10_000, 64, 64)])
def test_counts_and_best_rows_equal_the_plain_count(kind, inclusive, scan, pilot, piece, deepest, monkeypatch):
    monkeypatch.setattr(ranks, "PILOT_ROWS", pilot)
    for module in (product, scan_module):
        monkeypatch.setattr(module, "PIECE_ROWS", piece)
        monkeypatch.setattr(module, "DEEPEST", deepest)
    rng = np.random.default_rng(3)
    q, x = queries_and_rows(kind, 23, 400, 24, rng)
    thresholds = thresholds_at_rows(q, x, rng, 90, inclusive)
    sizes = [10, 100, 400]
    found = count_above(q, thresholds, gallery_of(x, sizes), Search(scan=scan, block_rows=64))
    counts, best, place = plain_counts(q, thresholds, unit(x), sizes)
    np.testing.assert_array_equal(found.counts, counts)
    np.testing.assert_allclose(found.best_score, best, atol=1e-14)
    np.testing.assert_array_equal(found.best_place, place)
    other, _, _ = plain_counts(q, replace(thresholds, inclusive=not inclusive), unit(x), sizes)
    np.testing.assert_array_equal(found.tied, counts[-1] != other[-1])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 90), st.sampled_from(["random", "clustered", "tied"]), st.booleans())
def test_blocks_do_not_change_a_count(seed, block_rows, kind, inclusive):
    rng = np.random.default_rng(seed)
    q, x = queries_and_rows(kind, int(rng.integers(1, 12)), int(rng.integers(1, 200)), int(rng.integers(2, 40)), rng)
    thresholds = thresholds_at_rows(q, x, rng, int(rng.integers(0, 40)), inclusive)
    whole = count_above(q, thresholds, gallery_of(x, [len(x)]), Search())
    blocked = count_above(q, thresholds, gallery_of(x, [len(x)]), Search(block_rows=block_rows))
    for name, expected in vars(whole).items():
        np.testing.assert_array_equal(getattr(blocked, name), expected)


def test_pairs_of_one_identity_are_left_out():
    rng = np.random.default_rng(0)
    q = unit(queries_and_rows("random", 30, 1, 16, rng)[0])
    labels = rng.integers(4, size=30)
    thresholds = thresholds_at_rows(q, q, rng, 60)
    found = count_above(q, thresholds, gallery_of(q, [30]), Search(), labels=(labels, labels))
    counts, best, place = plain_counts(q, thresholds, unit(q), [30], (labels, labels))
    np.testing.assert_array_equal(found.counts, counts)
    np.testing.assert_array_equal(found.best_place, place)
    np.testing.assert_allclose(found.best_score, best, atol=1e-14)


def test_a_query_without_anyone_to_compare_with_has_no_best_row():
    q = normalise(np.eye(3, 8, dtype=np.float32))
    same = np.zeros(3, int)
    found = count_above(q, Thresholds(np.empty(0), np.zeros(4, int)), gallery_of(q, [3]), Search(), labels=(same, same))
    assert found.best_place.tolist() == [-1, -1, -1]
    assert np.isneginf(found.best_score).all()


def test_best_row_equals_the_flat_index():
    faiss = pytest.importorskip("faiss")
    rng = np.random.default_rng(5)
    q, x = queries_and_rows("random", 200, 5000, 64, rng)
    index = faiss.IndexFlatIP(64)
    index.add(unit(x))
    scores, ids = index.search(q, 1)
    found = count_above(q, Thresholds(np.empty(0), np.zeros(201, int)), gallery_of(x, [5000]), Search())
    np.testing.assert_array_equal(found.best_place, ids[:, 0])
    np.testing.assert_allclose(found.best_score, scores[:, 0], atol=1e-5)
