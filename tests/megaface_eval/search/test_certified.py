"""The coarse scans find what FAISS finds, and their bounds hold."""

import numpy as np
import pytest

pytest.importorskip("torch")

from functools import partial

import torch
from hypothesis import given
from hypothesis import strategies as st
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
@pytest.mark.parametrize("kind", ["random", "near ties", "tiny", "huge", "both signs of one"])
@pytest.mark.parametrize("dimension", [1, 3, 64])
def test_counts_are_those_of_float64_on_adversarial_rows(precision, kind, dimension, monkeypatch):
    monkeypatch.setattr(ranks, "PILOT_ROWS", 3)
    monkeypatch.setattr(certified, "PIECE_ROWS", 40)
    rng = np.random.default_rng(5)
    probes, rows = (rng.standard_normal((n, dimension)) for n in (15, 300))
    if kind == "near ties":  # apart by single roundings of float32, far below what the coarse rows can tell
        rows = rows[rng.integers(3, size=300)] * (1 + 1e-7 * rng.integers(-2, 3, (300, dimension)))
    elif kind == "both signs of one":
        rows = rows[:1] * rng.choice([-1, 1], (300, 1))
    rows = rows * {"tiny": 1e-22, "huge": 1e20}.get(kind, 1.0)
    q, x = normalise(probes.astype(np.float32)), normalise(rows.astype(np.float32))
    table = (q[:, None].astype(float) * x[None].astype(float)).sum(axis=2)
    query, row = rng.integers(15, size=60), rng.integers(300, size=60)
    gallery = Gallery(set_of(rows.astype(np.float32)), [50, 300])
    for inclusive in (False, True):
        thresholds, place = Thresholds.of(query, score_pairs(q, query, x, row), 15, inclusive)
        scan = partial(CertifiedScan, precision=precision)
        found = count_above(q, thresholds, gallery, Search(scan=scan, block_rows=128))
        value = thresholds.values[place][:, None]
        above = table[query] >= value if inclusive else table[query] > value
        np.testing.assert_array_equal(found.counts[:, place], [above[:, :50].sum(axis=1), above.sum(axis=1)])
        np.testing.assert_array_equal(found.best_place, table.argmax(axis=1))
        np.testing.assert_array_equal(found.tied[place], (table[query] == value).any(axis=1))


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_measured_lengths_are_those_of_the_coarse_rows(precision):
    rows = normalise(rows_of("random", 10, 64, np.random.default_rng(0)))
    coarse = quantise(rows, precision)
    back = coarse.values.double().numpy() * coarse.scale
    for measured, true in ((coarse.length, back), (coarse.error, rows.astype(float) - back)):
        lengths = np.linalg.norm(true, axis=1)
        assert (measured >= lengths).all()
        np.testing.assert_allclose(measured, lengths, rtol=1e-3)
    assert coarse.error.max() < 0.02


@given(st.lists(st.floats(-2, 2, width=32), min_size=1, max_size=40), st.integers(1, 5))
def test_the_highest_bfloat16_is_found_by_its_bits(values, columns):
    table = torch.tensor(values)[:, None] * torch.linspace(-1, 1, columns)
    for products in (table.to(torch.bfloat16), (table * 100).int()):
        assert torch.equal(certified.highest(products), products.amax(dim=1))


@given(st.floats(-2, 2))
def test_a_floor_in_bfloat16_lies_below_by_two_steps_at_most(value):
    floor = certified._below(torch.tensor([value], dtype=torch.float64)).double().item()
    assert floor <= value
    assert value - floor <= abs(value) / 64 + 1e-29


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
@pytest.mark.parametrize("part", [3, 4096])
def test_scans_of_any_size_share_one_place(precision, part, monkeypatch):
    monkeypatch.setattr(certified, "PART", part)
    monkeypatch.setattr(certified, "STRIP", 7)
    rng = np.random.default_rng(4)
    q, x = normalise(rows_of("random", 30, 24, rng)), normalise(rows_of("random", 200, 24, rng))
    scan = CertifiedScan(q, precision=precision)
    for first, last in ((0, 200), (10, 60), (0, 150), (5, 6)):
        table = q.astype(float) @ x[first:last].astype(float).T
        low, best = rng.uniform(-0.9, 0.9, 30), rng.uniform(-0.3, 0.8, 30)
        chosen = np.flatnonzero(rng.random(30) < 0.7)
        found, unfinished = scan(chosen, low, best, x[first:last], np.zeros(30))
        assert len(unfinished) == 0
        floor = np.minimum(low, np.maximum(best, table.max(axis=1)))
        wanted = {(one, row) for one in chosen.tolist() for row in np.flatnonzero(table[one] >= floor[one])}
        pairs = list(zip(found.query.tolist(), found.row.tolist(), strict=True))
        assert wanted <= set(pairs)
        assert len(set(pairs)) == len(pairs)
        assert (np.abs(found.score - table[found.query, found.row]) <= found.error).all()


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
