"""Class-sharded classifiers: linear for stage plain, cosine for stage meta (equation 6).

G: images of all ranks, D: embedding size, K: classes, k: classes of this rank. Classes are visited in blocks.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from facelt.partition import Partition

BLOCK = 4096


class Scores(NamedTuple):
    """What a softmax over all classes needs from one rank, for each gathered image.

    top_G: the largest score of a class that is not the image's own (no gradient; -inf where there is none).
    sum_G: Σ e^(score - top) over those. own: the score of the image's own class, for the images whose class this rank
    owns, and own_rows their rows among G.
    """

    top_G: Tensor
    sum_G: Tensor
    own: Tensor
    own_rows: Tensor


class _BlockedScores(torch.autograd.Function):
    """The fields of `Scores` for l = x·wᵀ + b, or l = x·(w/‖w‖)ᵀ where inverse norms are given.

    own_rows, own_columns: the (image, class) pairs of own classes. Products, each G x k x D: forward x·Wᵀ;
    backward x·Wᵀ again (cheaper than keeping G x k), dl·W, dlᵀ·x.
    """

    @staticmethod
    def forward(ctx, x_GD, weight_kD, bias_k, inverse_norm_k, own_rows, own_columns, block: int):
        G, k = len(x_GD), len(weight_kD)
        dtype = torch.float64 if x_GD.dtype == torch.float64 else torch.float32
        top_G = x_GD.new_full((G,), -torch.inf, dtype=dtype)
        sum_G = x_GD.new_zeros(G, dtype=dtype)
        own = x_GD.new_zeros(len(own_rows), dtype=dtype)
        for start in range(0, k, block):
            l_Gb = _scores(x_GD, weight_kD, bias_k, inverse_norm_k, slice(start, start + block)).to(dtype)
            here, at = _pairs_in_block(l_Gb, own_rows, own_columns, start)
            own[here] = l_Gb[at]
            l_Gb[at] = -torch.inf
            new_G = torch.maximum(top_G, l_Gb.amax(1))
            sum_G.mul_(torch.exp(top_G - _finite(new_G))).add_(l_Gb.sub_(_finite(new_G)[:, None]).exp_().sum(1))
            top_G = new_G
        ctx.save_for_backward(x_GD, weight_kD, bias_k, inverse_norm_k, own_rows, own_columns, top_G)
        ctx.block = block
        ctx.mark_non_differentiable(top_G)
        return top_G, sum_G, own

    @staticmethod
    def backward(ctx, _top, dsum_G, down):
        x_GD, weight_kD, bias_k, inverse_norm_k, own_rows, own_columns, top_G = ctx.saved_tensors
        dx_GD = torch.zeros_like(x_GD)
        dweight_kD = torch.empty_like(weight_kD)
        dbias_k = None if bias_k is None else torch.empty_like(bias_k)
        for start in range(0, len(weight_kD), ctx.block):
            rows = slice(start, start + ctx.block)
            l_Gb = _scores(x_GD, weight_kD, bias_k, inverse_norm_k, rows)
            dl_Gb = l_Gb.sub_(_finite(top_G)[:, None]).exp_().mul_(dsum_G[:, None])
            here, at = _pairs_in_block(l_Gb, own_rows, own_columns, start)
            dl_Gb[at] = down[here].to(dl_Gb.dtype)
            if bias_k is not None:
                torch.sum(dl_Gb, 0, out=dbias_k[rows])
            if inverse_norm_k is not None:
                dl_Gb.mul_(inverse_norm_k[rows])
            dx_GD.addmm_(dl_Gb, weight_kD[rows])
            dw_bD = torch.mm(dl_Gb.T, x_GD, out=dweight_kD[rows])
            if inverse_norm_k is not None:
                _project_out(dw_bD, weight_kD[rows], inverse_norm_k[rows])
        return dx_GD, dweight_kD, dbias_k, None, None, None, None


def _scores(
    x_GD: Tensor, weight_kD: Tensor, bias_k: Tensor | None, inverse_norm_k: Tensor | None, rows: slice
) -> Tensor:
    if bias_k is not None:
        return torch.addmm(bias_k[rows], x_GD, weight_kD[rows].T)
    return (x_GD @ weight_kD[rows].T).mul_(inverse_norm_k[rows])


def _pairs_in_block(l_Gb: Tensor, own_rows: Tensor, own_columns: Tensor, start: int) -> tuple[Tensor, tuple]:
    here = torch.nonzero((own_columns >= start) & (own_columns < start + l_Gb.shape[1])).squeeze(1)
    return here, (own_rows[here], own_columns[here] - start)


def _finite(top_G: Tensor) -> Tensor:
    """A reference for exponentials: a rank may hold no class but the image's own, and then its top is -inf."""
    return top_G.clamp(min=torch.finfo(top_G.dtype).min)


def _project_out(dw_bD: Tensor, w_bD: Tensor, inverse_norm_b: Tensor) -> None:
    """From the gradient of w/‖w‖ (already times 1/‖w‖) to that of w: take out its part along w."""
    along_b = (dw_bD * w_bD).sum(1) * inverse_norm_b.square()
    dw_bD.addcmul_(w_bD, along_b[:, None], value=-1)


def _uniform_rows(partition: Partition, width: int, bound: float, seed: int) -> Tensor:
    """U(-bound, bound) rows for this rank's classes: the same for a class at any number of ranks."""
    start, stop = partition.bounds()
    rows = []
    for block in range(start // BLOCK, -(-stop // BLOCK)):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + block)
        first = block * BLOCK
        values = torch.empty(BLOCK, width).uniform_(-bound, bound, generator=generator)
        rows.append(values[max(start - first, 0) : stop - first])
    return torch.cat(rows)


class LinearClassifier(nn.Module):
    """logits = x·wᵀ + b over this rank's classes, initialised as torch's Linear(D, K) is."""

    def __init__(self, partition: Partition, embedding_size: int, seed: int = 0, block: int = BLOCK) -> None:
        super().__init__()
        self.partition, self.block = partition, block
        rows_kE = _uniform_rows(partition, embedding_size + 1, embedding_size**-0.5, seed)
        self.weight = nn.Parameter(rows_kE[:, :-1].contiguous())
        self.bias = nn.Parameter(rows_kE[:, -1].contiguous())

    def forward(self, x_GD: Tensor, labels_G: Tensor) -> Scores:
        rows, columns = self.partition.own(labels_G)
        return Scores(*_BlockedScores.apply(x_GD, self.weight, self.bias, None, rows, columns, self.block), rows)


class CosineClassifier(nn.Module):
    """logits = scale · x·(w_k/‖w_k‖)ᵀ over this rank's classes, equation 6; x is squashed, not normalised.

    scale: 16 as released, 1 in the paper. Weights start as U(±1/√D).
    """

    def __init__(
        self, partition: Partition, embedding_size: int, scale: float, seed: int = 0, block: int = BLOCK
    ) -> None:
        super().__init__()
        self.partition, self.scale, self.block = partition, scale, block
        self.weight = nn.Parameter(_uniform_rows(partition, embedding_size, embedding_size**-0.5, seed))

    def forward(self, x_GD: Tensor, labels_G: Tensor) -> Scores:
        rows, columns = self.partition.own(labels_G)
        inverse_norm_k = torch.linalg.vector_norm(self.weight.detach(), dim=1).clamp_(min=1e-12).reciprocal_()
        arguments = (x_GD * self.scale, self.weight, None, inverse_norm_k, rows, columns, self.block)
        return Scores(*_BlockedScores.apply(*arguments), rows)
