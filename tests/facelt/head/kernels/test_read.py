"""The memory's read by kernels is that of equation 1 in float64, and that of the blocked code."""

from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import booleans
from kernel_cases import (
    DEVICE,
    EDGES,
    KINDS,
    as_product_takes,
    assert_agree,
    in_float64,
    masked_softmax,
    problems,
    solved,
)
from torch.nn.functional import normalize

from facelt.head.kernels import choice, self_check
from facelt.head.kernels.self_check import TORCH, Drawn, Problem

# Of scores and sums, exact but for sums in float32; of what follows products whose operands are rounded.
EXACT = {"float64": 1e-11, "float32": 2e-5, "bfloat16": 2e-5}
SLOPES = {"float64": 1e-9, "float32": 1e-4, "bfloat16": 4e-2}
READ = {"read"}  # a product too


def twin(problem: Problem) -> dict[str, torch.Tensor]:
    """o·M with o = softmax(l), or l: l = f·w + b, or 2·f·c/‖c‖; own classes left out; Σ slope·(o·M)."""
    drawn, absent_k, own_Gk = in_float64(problem)
    f_GD, c_kD = drawn.x_GD, drawn.centroids_kD
    f_low, c_low = as_product_takes(f_GD, problem), as_product_takes(c_kD, problem)
    if problem.cosine:
        l_Gk = 2 * f_low @ c_low.T / torch.linalg.vector_norm(c_kD, dim=1).clamp(min=1e-12)
    else:
        l_Gk = f_low @ as_product_takes(drawn.keys_kD, problem).T + drawn.bias_k
    out_Gk = absent_k | (own_Gk & problem.masked)
    top_G, _, o_Gk = masked_softmax(l_Gk, out_Gk)
    if not problem.softmax:
        top_G, o_Gk = torch.zeros_like(top_G), l_Gk.masked_fill(out_Gk, 0)
    read_GD = o_Gk @ c_kD
    (read_GD * drawn.slope_GD).sum().backward()
    c_kD, f_GD = c_kD.detach(), f_GD.detach()
    distance_Gk = (f_GD[:, None] - c_kD).square().sum(2).masked_fill(absent_k, torch.inf)
    found = {"top": top_G, "read": read_GD.detach(), "sum": c_kD[drawn.classes].sum(0)}
    found["norm"] = torch.linalg.vector_norm(c_kD[drawn.classes], dim=1)
    found["distance"] = distance_Gk.amin(1) if problem.k else f_GD.new_full((problem.G,), torch.inf)
    leaves = {"df": drawn.x_GD, "dcentroids": drawn.centroids_kD, "dkeys": drawn.keys_kD, "dbias of keys": drawn.bias_k}
    return found | {name: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for name, leaf in leaves.items()}


def check(kind: str, problem: Problem) -> None:
    got, want = solved(self_check.read, problem), twin(problem)
    slopes = {name for name in want if name.startswith("d") and name != "distance"} | READ
    of_slopes = SLOPES[kind] * max(1, problem.spread / 3)  # the scores' own errors grow with them
    for names, tolerance in ((want.keys() - slopes, EXACT[kind]), (slopes, of_slopes)):
        assert_agree({n: got[n].double() for n in names}, {n: want[n] for n in names}, tolerance)
    blocked = self_check.read(TORCH, Drawn(problem, DEVICE))
    assert_agree(got, blocked, of_slopes)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cosine, softmax", [(True, True), (False, True), (False, False)])
@pytest.mark.parametrize("edge", EDGES, ids=str)
def test_at_the_edges_of_tiles_and_shards(edge, cosine, softmax, kind):
    dtype, low = KINDS[kind]
    check(kind, Problem(**edge, dtype=dtype, low=low, cosine=cosine, softmax=softmax))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(problem=problems(), softmax=booleans())
def test_of_any_size(kind, problem, softmax):
    dtype, low = KINDS[kind]
    check(kind, replace(problem, dtype=dtype, low=low, softmax=softmax or problem.cosine))


@pytest.mark.parametrize("low", [torch.float32, torch.bfloat16])
def test_of_equal_centroids_the_nearest_is_the_lowest(low):
    """As of blocks; with rounded operands among the classes that are scored again."""
    drawn = Drawn(Problem(4, 20, 8, low, masked=False), DEVICE)
    with torch.no_grad():
        drawn.centroids_kD.copy_(normalize(drawn.centroids_kD[:1]).expand(20, -1))
    assert solve(drawn)["nearest"].tolist() == [0] * 4


def solve(drawn: Drawn) -> dict[str, torch.Tensor]:
    kernels = choice.load()
    assert kernels is not None
    return self_check.read(kernels, drawn)
