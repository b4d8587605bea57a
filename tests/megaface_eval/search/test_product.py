"""The scans by plain products never lose a pair that could reach its floor."""

import numpy as np
import pytest
from small_sets import unit_rows

from megaface_eval.features.feature_set import normalise
from megaface_eval.search import product
from megaface_eval.search.product import DenseScan, ProductScan
from megaface_eval.search.scores import product_error


def test_the_bound_of_a_float32_product_holds_on_its_worst_input():
    rng = np.random.default_rng(1)
    # all products of one sign: rounding has nothing to cancel against
    rows = normalise(np.abs(rng.standard_normal((4000, 512))).astype(np.float32))
    exact = rows.astype(np.float64) @ rows[:50].astype(np.float64).T
    assert np.abs(rows @ rows[:50].T - exact).max() < product_error(512)
    scan = ProductScan(rows[:50])
    found, unfinished = scan(np.arange(50), np.full(50, 2.0), np.full(50, -np.inf), rows, np.zeros(50))
    assert len(found.query) >= 50 - len(unfinished) > 0
    assert np.abs(found.score - exact.T[found.query, found.row]).max() <= scan.error


@pytest.mark.parametrize("part, strip, deepest", [(4096, 64, 64), (7, 3, 64), (4, 64, 3), (30, 1, 0)])
def test_every_pair_at_or_above_the_floor_is_found_or_its_query_named(part, strip, deepest, monkeypatch):
    for name, value in (("PART", part), ("STRIP", strip), ("DEEPEST", deepest)):
        monkeypatch.setattr(product, name, value)
    rng = np.random.default_rng(2)
    q, x = unit_rows(rng, 30, 24), unit_rows(rng, 200, 24)
    scan = ProductScan(q)
    # one scan serves pieces of any size and any queries: what it keeps between them must not show
    for first, last in ((0, 200), (10, 60), (0, 150)):
        rows = x[first:last]
        table = q.astype(float) @ rows.astype(float).T
        low, best = rng.uniform(0.2, 0.9, 30), rng.uniform(0.3, 0.8, 30)
        chosen = np.flatnonzero(rng.random(30) < 0.7)
        found, unfinished = scan(chosen, low, best, rows, np.zeros(30))
        floor = np.minimum(low, np.maximum(best, table.max(axis=1)))
        wanted = {(query, row) for query in chosen.tolist() for row in np.flatnonzero(table[query] >= floor[query])}
        number = np.array([sum(query == one for one, _ in wanted) for query in range(30)])
        assert set(unfinished.tolist()) == set(np.flatnonzero(number > deepest).tolist())
        pairs = list(zip(found.query.tolist(), found.row.tolist(), strict=True))
        assert set(pairs) == {(query, row) for query, row in wanted if number[query] <= deepest}
        assert len(set(pairs)) == len(pairs)
        assert np.abs(found.score - table[found.query, found.row]).max(initial=0) <= scan.error


def test_the_dense_scan_yields_every_pair_at_or_above_the_floor(monkeypatch):
    monkeypatch.setattr(DenseScan, "QUERIES", 7)
    monkeypatch.setattr(DenseScan, "ROWS", 30)
    rng = np.random.default_rng(3)
    q, x = unit_rows(rng, 20, 24), unit_rows(rng, 100, 24)
    table = q.astype(float) @ x.astype(float).T
    low = np.full(20, 0.1)
    pairs = set()
    for found in DenseScan(q)(np.arange(20), low, np.full(20, 1.0), x, 0):
        pairs |= set(zip(found.query.tolist(), found.row.tolist(), strict=True))
    assert pairs == set(zip(*(part.tolist() for part in np.nonzero(table >= 0.1)), strict=True))
