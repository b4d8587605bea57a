"""The softmax over classes by kernels is that of the equations in float64, and that of the blocked code."""

from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
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

from facelt.head.blocked import Keys
from facelt.head.kernels import choice, self_check
from facelt.head.kernels.self_check import TORCH, Problem

# Of what is not rounded but by sums in float32; of gradients, whose products have rounded operands.
EXACT = {"float64": 1e-11, "float32": 1e-5, "bfloat16": 1e-5}
SLOPES = {"float64": 1e-10, "float32": 5e-5, "bfloat16": 3e-2}


def twin(problem: Problem) -> dict[str, torch.Tensor]:
    """l_gk = (x_g·w_k + b_k)·factor_k + offset_k, or x_g·w_k/‖w_k‖ + offset_k; Σ_g slope_g·(log Σ_{k≠y} e^l - l_gy)."""
    drawn, absent_k, own_Gk = in_float64(problem)
    x_GD, w_kD = (as_product_takes(t, problem) for t in (drawn.x_GD, drawn.keys_kD))
    if problem.cosine:
        l_Gk = x_GD @ w_kD.T / torch.linalg.vector_norm(drawn.keys_kD, dim=1).clamp(min=1e-12) + drawn.offset_k
    else:
        l_Gk = (x_GD @ w_kD.T + drawn.bias_k) * drawn.factor_k + drawn.offset_k
    _, log_G, _ = masked_softmax(l_Gk, own_Gk | absent_k)
    own = l_Gk[drawn.pairs.rows, drawn.pairs.classes]
    (log_G @ drawn.slope_G - own @ drawn.slope_G[drawn.pairs.rows]).backward()
    found = {"log of sum": log_G.detach(), "own": own.detach(), "dx": drawn.x_GD.grad, "dw": drawn.keys_kD.grad}
    if problem.cosine:
        return found | {"1/norm": 1 / torch.linalg.vector_norm(drawn.keys_kD.detach(), dim=1)[drawn.classes]}
    return found | {"db": drawn.bias_k.grad, "dfactor": drawn.factor_k.grad}


def check(kind: str, problem: Problem) -> None:
    got, want = solved(self_check.softmax, problem), twin(problem)
    slopes = {name for name in want if name.startswith("d")}
    of_slopes = SLOPES[kind] * max(1, problem.spread / 3)  # the scores' own errors grow with them
    for names, tolerance in ((want.keys() - slopes, EXACT[kind]), (slopes, of_slopes)):
        assert_agree({n: got[n].double() for n in names}, {n: want[n] for n in names}, tolerance)
    blocked = self_check.softmax(TORCH, self_check.Drawn(problem, DEVICE))
    assert_agree(got, blocked, of_slopes)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cosine", [True, False])
@pytest.mark.parametrize("edge", EDGES, ids=str)
def test_at_the_edges_of_tiles_and_shards(edge, cosine, kind):
    dtype, low = KINDS[kind]
    check(kind, Problem(**edge, dtype=dtype, low=low, cosine=cosine))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(problem=problems())
def test_of_any_size(kind, problem):
    dtype, low = KINDS[kind]
    check(kind, replace(problem, dtype=dtype, low=low))


def test_an_own_score_far_above_the_others_leaves_gradients_finite():
    """e^(own - top) is infinite in float32; nothing takes it."""
    drawn = self_check.Drawn(Problem(3, 5, 8, cosine=False), DEVICE)
    with torch.no_grad():
        drawn.x_GD.copy_(1e3 * normalize(drawn.keys_kD[drawn.pairs.classes]))
    kernels = choice.load()
    assert kernels is not None
    got = self_check.softmax(kernels, drawn)
    assert all(value.isfinite().all() for value in got.values())


def test_what_is_not_a_number_is_seen():
    drawn = self_check.Drawn(Problem(3, 40, 8), DEVICE)
    with torch.no_grad():
        drawn.x_GD[1, 2] = torch.nan
    kernels = choice.load()
    assert kernels is not None
    _, sum_G, _ = kernels.scores(
        drawn.x_GD,
        drawn.keys_kD,
        Keys(drawn.keys_kD, None, drawn.inverse_norms()),
        drawn.blocks(drawn.pairs),
    )
    assert sum_G.isnan().tolist() == [False, True, False]
