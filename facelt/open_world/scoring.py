"""The best class of every image among class-sharded keys: in blocks of classes, over any number of ranks.

G: images of all ranks, D: embedding size, K: classes, k: classes of this rank. Nothing of size G x K exists at once.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from facelt.head.blocked import BLOCK, ClassBlocks, Keys, accumulate_dtype, add_product, finite, inverse_norms
from facelt.parallel import collectives
from facelt.parallel.partition import Partition


class Best(NamedTuple):
    """classes_G: the class with the highest score; of equals the lowest. scores_G: its score. probabilities_G: its
    softmax probability among all K classes. The same on all ranks."""

    classes_G: Tensor
    scores_G: Tensor
    probabilities_G: Tensor


class Top(NamedTuple):
    """scores_GA, classes_GA: the A highest scores and their classes, highest first. rest_G: log Σ e^score of all other
    classes, -inf where there is none. The same on all ranks."""

    scores_GA: Tensor
    classes_GA: Tensor
    rest_G: Tensor


@dataclass(frozen=True)
class Prototypes:
    """This rank's rows of a classifier: score of a class = x·w + b, or x·(w/‖w‖) where `cosine`.

    weight_kD, bias_k: the rows. products: the dtype of the operands of matrix products; None: that of x.
    """

    partition: Partition
    weight_kD: Tensor
    bias_k: Tensor | None = None
    cosine: bool = False
    products: torch.dtype | None = None
    block: int = BLOCK

    @torch.no_grad()
    def best(self, x_GD: Tensor) -> Best:
        """The best class of each row. x_GD: the same on all ranks. One collective, of 3G numbers."""
        keys, blocks = self._keys(), self._blocks(x_GD)
        x_low, G, dtype = x_GD.to(blocks.products), len(x_GD), accumulate_dtype(x_GD)
        top_G = x_GD.new_full((G,), -torch.inf, dtype=dtype)
        sum_G = x_GD.new_zeros(G, dtype=dtype)
        class_G = torch.zeros(G, dtype=torch.int64, device=x_GD.device)
        for start, rows in blocks:
            l_Gb = keys.scores(x_low, rows)
            highest_G, at_G = l_Gb.max(1)
            class_G = torch.where(highest_G > top_G, at_G + start, class_G)
            new_G = torch.maximum(top_G, highest_G)
            reference_G = finite(new_G)
            sum_G.mul_(torch.exp(top_G - reference_G)).add_(l_Gb.sub_(reference_G[:, None]).exp_().sum(1))
            top_G = new_G
        # float64 holds every class number; float32 ends at 2^24.
        part_3G = torch.stack([top_G.double(), sum_G.double(), (class_G + self.partition.start).double()])
        top_RG, sum_RG, class_RG = collectives.table(part_3G).unbind(1)
        best_G, rank_G = top_RG.max(0)
        total_G = (sum_RG * torch.exp(top_RG - finite(best_G))).sum(0)
        return Best(class_RG.gather(0, rank_G[None])[0].long(), best_G, total_G.reciprocal())

    @torch.no_grad()
    def top(self, x_GD: Tensor, count: int) -> Top:
        """The `count` best classes of each row, K at most. x_GD: the same on all ranks. One collective."""
        keys, blocks = self._keys(), self._blocks(x_GD)
        x_low, G = x_GD.to(blocks.products), len(x_GD)
        top = Top(
            x_GD.new_empty(G, 0, dtype=accumulate_dtype(x_GD)),
            torch.empty(G, 0, dtype=torch.int64, device=x_GD.device),
            x_GD.new_full((G,), -torch.inf, dtype=accumulate_dtype(x_GD)),
        )
        for start, rows in blocks:
            l_Gb = keys.scores(x_low, rows)
            class_b = torch.arange(l_Gb.shape[1], device=x_GD.device) + (start + self.partition.start)
            top = _merged(top, l_Gb, class_b.expand(G, -1), count)
        padding = (0, count - top.scores_GA.shape[1])
        scores_GA = pad(top.scores_GA, padding, value=-torch.inf)
        part = torch.cat([scores_GA.double(), pad(top.classes_GA, padding).double(), top.rest_G[:, None].double()], 1)
        scores_RGA, classes_RGA, rest_RG1 = collectives.table(part).split([count, count, 1], 2)
        none = Top(scores_RGA.new_empty(G, 0), top.classes_GA[:, :0], rest_RG1[:, :, 0].logsumexp(0))
        scores, classes = (of.transpose(0, 1).flatten(1) for of in (scores_RGA, classes_RGA))
        return _merged(none, scores, classes.long(), count)

    @torch.no_grad()
    def rise(self, x_GD: Tensor, best: Best) -> Tensor:
        """This rank's part of ∂ log p_best / ∂x = w_best - Σ_k p_k·w_k, G x D; the sum over ranks is the whole.

        best: of x_GD. w is w/‖w‖ where `cosine`.
        """
        keys, blocks = self._keys(), self._blocks(x_GD)
        x_low, dtype = x_GD.to(blocks.products), accumulate_dtype(x_GD)
        total_G = best.scores_G.double() - best.probabilities_G.double().log()  # log Σ e^score
        scale_k = keys.inverse_norm_k
        rise_GD = torch.zeros_like(x_GD, dtype=dtype)
        for _, rows in blocks:
            p_Gb = (keys.scores(x_low, rows) - total_G[:, None]).exp().to(dtype)
            add_product(rise_GD, -p_Gb if scale_k is None else p_Gb * -scale_k[rows], self.weight_kD[rows].to(dtype))
        mine, own = self.partition.own(best.classes_G)
        weight = self.weight_kD[own].to(dtype)
        rise_GD[mine] += weight if scale_k is None else weight * scale_k[own, None]
        return rise_GD

    def _keys(self) -> Keys:
        return Keys(self.weight_kD, self.bias_k, inverse_norms(self.weight_kD) if self.cosine else None)

    def _blocks(self, x_GD: Tensor) -> ClassBlocks:
        return ClassBlocks(self.partition.size, self.products or x_GD.dtype, block=self.block)


def _merged(top: Top, scores_Gb: Tensor, classes_Gb: Tensor, count: int) -> Top:
    """The best of a top and of further scores; what is not among them goes to the rest."""
    scores = torch.cat([top.scores_GA, scores_Gb], 1)
    classes = torch.cat([top.classes_GA, classes_Gb], 1)
    best, at = scores.topk(min(count, scores.shape[1]))
    left_G = scores.scatter(1, at, -torch.inf).logsumexp(1)
    return Top(best, classes.gather(1, at), torch.logaddexp(top.rest_G, left_G))
