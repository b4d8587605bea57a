"""FAISS's scan never loses a pair that could reach its floor."""

import numpy as np
import pytest
from small_sets import unit_rows

from megaface_eval.search import faiss_scan as scan_module
from megaface_eval.search.faiss_scan import FaissScan


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("deepest", [3, 64])
def test_every_pair_at_or_above_the_floor_is_found_or_its_query_named(share, deepest, monkeypatch):
    monkeypatch.setattr(scan_module, "DEEPEST", deepest)
    rng = np.random.default_rng(2)
    q, x = unit_rows(rng, 30, 24), unit_rows(rng, 200, 24)
    table = q.astype(float) @ x.astype(float).T
    low, best = rng.uniform(0.2, 0.9, 30), rng.uniform(0.3, 0.8, 30)
    chosen = np.flatnonzero(rng.random(30) < 0.7)
    expected = (rng.random(30) < share).astype(float)  # wrong for some: it must not matter
    found, unfinished = FaissScan(q)(chosen, low, best, x, expected)
    pairs = set(zip(found.query.tolist(), found.row.tolist(), strict=True))
    for query in set(chosen.tolist()) - set(unfinished.tolist()):
        floor = min(low[query], max(best[query], table[query].max()))
        assert {(query, row) for row in np.flatnonzero(table[query] >= floor)} <= pairs
    full = {query for query in chosen.tolist() if (table[query] >= low[query]).sum() > deepest}
    assert set(unfinished.tolist()) == full
