"""What a self-check sees: results that are apart, and kernels that fail; what it lets pass."""

import pytest
import torch
from kernel_cases import DEVICE

from facelt.head.blocked import Kernels
from facelt.head.kernels import choice
from facelt.head.kernels.self_check import TORCH, Problem, disagreements, fault, solve
from facelt.head.products import Products


@pytest.mark.parametrize("low", [torch.float32, "tf32", torch.bfloat16])
@pytest.mark.parametrize("D", [8, 100])
def test_the_kernels_pass_as_a_run_asks_for_them(D, low: Products):
    kernels = choice.load()
    assert kernels is not None
    assert fault(kernels, DEVICE, Problem(64, 10_000, D, low)) is None


@pytest.mark.parametrize("factor", [1.001, torch.nan])
def test_a_wrong_sum_or_read_is_seen(factor):
    def scores(*args):
        top_G, sum_G, own = TORCH.scores(*args)
        return top_G, sum_G, own * factor

    def read(*args):
        m_G, s_G, a_GD = TORCH.read(*args)
        return m_G, s_G, a_GD * factor

    problem = Problem(9, 40, 16)
    assert fault(TORCH, DEVICE, problem) is None
    assert "own" in str(fault(Kernels(scores, TORCH.read), DEVICE, problem))
    assert "read" in str(fault(Kernels(TORCH.scores, read), DEVICE, problem))


def test_a_wrong_gradient_of_one_class_is_seen():
    want = solve(TORCH, Problem(9, 40, 16), DEVICE)
    for name in ("dw", "dx", "dcentroids", "df"):
        got = {n: value.clone() for n, value in want.items()}
        got[name][3] *= 1.01
        assert disagreements(got, want, 1e-4) == [name]


def test_the_same_problem_is_drawn_every_time():
    one, other = (solve(TORCH, Problem(5, 20, 8, share=0.5), DEVICE) for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)
