"""The coarse scans find what FAISS finds, and their bounds hold."""

import numpy as np
import pytest

pytest.importorskip("torch")

from functools import partial

import torch
from small_sets import set_of

from megaface_eval.features.feature_set import normalise
from megaface_eval.features.gallery import Gallery
from megaface_eval.search import certified, ranks
from megaface_eval.search.certified import CertifiedScan, quantise
from megaface_eval.search.ranks import Search, Thresholds, count_above
from megaface_eval.search.scores import score_pairs


def rows_of(kind, n, dimension, rng):
    if kind == "random":
        rows = rng.standard_normal((n, dimension))
    elif kind == "one sign":  # rounding has nothing to cancel against
        rows = np.abs(rng.standard_normal((n, dimension)))
    elif kind == "spiky":  # one number dwarfs the rest: the worst case of a shared scale
        rows = 0.01 * rng.standard_normal((n, dimension))
        rows[:, 0] = 1
    else:
        rows = rng.standard_normal((4, dimension))[rng.integers(4, size=n)]
    return rows.astype(np.float32)


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
@pytest.mark.parametrize("kind", ["random", "one sign", "spiky", "tied"])
@pytest.mark.parametrize("dimension", [1, 2, 96])
def test_no_error_exceeds_its_bound(precision, kind, dimension):
    rng = np.random.default_rng(0)
    q, x = normalise(rows_of(kind, 40, dimension, rng)), normalise(rows_of(kind, 300, dimension, rng))
    scan = CertifiedScan(q, precision=precision)
    everyone = np.arange(40)
    found, unfinished = scan(everyone, np.full(40, -2.0), np.full(40, -np.inf), x, np.zeros(40))
    assert len(unfinished) == 0
    assert len(found.query) == 40 * 300  # a floor below everything leaves every pair open
    exact = q.astype(float) @ x.astype(float).T
    assert (np.abs(found.score - exact[found.query, found.row]) <= found.error).all()


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
@pytest.mark.parametrize("kind", ["random", "one sign", "spiky", "tied"])
@pytest.mark.parametrize("most", [3, 512])
def test_counts_and_best_rows_are_those_of_a_product(precision, kind, most, monkeypatch):
    monkeypatch.setattr(ranks, "PILOT_ROWS", 5)
    monkeypatch.setattr(certified, "MOST", most)
    monkeypatch.setattr(certified, "PIECE_ROWS", 50)
    rng = np.random.default_rng(1)
    probes, rows = rows_of(kind, 20, 32, rng), rows_of(kind, 500, 32, rng)
    q, x = normalise(probes), normalise(rows.copy())
    query, row = rng.integers(20, size=60), rng.integers(500, size=60)
    gallery = Gallery(set_of(rows), [100, 500])
    scan = partial(CertifiedScan, precision=precision)
    for inclusive in (False, True):
        thresholds, _ = Thresholds.of(query, score_pairs(q, query, x, row), 20, inclusive)
        expected = count_above(q, thresholds, gallery, Search(block_rows=128))
        found = count_above(q, thresholds, gallery, Search(scan=scan, block_rows=128))
        np.testing.assert_array_equal(found.counts, expected.counts)
        np.testing.assert_array_equal(found.best_place, expected.best_place)
        np.testing.assert_array_equal(found.best_score, expected.best_score)


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_measured_lengths_are_those_of_the_coarse_rows(precision):
    rows = normalise(rows_of("random", 10, 64, np.random.default_rng(0)))
    coarse, scale, length, error = quantise(rows, precision)
    back = coarse.double().numpy() * scale
    np.testing.assert_allclose(length, np.linalg.norm(back, axis=1))
    np.testing.assert_allclose(error, np.linalg.norm(rows.astype(float) - back, axis=1))
    assert error.max() < 0.02


@pytest.mark.parametrize("queries, rows, dimension", [(1, 1, 1), (16, 9, 12), (17, 8, 16), (40, 33, 5)])
def test_int8_products_of_any_shape_are_within_what_cuda_takes(queries, rows, dimension, monkeypatch):
    rng = np.random.default_rng(2)
    q, x = (torch.from_numpy(rng.integers(-127, 128, (n, dimension)).astype(np.int8)) for n in (queries, rows))
    shapes = []

    def strict(left, right):
        shapes.append((*left.shape, right.shape[1]))
        return left.int() @ right.int()

    monkeypatch.setattr(torch.ops.aten, "_int_mm", strict)
    got = certified.int8_product(q, x)
    assert torch.equal(got, q.int() @ x.int().T)
    ((taken, numbers, made),) = shapes
    assert taken > 16
    assert numbers % 8 == made % 8 == 0


def test_each_process_has_a_gpu_of_its_own(monkeypatch):
    assert certified.own_device() == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    for name, number, device in (("LOCAL_RANK", "3", 3), ("LOCAL_RANK", "5", 1), ("SLURM_LOCALID", "2", 2)):
        monkeypatch.delenv("LOCAL_RANK", raising=False)
        monkeypatch.setenv("WORLD_SIZE", "8")
        monkeypatch.setenv(name, number)
        assert certified.own_device() == torch.device("cuda", device)
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert certified.own_device() == torch.device("cuda", 0)


def test_bfloat16_sums_are_not_rounded_on_the_way():
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = True
    CertifiedScan(np.ones((2, 8), np.float32))
    assert not torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction
