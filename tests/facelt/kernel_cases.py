"""Problems for the kernels, as hypothesis draws them, and their solution in float64, written from the equations."""

from typing import Any

import pytest
import torch
from hypothesis import strategies
from torch import Tensor

from facelt.head.kernels import choice, self_check
from facelt.head.kernels.self_check import Problem

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# By name: the dtype of the numbers, and what operands of products are rounded to.
KINDS = {
    "float64": (torch.float64, torch.float64),
    "float32": (torch.float32, torch.float32),
    "bfloat16": (torch.float32, torch.bfloat16),
}
# Sizes beside the edges of tiles; an empty shard; one row; one class, which is then all that is left out.
EDGES = [
    {"G": 1, "k": 1, "D": 8},
    {"G": 5, "k": 1, "D": 16},
    {"G": 3, "k": 0, "D": 9},
    {"G": 65, "k": 64, "D": 33},
    {"G": 17, "k": 40, "D": 512},
    {"G": 33, "k": 65, "D": 100, "share": 0.5, "block": 37},
    {"G": 2, "k": 40, "D": 8, "share": 0.0},
    {"G": 2, "k": 33, "D": 8, "spread": 10.0},
]


def problems() -> Any:
    """Of any kind, uneven sizes; few enough classes for the interpreter."""
    return strategies.builds(
        Problem,
        G=strategies.integers(1, 70),
        k=strategies.integers(0, 100),
        D=strategies.sampled_from((8, 15, 16, 40, 64, 129)),
        cosine=strategies.booleans(),
        share=strategies.sampled_from((0.0, 0.5, 1.0)),
        masked=strategies.booleans(),
        block=strategies.sampled_from((None, 17, 64)),
        seed=strategies.integers(0, 2**20),
        spread=strategies.sampled_from((1e-6, 1.0, 6.0)),
    )


def solved(part: Any, problem: Problem) -> dict[str, Tensor]:
    """By the kernels; they must not be missing here. part: of `self_check`."""
    kernels = choice.load()
    if kernels is None:
        pytest.skip("triton is not installed")
    return part(kernels, self_check.Drawn(problem, DEVICE))


def assert_agree(got: dict[str, Tensor], want: dict[str, Tensor], tolerance: float) -> None:
    assert not self_check.disagreements(got, want, tolerance), {n: (got[n], want[n]) for n in want}


def in_float64(problem: Problem) -> Any:
    """The problem's numbers in float64, as leaves; classes that do not take part, and pairs, as masks G x k."""
    drawn = self_check.Drawn(problem, DEVICE)
    for name, value in vars(drawn).items():
        if isinstance(value, Tensor) and value.is_floating_point():
            setattr(drawn, name, value.detach().double().requires_grad_(value.requires_grad))
    absent_k = torch.ones(problem.k, dtype=torch.bool, device=DEVICE).index_fill_(0, drawn.classes, False)
    own_Gk = torch.zeros(problem.G, problem.k, dtype=torch.bool, device=DEVICE)
    own_Gk[drawn.pairs.rows, drawn.pairs.classes] = True
    return drawn, absent_k, own_Gk


class _Rounded(torch.autograd.Function):
    """To bfloat16 and back, whose slope is one."""

    @staticmethod
    def forward(ctx, x):
        return x.bfloat16().double()

    @staticmethod
    def backward(ctx, grad):
        return grad


def as_product_takes(x: Tensor, problem: Problem) -> Tensor:
    """An operand in float64, rounded where the problem's products round."""
    return _Rounded.apply(x) if problem.low == torch.bfloat16 else x


def masked_softmax(l_Gk: Tensor, out_Gk: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """max (-inf where nothing is left), log Σ e^l (0 there) and e^l/Σ e^l (0 there), without what is left out."""
    l_Gk = l_Gk.masked_fill(out_Gk, -torch.inf)
    some_G = (~out_Gk).any(1)
    top_G = l_Gk.amax(1) if l_Gk.shape[1] else l_Gk.new_full((len(l_Gk),), -torch.inf)
    held_Gk = torch.where(some_G[:, None], l_Gk, 0)
    log_G = torch.where(some_G, held_Gk.logsumexp(1), 0) if l_Gk.shape[1] else l_Gk.sum(1)
    return top_G.detach(), log_G, torch.exp(held_Gk - log_G[:, None]) * some_G[:, None] * ~out_Gk
