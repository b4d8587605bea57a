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


@pytest.mark.parametrize("environment, used", [({}, [0, 1, 2]), ({"WORLD_SIZE": "6", "LOCAL_RANK": "4"}, [1])])
def test_what_faiss_keeps_on_gpus_is_made_once_on_those_of_the_process(environment, used, monkeypatch):
    for name in ("LOCAL_RANK", "SLURM_LOCALID", "WORLD_SIZE", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    made, asked = [], []

    class Resources:
        def __init__(self):
            made.append(self)

    def to_gpus(resources, index, options, gpus):
        asked.append((resources, gpus))
        return index  # the CPU's own

    monkeypatch.setattr(scan_module, "gpus", lambda: 3)
    monkeypatch.setattr(scan_module.faiss, "StandardGpuResources", Resources, raising=False)
    monkeypatch.setattr(scan_module.faiss, "GpuMultipleClonerOptions", type("Options", (), {}), raising=False)
    monkeypatch.setattr(scan_module.faiss, "index_cpu_to_gpu_multiple_py", to_gpus, raising=False)
    scan_module.resources.cache_clear()
    try:
        rng = np.random.default_rng(2)
        q, x = unit_rows(rng, 30, 24), unit_rows(rng, 200, 24)
        for _ in range(2):
            found, _ = FaissScan(q)(np.arange(30), np.full(30, 0.4), np.full(30, -1.0), x, np.zeros(30))
            want = {tuple(pair) for pair in np.argwhere(q.astype(float) @ x.astype(float).T >= 0.4).tolist()}
            assert want <= set(zip(found.query.tolist(), found.row.tolist(), strict=True))
    finally:
        scan_module.resources.cache_clear()
    assert asked == [(made, used)] * 2
