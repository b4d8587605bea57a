"""Class-sharded classifiers: linear for stage plain, cosine for stage meta (equation 6).

G: images of all ranks, D: embedding size, K: classes, k: classes of this rank. Classes are visited in blocks.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from facelt.head.blocked import (
    BLOCK,
    BlockMatrix,
    ClassBlocks,
    Kernels,
    Keys,
    Pairs,
    Reused,
    RowGradient,
    Towards,
    Within,
    accumulate_dtype,
    block_for,
    finite,
    inverse_norms,
    put,
)
from facelt.head.products import Products, multiply, operand
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


class BlockedScores(torch.autograd.Function):
    """top_G, sum_G and own of `Scores` for the scores that `keys` give. The pairs of `blocks` are the own classes.

    weight_kD is that of `keys`, once more: autograd must see what learns. Inverse norms of `keys` are filled in here.
    Products, each G x k x D: forward x·Wᵀ; backward dl·W, dlᵀ·x, and x·Wᵀ again where the scores were not kept.
    """

    @staticmethod
    def forward(ctx, x_GD, weight_kD, keys: Keys, blocks: ClassBlocks):
        assert blocks.pairs is not None
        low, G, dtype = blocks.products, len(x_GD), accumulate_dtype(x_GD)
        x_low, place_G1 = operand(x_GD, low), blocks.pair_places(G)
        top_G = x_GD.new_full((G,), -torch.inf, dtype=dtype)
        sum_G, own_G1 = x_GD.new_zeros(G, dtype=dtype), x_GD.new_zeros(G, 1, dtype=dtype)
        scores, work = BlockMatrix.of_scores(blocks, x_GD), BlockMatrix("work", blocks, x_GD)
        for start, rows in blocks:
            weight_bD = weight_kD[rows]
            l_Gb = multiply(x_low, weight_bD.T, low, scores.at(start))
            if keys.inverse_norm_k is not None:  # the product has just read these rows
                put(keys.inverse_norm_k, rows, inverse_norms(weight_bD))
            keys.finish(l_Gb, rows)
            within = Within.of(place_G1, start, l_Gb.shape[1])
            before_G1 = within.exchange(l_Gb, -torch.inf)
            own_G1 = torch.where(within.here_G1, before_G1, own_G1)
            new_G = torch.maximum(top_G, l_Gb.amax(1))
            reference_G = finite(new_G)
            p_Gb = torch.sub(l_Gb, reference_G[:, None], out=work.at(start)).exp_()
            sum_G.mul_(torch.exp(top_G - reference_G)).add_(p_Gb.sum(1))
            top_G = new_G
            if scores.whole:
                within.exchange(l_Gb, before_G1)
        work.give_back()
        if not scores.whole:
            scores.give_back()
        ctx.save_for_backward(x_low, top_G, place_G1)
        ctx.keys, ctx.blocks, ctx.kept = keys, blocks, scores if scores.whole else None
        ctx.mark_non_differentiable(top_G)
        return top_G, sum_G, own_G1[blocks.pairs.rows, 0]

    @staticmethod
    def backward(ctx, _top, dsum_G, down):
        keys, blocks, low = ctx.keys, ctx.blocks, ctx.blocks.products
        x_low, top_G, place_G1 = ctx.saved_tensors
        reference_G, dx_GD = finite(top_G), x_low.new_zeros(x_low.shape, dtype=dsum_G.dtype)
        down_G1 = down.new_zeros(len(x_low), 1).index_copy_(0, blocks.pairs.rows, down[:, None])
        weight = RowGradient(keys.weight_kD, blocks) if ctx.needs_input_grad[1] else None
        towards = Towards(x_low, low, dx_GD, weight)
        kept, ctx.kept = ctx.kept, None  # they are used up: whoever comes back to this graph makes them again
        scores, work = kept or BlockMatrix("scores", blocks, x_low), BlockMatrix("work", blocks, x_low)
        for start, rows in blocks:
            l_Gb = scores.at(start) if kept else keys.scores(x_low, rows, low, scores.at(start))
            dl_Gb = torch.sub(l_Gb, reference_G[:, None], out=work.at(start)).exp_().mul_(dsum_G[:, None])
            # An own score above the others' top may have overflown; its gradient takes that place.
            Within.of(place_G1, start, l_Gb.shape[1]).exchange(dl_Gb, down_G1)
            keys.learn(l_Gb, dl_Gb, rows, towards)
        scores.give_back()
        work.give_back()
        return dx_GD, None, None, None


# Of a classifier, in a checkpoint.
CLASSIFIER_ROWS = {"classifier.weight", "classifier.bias", "classifier.factor"}


def softmax_scores(x_GD: Tensor, keys: Keys, blocks: ClassBlocks, kernels: Kernels | None = None) -> Scores:
    """What a softmax over all classes needs of the scores that `keys` give. blocks: with each row's own class.

    kernels: in the place of a loop over blocks.
    """
    assert blocks.pairs is not None
    scores = BlockedScores.apply if kernels is None else kernels.scores
    top_G, sum_G, own = scores(x_GD, keys.weight_kD, keys, blocks)
    return Scores(top_G, sum_G, own, blocks.pairs.rows)


def uniform_rows(partition: Partition, width: int, bound: float, seed: int) -> Tensor:
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

    Weights and bias start as torch's Linear(D, K), U(±1/√D). products: what operands of matrix products are rounded to;
    None: the embeddings' dtype. block: classes of a block; None: by the rows. kept_bytes: the largest matrix of scores,
    rows x classes, that is kept for the backward pass. offset_k: finite numbers added to the classes' scores in
    training, such as a prior; not learned, and no checkpoint has them. learn_scales: of a linear one, whether a factor
    of each class's score learns in the place of weight and bias (learnable weight scaling, Kang et al. 2020).
    """

    offset_k: Tensor | None

    def __init__(
        self,
        partition: Partition,
        embedding_size: int,
        kind: str,
        seed: int = 0,
        products: Products | None = None,
        *,
        block: int | None = None,
        kept_bytes: int = 0,
        learn_scales: bool = False,
    ) -> None:
        super().__init__()
        self.partition, self.kind, self.block = partition, kind, block
        self.products: Products | None = products
        self.kept_bytes, self._reused = kept_bytes, Reused()
        self.kernels: Kernels | None = None
        self.bias: nn.Parameter | None = None
        self.register_buffer("offset_k", None, persistent=False)
        if kind == "linear":
            rows_kE = uniform_rows(partition, embedding_size + 1, embedding_size**-0.5, seed)
            self.weight = nn.Parameter(rows_kE[:, :-1].contiguous())
            self.bias = nn.Parameter(rows_kE[:, -1].contiguous())
        else:
            self.weight = nn.Parameter(uniform_rows(partition, embedding_size, embedding_size**-0.5, seed))
        self.factor: nn.Parameter | None = None
        if learn_scales:
            self.requires_grad_(False)
            self.factor = nn.Parameter(torch.ones(partition.size))

    def forward(self, x_GD: Tensor, labels_G: Tensor, chosen: Tensor | None = None) -> Scores:
        """x_GD: gathered embeddings; a cosine classifier's logits are scaled by x's own norm.

        chosen: the classes that take part (`class_sampling.choose`), own classes among them; None for all.
        """
        inverse_norm_k = self.weight.new_empty(len(self.weight)) if self.kind == "cosine" else None
        keys = Keys(self.weight, self.bias, inverse_norm_k, self.offset_k, self.factor)
        blocks = ClassBlocks(
            self.partition.size,
            self.products or x_GD.dtype,
            chosen,
            Pairs(*self.partition.own(labels_G)),
            self.block or block_for(x_GD),
            self.kept_bytes if torch.is_grad_enabled() else 0,
            self._reused,
        )
        return softmax_scores(x_GD, keys, blocks, self.kernels)


def fold(rows: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rows of a classifier as a checkpoint has them, with a learned factor multiplied into weight and bias."""
    factor_k = rows.get("classifier.factor")
    if factor_k is None:
        return rows
    folded = {"classifier.weight": rows["classifier.weight"] * factor_k[:, None]}
    return folded | {"classifier.bias": rows["classifier.bias"] * factor_k}
