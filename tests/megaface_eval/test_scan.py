"""FAISS's scan never loses a pair that could reach its floor."""

import numpy as np
import pytest

from megaface_eval import scan as scan_module
from megaface_eval.features import normalise
from megaface_eval.scan import DenseScan, FaissScan
from megaface_eval.scores import product_error


def test_the_bound_of_a_float32_product_holds_on_its_worst_input():
    rng = np.random.default_rng(1)
    # all products of one sign: rounding has nothing to cancel against
    rows = normalise(np.abs(rng.standard_normal((4000, 512))).astype(np.float32))
    exact = rows.astype(np.float64) @ rows[:50].astype(np.float64).T
    assert np.abs(rows @ rows[:50].T - exact).max() < product_error(512)
    scan = FaissScan(rows[:50])
    found, unfinished = scan(np.arange(50), np.full(50, 2.0), np.full(50, -np.inf), rows, seldom=False)
    assert len(found.query) >= 50 - len(unfinished) > 0
    assert np.abs(found.score - exact.T[found.query, found.row]).max() <= scan.error


@pytest.mark.parametrize("seldom", [True, False])
@pytest.mark.parametrize("deepest", [3, 64])
def test_every_pair_at_or_above_the_floor_is_found_or_its_query_named(seldom, deepest, monkeypatch):
    monkeypatch.setattr(scan_module, "DEEPEST", deepest)
    rng = np.random.default_rng(2)
    q, x = (normalise(rng.standard_normal((n, 24)).astype(np.float32)) for n in (30, 200))
    table = q.astype(float) @ x.astype(float).T
    low, best = rng.uniform(0.2, 0.9, 30), rng.uniform(0.3, 0.8, 30)
    chosen = np.flatnonzero(rng.random(30) < 0.7)
    found, unfinished = FaissScan(q)(chosen, low, best, x, seldom)
    pairs = set(zip(found.query.tolist(), found.row.tolist(), strict=True))
    for query in set(chosen.tolist()) - set(unfinished.tolist()):
        floor = min(low[query], max(best[query], table[query].max()))
        assert {(query, row) for row in np.flatnonzero(table[query] >= floor)} <= pairs
    full = {query for query in chosen.tolist() if (table[query] >= low[query]).sum() > deepest}
    assert set(unfinished.tolist()) == full


def test_the_dense_scan_yields_every_pair_at_or_above_the_floor(monkeypatch):
    monkeypatch.setattr(DenseScan, "QUERIES", 7)
    monkeypatch.setattr(DenseScan, "ROWS", 30)
    rng = np.random.default_rng(3)
    q, x = (normalise(rng.standard_normal((n, 24)).astype(np.float32)) for n in (20, 100))
    table = q.astype(float) @ x.astype(float).T
    low = np.full(20, 0.1)
    pairs = set()
    for found in DenseScan(q)(np.arange(20), low, np.full(20, 1.0), x, 0):
        pairs |= set(zip(found.query.tolist(), found.row.tolist(), strict=True))
    assert pairs == set(zip(*(part.tolist() for part in np.nonzero(table >= 0.1)), strict=True))
