"""Class-sharded classifiers: linear for stage plain, cosine for stage meta (equation 6).

G: images of all ranks, D: embedding size, K: classes, k: classes of this rank. Classes are visited in blocks.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from facelt.head.blocked import BLOCK, ClassBlocks, Keys, Pairs, accumulate_dtype, finite, inverse_norms
from facelt.parallel.partition import Partition


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
    """top_G, sum_G and own of `Scores` for the scores that `keys` give. The pairs of `blocks` are the own classes.

    weight_kD is that of `keys`, once more: autograd must see what learns.
    Products, each G x k x D: forward x·Wᵀ; backward x·Wᵀ again (cheaper than keeping G x k), dl·W, dlᵀ·x.
    """

    @staticmethod
    def forward(ctx, x_GD, weight_kD, keys: Keys, blocks: ClassBlocks):
        x_low, G, dtype = x_GD.to(blocks.products), len(x_GD), accumulate_dtype(x_GD)
        assert blocks.pairs is not None
        top_G = x_GD.new_full((G,), -torch.inf, dtype=dtype)
        sum_G = x_GD.new_zeros(G, dtype=dtype)
        own_scores = x_GD.new_zeros(len(blocks.pairs.rows), dtype=dtype)
        for start, rows in blocks:
            l_Gb = keys.scores(x_low, rows)
            here, at = blocks.pairs_within(start, l_Gb.shape[1])
            own_scores[here] = l_Gb[at]
            l_Gb[at] = -torch.inf
            new_G = torch.maximum(top_G, l_Gb.amax(1))
            reference_G = finite(new_G)
            sum_G.mul_(torch.exp(top_G - reference_G)).add_(l_Gb.sub_(reference_G[:, None]).exp_().sum(1))
            top_G = new_G
        ctx.save_for_backward(x_low, top_G)
        ctx.keys, ctx.blocks = keys, blocks
        ctx.mark_non_differentiable(top_G)
        return top_G, sum_G, own_scores

    @staticmethod
    def backward(ctx, _top, dsum_G, down):
        x_low, top_G = ctx.saved_tensors
        reference_G, dx_GD = finite(top_G), x_low.new_zeros(x_low.shape, dtype=dsum_G.dtype)
        for start, rows in ctx.blocks:
            l_Gb = ctx.keys.scores(x_low, rows)
            here, at = ctx.blocks.pairs_within(start, l_Gb.shape[1])
            dl_Gb = (l_Gb - reference_G[:, None]).exp_()
            dl_Gb[at] = 0  # a score above the others' top may have overflown
            dl_Gb.mul_(dsum_G[:, None])
            dl_Gb[at] = down[here]
            ctx.keys.learn(x_low, l_Gb, dl_Gb, rows, ctx.needs_input_grad[1], dx_GD)
        return dx_GD, None, None, None


# Of a classifier, in a checkpoint.
CLASSIFIER_ROWS = {"classifier.weight", "classifier.bias", "classifier.factor"}


def softmax_scores(x_GD: Tensor, keys: Keys, blocks: ClassBlocks) -> Scores:
    """What a softmax over all classes needs of the scores that `keys` give. blocks: with each row's own class."""
    assert blocks.pairs is not None
    top_G, sum_G, own = _BlockedScores.apply(x_GD, keys.weight_kD, keys, blocks)
    return Scores(top_G, sum_G, own, blocks.pairs.rows)


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


class Classifier(nn.Module):
    """This rank's rows of a classifier. kind "linear": x·wᵀ + b, "cosine": x·(w/‖w‖)ᵀ.

    Weights and bias start as torch's Linear(D, K), U(±1/√D). products: the dtype of the operands of matrix products;
    None: that of the embeddings. offset_k: finite numbers added to the classes' scores in training, such as a prior;
    not learned, and no checkpoint has them. learn_scales: of a linear one, whether a factor of each class's score
    learns in the place of weight and bias (learnable weight scaling, Kang et al. 2020).
    """

    offset_k: Tensor | None

    def __init__(
        self,
        partition: Partition,
        embedding_size: int,
        kind: str,
        seed: int = 0,
        products: torch.dtype | None = None,
        block: int = BLOCK,
        learn_scales: bool = False,
    ) -> None:
        super().__init__()
        self.partition, self.kind, self.products, self.block = partition, kind, products, block
        self.bias: nn.Parameter | None = None
        self.register_buffer("offset_k", None, persistent=False)
        if kind == "linear":
            rows_kE = _uniform_rows(partition, embedding_size + 1, embedding_size**-0.5, seed)
            self.weight = nn.Parameter(rows_kE[:, :-1].contiguous())
            self.bias = nn.Parameter(rows_kE[:, -1].contiguous())
        else:
            self.weight = nn.Parameter(_uniform_rows(partition, embedding_size, embedding_size**-0.5, seed))
        self.factor: nn.Parameter | None = None
        if learn_scales:
            self.requires_grad_(False)
            self.factor = nn.Parameter(torch.ones(partition.size))

    def forward(self, x_GD: Tensor, labels_G: Tensor, chosen: Tensor | None = None) -> Scores:
        """x_GD: gathered embeddings; a cosine classifier's logits are scaled by x's own norm.

        chosen: the classes that take part (`class_sampling.choose`), own classes among them; None for all.
        """
        inverse_norm_k = inverse_norms(self.weight) if self.kind == "cosine" else None
        keys = Keys(self.weight, self.bias, inverse_norm_k, self.offset_k, self.factor)
        products = self.products or x_GD.dtype
        blocks = ClassBlocks(self.partition.size, products, chosen, Pairs(*self.partition.own(labels_G)), self.block)
        return softmax_scores(x_GD, keys, blocks)


def fold(rows: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rows of a classifier as a checkpoint has them, with a learned factor multiplied into weight and bias."""
    factor_k = rows.get("classifier.factor")
    if factor_k is None:
        return rows
    folded = {"classifier.weight": rows["classifier.weight"] * factor_k[:, None]}
    return folded | {"classifier.bias": rows["classifier.bias"] * factor_k}
