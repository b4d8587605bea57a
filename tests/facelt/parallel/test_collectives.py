"""Collectives: values by hand, backward as the exact transpose, nothing at one rank, bytes counted."""

import os
from unittest import mock

import numpy as np
import pytest
import torch
from ranks import run_ranks

from facelt.parallel import collectives, group

B = 2
MATRICES = {"gather": collectives.gather, "scatter_sum": collectives.scatter_sum, "all_sum": collectives.all_sum}


def apply(name: str) -> dict:
    """y = f(x) and the gradient of Σ_r Σ y_r·t_r, for x and t that depend on the rank."""
    ranks, rank = group.world_size(), group.rank()
    generator = torch.Generator().manual_seed(rank)
    rows = B * ranks if name == "scatter_sum" else B
    x = torch.randn(rows, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    y = MATRICES[name](x)
    t = torch.randn(y.shape, generator=generator, dtype=torch.float64)
    (y * t).sum().backward()
    return {"x": x.detach(), "y": y, "t": t, "grad": x.grad}


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_gather(ranks):
    got = run_ranks(ranks, apply, "gather")
    whole = np.concatenate([g["x"] for g in got])
    for rank, g in enumerate(got):
        np.testing.assert_array_equal(g["y"], whole)
        want = sum(other["t"][rank * B : (rank + 1) * B] for other in got)
        np.testing.assert_allclose(g["grad"], want, rtol=1e-14)


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_scatter_sum(ranks):
    got = run_ranks(ranks, apply, "scatter_sum")
    total = sum(g["x"] for g in got)
    for rank, g in enumerate(got):
        np.testing.assert_allclose(g["y"], total[rank * B : (rank + 1) * B], rtol=1e-14)
        np.testing.assert_array_equal(g["grad"], np.concatenate([other["t"] for other in got]))


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_all_sum(ranks):
    got = run_ranks(ranks, apply, "all_sum")
    for g in got:
        np.testing.assert_allclose(g["y"], sum(other["x"] for other in got), rtol=1e-14)
        np.testing.assert_allclose(g["grad"], sum(other["t"] for other in got), rtol=1e-14)


def alike() -> dict:
    """Gradients of Σ_r (1/R)·L, where L is of the sum and of the maximum, the same on all ranks."""
    ranks, rank = group.world_size(), group.rank()
    part = torch.tensor([rank + 1.0, 2.0], dtype=torch.float64, requires_grad=True)
    held = torch.full((3,), -torch.inf, dtype=torch.float64)
    own = torch.tensor([10.0 + rank], dtype=torch.float64, requires_grad=True)
    total = collectives.sum_alike(part)
    top = collectives.max_alike(held.index_put((torch.tensor([rank]),), own))
    ((total.square().sum() + top[:ranks].square().sum()) / ranks).backward()
    return {"total": total, "top": top, "part": part.grad, "own": own.grad}


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_a_loss_that_all_ranks_compute_alike(ranks):
    for rank, g in enumerate(run_ranks(ranks, alike)):
        total = np.array([ranks * (ranks + 1) / 2, 2.0 * ranks])
        np.testing.assert_array_equal(g["total"], total)
        np.testing.assert_array_equal(g["top"], [10.0 + r if r < ranks else -np.inf for r in range(3)])
        np.testing.assert_allclose(g["part"], 2 * total, rtol=1e-15)
        np.testing.assert_allclose(g["own"], [2 * (10.0 + rank)], rtol=1e-15)


def held_by() -> torch.Tensor:
    rank = group.rank()
    return collectives.first(torch.tensor([True, rank > 0, rank == 2, False]))


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_the_lowest_rank_that_holds_keeps_it(ranks):
    got = run_ranks(ranks, held_by)
    want = [[True, False, False, False], [False, True, False, False], [False, False, True, False]]
    assert [g.tolist() for g in got] == want[:ranks]


def others() -> dict:
    rank = group.rank()
    x = torch.ones(2, requires_grad=True)
    collectives.leave_averaging(3 * x).sum().backward()
    return {
        "max": collectives.all_max(torch.tensor([float(rank), -float(rank)])),
        "table": collectives.table(torch.tensor([rank, rank + 10])),
        "shared": group.share({"from": rank}),
        "error": group.first_error(f"rank {rank}" if rank else None),
        "grad": x.grad,
    }


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_the_others(ranks):
    for g in run_ranks(ranks, others):
        np.testing.assert_array_equal(g["max"], [ranks - 1, 0])
        np.testing.assert_array_equal(g["table"], [[r, r + 10] for r in range(ranks)])
        assert g["shared"] == {"from": 0}
        assert g["error"] == ("rank 1" if ranks > 1 else None)
        np.testing.assert_array_equal(g["grad"], [3.0 * ranks] * 2)


def counted() -> list[int]:
    collectives.traffic.reset()
    collectives.gather(torch.zeros(5, 4))
    collectives.all_sum(torch.zeros(7, dtype=torch.float64))
    return [collectives.traffic.calls, collectives.traffic.bytes]


def test_traffic_is_counted_and_is_nothing_at_one_rank():
    assert run_ranks(2, counted) == [[2, 5 * 4 * 4 + 7 * 8]] * 2
    assert run_ranks(1, counted) == [[0, 0]]


def test_slurm_tasks_without_an_address_are_told_what_to_export():
    slurm = {"SLURM_NTASKS": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "0"}
    with mock.patch.dict(os.environ, slurm, clear=True), pytest.raises(ValueError, match="MASTER_ADDR is not set"):
        group.join()
