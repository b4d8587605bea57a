"""The prefix scan finds what a plain product finds, and its bound is never passed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_sets import set_of

from megaface_eval.features.feature_set import normalise
from megaface_eval.features.gallery import Gallery
from megaface_eval.search import prefix, product, ranks
from megaface_eval.search.prefix import Axes, PrefixScan, principal_axes
from megaface_eval.search.ranks import Search, Thresholds, count_above
from megaface_eval.search.scores import score_pairs

KINDS = ("even", "decaying", "flat", "tied")


def rows_of(kind, n, dimension, rng):
    """Rows over all directions alike, mostly over a few, exactly within a few, or copies of a few."""
    if kind == "even":
        rows = rng.standard_normal((n, dimension))
    elif kind == "decaying":
        rows = rng.standard_normal((n, dimension)) * np.arange(1, dimension + 1) ** -1.5
    elif kind == "flat":
        rows = rng.standard_normal((n, 3)) @ np.random.default_rng(9).standard_normal((3, dimension))
    else:
        rows = np.random.default_rng(8).standard_normal((4, dimension))[rng.integers(4, size=n)]
    return rows.astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(KINDS), st.integers(1, 24), st.sampled_from([1.0, 3.0]))
def test_no_score_exceeds_its_bound(seed, kind, p, length):
    rng = np.random.default_rng(seed)
    q, x = (normalise(rows_of(kind, n, 24, rng)) for n in (8, 60))
    x *= np.float32(length)  # a score cohort makes rows longer than 1
    some = principal_axes(x)[:, :p]
    if seed % 2:  # any axes will do, also some that are not quite orthonormal
        some = some + np.float32(1e-4) * rng.standard_normal(some.shape).astype(np.float32)
    axes = Axes.of(np.ascontiguousarray(some), q, length)
    bound = axes.queries_Qe.astype(np.float64) @ axes.place(x).T.astype(np.float64) + axes.error
    table = q.astype(np.float64) @ x.astype(np.float64).T
    assert (table <= bound).all()
    if not seed % 2 and p == 24:
        np.testing.assert_allclose(table, bound, atol=2e-3)  # all axes leave nothing out


def test_axes_are_orthonormal_and_the_farthest_first():
    x = rows_of("decaying", 300, 12, np.random.default_rng(0))
    axes = principal_axes(x).astype(np.float64)
    np.testing.assert_allclose(axes.T @ axes, np.eye(12), atol=1e-6)
    spread = ((x.astype(np.float64) @ axes) ** 2).sum(axis=0)
    assert (np.diff(spread) <= 1e-6 * spread[0]).all()
    np.testing.assert_allclose(spread, np.linalg.svd(x.astype(np.float64))[1] ** 2, rtol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("most, inclusive", [(64, False), (3, True)])
def test_counts_and_best_rows_are_those_of_a_product(kind, most, inclusive, monkeypatch):
    monkeypatch.setattr(ranks, "PILOT_ROWS", 5)
    monkeypatch.setattr(product, "PIECE_ROWS", 50)
    monkeypatch.setattr(prefix, "MOST", most)
    monkeypatch.setattr(prefix, "FIRST", 60)
    monkeypatch.setattr(prefix, "OPEN_COST", 1)  # taken up wherever the bound closes a pair at all
    scans = []

    def remember(queries, scale):
        scans.append(Watched(queries, scale))
        return scans[-1]

    rng = np.random.default_rng(1)
    probes, rows = rows_of(kind, 60, 32, rng), rows_of(kind, 900, 32, rng)
    rows[700:] = rows_of("even", 200, 32, rng)  # and rows that the axes were not chosen on
    q, x = normalise(probes), normalise(rows.copy())
    query, row = rng.integers(10, size=60), rng.integers(900, size=60)  # the others have high thresholds alone
    score = np.concatenate([score_pairs(q, query, x, row), [0.97] * 60])
    thresholds, _ = Thresholds.of(np.concatenate([query, np.arange(60)]), score, 60, inclusive)
    gallery = Gallery(set_of(rows), [100, 900])
    expected = count_above(q, thresholds, gallery, Search(block_rows=128))
    found = count_above(q, thresholds, gallery, Search(scan=remember, block_rows=128))
    np.testing.assert_array_equal(found.counts, expected.counts)
    np.testing.assert_array_equal(found.best_place, expected.best_place)
    np.testing.assert_array_equal(found.best_score, expected.best_score)
    # copies of a row are all open at once, more than the few allowed
    assert bool(scans[0].pieces) == (kind in ("decaying", "flat") or (kind, most) == ("tied", 64))


class Watched(PrefixScan):
    """Notes how many pieces were scanned on axes."""

    pieces = 0

    def _scan(self, *arguments):
        self.pieces += 1
        return super()._scan(*arguments)


def test_rows_over_all_directions_alike_are_left_to_the_product(monkeypatch):
    monkeypatch.setattr(prefix, "FIRST", 100)
    rng = np.random.default_rng(2)
    q, x = (normalise(rows_of("even", n, 64, rng)) for n in (30, 4000))
    scan = PrefixScan(q)
    floor = np.full(30, 0.5)
    scan(np.arange(30), floor, floor, x, np.zeros(30))
    assert scan.axes is None


def test_few_dimensions_are_found_and_pay_for_easy_queries_alone(monkeypatch):
    monkeypatch.setattr(prefix, "FIRST", 100)
    rng = np.random.default_rng(3)
    q, x = (normalise(rows_of("decaying", n, 64, rng)) for n in (30, 4000))
    low = np.where(np.arange(30) < 20, 0.97, 0.1)
    scan = PrefixScan(q)
    scan(np.arange(30), low, np.full(30, np.inf), x, np.zeros(30))
    assert scan.axes is not None
    assert scan.axes.axes_Dp.shape[1] <= 24
    assert scan.eased[:20].mean() > 0.5
    assert not scan.eased[20:].any()
