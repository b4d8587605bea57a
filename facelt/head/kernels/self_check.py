"""A small random problem, solved by kernels and by torch's products: whether the two agree, and which is faster.

G: rows, k: classes, D: embedding size.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from facelt.head.blocked import ClassBlocks, Kernels, Keys, Pairs, block_for
from facelt.head.classifier import BlockedScores
from facelt.head.memory import BlockedRead, Census, Retrieval
from facelt.head.products import Products, rounds

TORCH = Kernels(BlockedScores.apply, BlockedRead.apply)

# How far two results may be apart, as a share of the largest number in them; where operands are rounded, one side may
# round them otherwise.
TOLERANCE, TOLERANCE_ROUNDED = 1e-4, 5e-2


@dataclass(frozen=True)
class Problem:
    """Rows and classes of normal numbers, scored for a softmax and read as a memory.

    low: what operands of products are rounded to. cosine: of classifier and retrieval, whose read is then a softmax;
    else both are linear, with biases, offsets and factors. share: of the classes, that takes part. masked: whether own
    classes are left out of the read. block: classes of a block; None: by the rows. spread: of the scores, about.
    """

    G: int
    k: int
    D: int
    low: Products = torch.float32
    cosine: bool = True
    softmax: bool = True
    share: float = 1.0
    masked: bool = True
    block: int | None = None
    dtype: torch.dtype = torch.float32
    seed: int = 0
    spread: float = 3.0

    @property
    def tolerance(self) -> float:
        return TOLERANCE_ROUNDED if rounds(self.low) else TOLERANCE


class Drawn:
    """The problem's numbers, the same at every call, on a device."""

    def __init__(self, problem: Problem, device: torch.device) -> None:
        self.problem, self.device = problem, device
        self.generator = torch.Generator().manual_seed(problem.seed)
        G, k, D = problem.G, problem.k, problem.D
        self.x_GD = (self.normal(G, D) * problem.spread / D**0.5).requires_grad_()
        self.keys_kD, self.centroids_kD = (self.normal(k, D).requires_grad_() for _ in range(2))
        self.bias_k, self.factor_k = self.normal(k).requires_grad_(), (self.normal(k).abs() + 0.5).requires_grad_()
        self.offset_k, self.slope_G, self.slope_GD = self.normal(k), self.normal(G), self.normal(G, D)
        taking_k = torch.rand(k, generator=self.generator) < problem.share
        self.chosen = None if problem.share == 1 else taking_k.nonzero()[:, 0].to(device)
        classes = torch.arange(k, device=device) if self.chosen is None else self.chosen
        rows = torch.arange(0, G if len(classes) else 0, 1 + problem.seed % 2, device=device)
        at = torch.randint(0, max(len(classes), 1), (len(rows),), generator=self.generator)
        self.pairs = Pairs(rows, classes[at.to(device)])
        self.classes = classes

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator, dtype=self.problem.dtype).to(self.device)

    def blocks(self, pairs: Pairs | None) -> ClassBlocks:
        problem = self.problem
        return ClassBlocks(problem.k, problem.low, self.chosen, pairs, problem.block or block_for(self.x_GD))

    def inverse_norms(self) -> Tensor | None:
        return torch.empty_like(self.offset_k) if self.problem.cosine else None


def solve(kernels: Kernels, problem: Problem, device: torch.device) -> dict[str, Tensor]:
    """What a softmax over the classes and a read give, and gradients of a random function of it."""
    return {**softmax(kernels, Drawn(problem, device)), **read(kernels, Drawn(problem, device))}


def softmax(kernels: Kernels, drawn: Drawn) -> dict[str, Tensor]:
    cosine, inverse_norm_k = drawn.problem.cosine, drawn.inverse_norms()
    bias_k, factor_k = (None, None) if cosine else (drawn.bias_k, drawn.factor_k)
    keys = Keys(drawn.keys_kD, bias_k, inverse_norm_k, drawn.offset_k, factor_k)
    top_G, sum_G, own = kernels.scores(drawn.x_GD, drawn.keys_kD, keys, drawn.blocks(drawn.pairs))
    # log Σ e^l; 0 where no class but the own takes part.
    log_G = torch.where(sum_G > 0, top_G + sum_G.clamp(min=torch.finfo(sum_G.dtype).tiny).log(), 0)
    (log_G @ drawn.slope_G - own @ drawn.slope_G[drawn.pairs.rows]).backward()
    learn = {"x": drawn.x_GD, "w": drawn.keys_kD, "b": bias_k, "factor": factor_k}
    found = {"log of sum": log_G.detach(), "own": own.detach()}
    if inverse_norm_k is not None:
        found["1/norm"] = inverse_norm_k[drawn.classes]
    return found | _slopes(learn)


def read(kernels: Kernels, drawn: Drawn) -> dict[str, Tensor]:
    problem, x_GD, c_kD = drawn.problem, drawn.x_GD, drawn.centroids_kD
    census = Census(x_GD.detach(), c_kD.detach(), drawn.blocks(drawn.pairs if problem.masked else None))
    keys = Keys(c_kD if problem.cosine else drawn.keys_kD, None if problem.cosine else drawn.bias_k, None)
    keys = keys._replace(inverse_norm_k=drawn.inverse_norms())
    # The scores of q = 2x are those of x, twice as large.
    scale_G1 = 2 * torch.ones_like(x_GD[:, :1]) if problem.cosine else None
    how = Retrieval(keys, scale_G1, problem.cosine, problem.softmax, census)
    query_GD = 2 * x_GD if problem.cosine else x_GD
    m_G, s_G, a_GD = kernels.read(query_GD, keys.weight_kD, c_kD, how)
    read_GD = a_GD / s_G.clamp(min=torch.finfo(s_G.dtype).tiny)[:, None] if problem.softmax else a_GD
    (read_GD * drawn.slope_GD).sum().backward()
    distance_G, index_G = census.distances()
    learn = {"f": x_GD, "keys": drawn.keys_kD, "bias of keys": drawn.bias_k, "centroids": c_kD}
    found = {"top": m_G, "read": read_GD.detach(), "distance": distance_G, "nearest": index_G, "sum": census.sum_D}
    found["norm"] = census.norm_k[drawn.classes]
    return found | _slopes(learn)


def _slopes(learn: dict[str, Tensor | None]) -> dict[str, Tensor]:
    """Gradients, zeros where none came."""
    found = {f"d{name}": (leaf, leaf.grad) for name, leaf in learn.items() if leaf is not None}
    return {name: torch.zeros_like(leaf) if grad is None else grad for name, (leaf, grad) in found.items()}


def disagreements(got: dict[str, Tensor], want: dict[str, Tensor], tolerance: float) -> list[str]:
    """Names of results that are further apart than `tolerance` times the largest number in what is wanted."""
    assert got.keys() == want.keys()
    return [name for name, value in want.items() if not _alike(got[name], value, tolerance)]


def _alike(got: Tensor, want: Tensor, tolerance: float) -> bool:
    if want.dtype == torch.int64 or not want.numel():
        return torch.equal(got, want)
    finite = want.isfinite()
    largest = float(want[finite].abs().max()) if bool(finite.any()) else 0.0
    return torch.equal(got[~finite], want[~finite]) and bool(
        ((got - want)[finite].abs() <= tolerance * max(largest, 1e-3)).all()
    )


def fault(kernels: Kernels, device: torch.device, problem: Problem) -> str | None:
    """What is wrong with the kernels on this device: they fail, or disagree with torch's products; None: nothing.

    problem: as they will be asked, of whose size a little is tried, and every kind.
    """
    for cosine in (True, False):
        small = replace(problem, G=min(problem.G, 40), k=min(problem.k, 300), cosine=cosine, share=0.9, seed=2)
        try:
            got = solve(kernels, small, device)
        except Exception as error:  # whatever a compiler or a driver finds
            return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
        if names := disagreements(got, solve(TORCH, small, device), small.tolerance):
            return f"they disagree with torch's products in {', '.join(names)}"
    return None


def seconds(kernels: Kernels, problem: Problem, device: torch.device) -> tuple[float, ...]:
    """Of a softmax and of a read on a CUDA device, forward and backward: the fastest of a few times after the first."""
    drawn = Drawn(problem, device)
    return tuple(min([_timed(part, kernels, drawn) for _ in range(4)][1:]) for part in (softmax, read))


def _timed(part: Callable[[Kernels, Drawn], Any], kernels: Kernels, drawn: Drawn) -> float:
    torch.cuda.synchronize(drawn.device)
    start = time.perf_counter()
    part(kernels, drawn)
    torch.cuda.synchronize(drawn.device)
    return time.perf_counter() - start
