"""The best class of every image among class-sharded keys: in blocks of classes, over any number of ranks.

G: images of all ranks, D: embedding size, K: classes, k: classes of this rank. Nothing of size G x K exists at once.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from facelt.head.blocked import BLOCK, ClassBlocks, Keys, accumulate_dtype, finite, inverse_norms
from facelt.parallel import collectives
from facelt.parallel.partition import Partition


class Best(NamedTuple):
    """classes_G: the class with the highest score; of equals the lowest. scores_G: its score. probabilities_G: its
    softmax probability among all K classes. The same on all ranks."""

    classes_G: Tensor
    scores_G: Tensor
    probabilities_G: Tensor


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
        keys = Keys(self.weight_kD, self.bias_k, inverse_norms(self.weight_kD) if self.cosine else None)
        blocks = ClassBlocks(self.partition.size, self.products or x_GD.dtype, block=self.block)
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
