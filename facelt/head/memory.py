"""The visual memory: class-sharded centroids, read by similarity (equation 1) and measured by reach (equation 3).

G: images of all ranks, B: of this rank, D: embedding size, K: classes, k: classes of this rank, b: of a block.
Nothing of size G x K exists at once: classes are visited in blocks, forward and backward.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from facelt.head.blocked import (
    BLOCK,
    ClassBlocks,
    Keys,
    Pairs,
    accumulate_dtype,
    add_product,
    add_rows,
    finite,
    gradient_of,
    inverse_norms,
    take_rows,
)
from facelt.head.classifier import Scores, softmax_scores
from facelt.parallel import collectives, group
from facelt.parallel.partition import Partition


class _BlockedRead(torch.autograd.Function):
    """This rank's part of o·M, equation 1: a softmax-weighted, or a linear, sum of its centroids.

    Scores l of a query q by `keys`. With softmax: m = max l, s = Σ e^(l-m), a = Σ e^(l-m) c, so that the read over all
    ranks is Σ e^(m-M) a / Σ e^(m-M) s, whatever the reference M. Without: a = Σ l·c, m = 0, s = 0.
    Returns m (G; no gradient, the ratio does not depend on it), s (G) and a (G x D).
    weight_kD is that of `keys`, once more: autograd must see what learns. The pairs of `blocks` are left out of the
    read.

    Products kept to what cannot be avoided, each G x k x D: forward q·Wᵀ and p·C; backward q·Wᵀ again (cheaper than
    keeping G x k), da·Cᵀ, dl·W, dlᵀ·q where the keys learn, and pᵀ·da only where the centroids want this gradient.
    """

    @staticmethod
    def forward(ctx, q_GD, weight_kD, centroids_kD, keys: Keys, softmax: bool, blocks: ClassBlocks):
        (G, D), dtype, low = q_GD.shape, accumulate_dtype(q_GD), blocks.products
        q_low = q_GD.to(low)
        m_G = q_GD.new_full((G,), -torch.inf if softmax else 0, dtype=dtype)
        s_G = q_GD.new_zeros(G, dtype=dtype)
        a_GD = q_GD.new_zeros(G, D, dtype=dtype)
        for start, rows in blocks:
            p_Gb = keys.scores(q_low, rows)
            if blocks.pairs is not None:
                _, own = blocks.pairs_within(start, p_Gb.shape[1])
                p_Gb[own] = -torch.inf if softmax else 0
            if softmax:
                top_G = torch.maximum(m_G, p_Gb.amax(1))
                reference_G = finite(top_G)
                fade_G = torch.exp(m_G - reference_G)
                p_Gb.sub_(reference_G[:, None]).exp_()
                s_G.mul_(fade_G).add_(p_Gb.sum(1))
                a_GD.mul_(fade_G[:, None])
                m_G = top_G
            add_product(a_GD, p_Gb.to(low), centroids_kD[rows].to(low))
        ctx.save_for_backward(q_low, m_G)
        ctx.keys, ctx.centroids, ctx.softmax, ctx.blocks = keys, centroids_kD, softmax, blocks
        ctx.mark_non_differentiable(m_G)
        return m_G, s_G, a_GD

    @staticmethod
    def backward(ctx, _m, ds_G, da_GD):
        q_low, m_G = ctx.saved_tensors
        _, wants_weight, wants_centroids = ctx.needs_input_grad[:3]
        reference_G, da_low, dq_GD = finite(m_G), da_GD.to(q_low.dtype), torch.zeros_like(da_GD)
        for start, rows in ctx.blocks:
            l_Gb = ctx.keys.scores(q_low, rows)
            dl_Gb = (da_low @ ctx.centroids[rows].to(q_low.dtype).T).to(l_Gb.dtype)
            p_Gb = (l_Gb - reference_G[:, None]).exp_() if ctx.softmax else l_Gb
            if ctx.blocks.pairs is not None:
                _, own = ctx.blocks.pairs_within(start, l_Gb.shape[1])
                p_Gb[own] = dl_Gb[own] = 0
            if ctx.softmax:
                dl_Gb.add_(ds_G[:, None]).mul_(p_Gb)
            ctx.keys.learn(q_low, l_Gb, dl_Gb, rows, wants_weight, dq_GD)
            if wants_centroids:
                add_rows(gradient_of(ctx.centroids), rows, p_Gb.T.to(q_low.dtype), da_low)
        return dq_GD, *[None] * 5


class MemoryRead(NamedTuple):
    """memory_BD: v_memory of equation 1. nearest_BD: the nearest centroid c* of equation 3. Of this rank's images."""

    memory_BD: Tensor
    nearest_BD: Tensor


class CentroidMemory(nn.Module):
    """This rank's centroids c_i and, where a hallucinator retrieves them, the rows of T_hal that score them.

    centroids: k x D. retrieval:
        "hallucinator"  o = softmax(T_hal(v)) as released or o = T_hal(v) as equation 1 has it; T_hal = Linear(D -> K)
        "cosine"        o = softmax(t·cos(v, c_i)) with a learned temperature t: no parameters of its own
        "mean"          o = 1/K: a control; what survives it is not memory
        "none"          o = 0: the memory is there for the reach and the centroid loss alone
    centroid_gradient: whether the read and the reach pass gradient to the centroids ("alternately" in section 3.3
    can be read so); released: they do not. products: the dtype of the operands of matrix products; None: the query's.
    """

    def __init__(
        self,
        partition: Partition,
        embedding_size: int,
        *,
        retrieval: str = "hallucinator",
        softmax: bool = True,
        centroid_gradient: bool = False,
        products: torch.dtype | None = None,
        block: int = BLOCK,
    ) -> None:
        super().__init__()
        self.partition, self.retrieval, self.softmax = partition, retrieval, softmax or retrieval != "hallucinator"
        self.centroid_gradient, self.products, self.block = centroid_gradient, products, block
        self._noted: list[tuple[Tensor, Tensor]] = []
        self.centroids = nn.Parameter(torch.zeros(partition.size, embedding_size))
        if retrieval == "hallucinator":
            self.hallucinator_weight = nn.Parameter(torch.zeros(partition.size, embedding_size))
            self.hallucinator_bias = nn.Parameter(torch.zeros(partition.size))

    def read(
        self,
        features_GD: Tensor,
        temperature: Tensor | None = None,
        masked: Pairs | None = None,
        chosen: Tensor | None = None,
    ) -> MemoryRead:
        """The memory feature and the nearest centroid, for this rank's images.

        Args:
            features_GD: the gathered direct features.
            temperature: of cosine retrieval.
            masked: own classes that are left out of their images' reads, of those that take part.
            chosen: sorted local numbers of the classes that take part; None for all.

        Collectives: a table of (m, distance) per rank, one scattered sum, and its transpose backward.
        """
        m_G, s_G, a_GD = self._partial_read(features_GD, temperature, masked, chosen)
        distance_G, index_G = self._nearest(features_GD.detach(), chosen)
        table_R2G = collectives.table(torch.stack([m_G, distance_G]))
        if self.softmax:
            scale_G = torch.exp(m_G - finite(table_R2G[:, 0].amax(0)))
            a_GD, s_G = a_GD * scale_G[:, None], s_G * scale_G
        # argmin takes the first of equals: ties go to the lowest class, at any number of ranks.
        mine_G = table_R2G[:, 1].argmin(0) == group.rank()
        nearest_GD = take_rows(self._seen_centroids(), index_G) * mine_G[:, None]
        D = features_GD.shape[1]
        sums_BE = collectives.scatter_sum(torch.cat([a_GD, nearest_GD, s_G[:, None]], 1))
        memory_BD, nearest_BD, s_B1 = sums_BE.split([D, D, 1], 1)
        if self.softmax:  # where every class is left out, the read is the zero vector
            memory_BD = memory_BD / s_B1.clamp(min=torch.finfo(s_B1.dtype).tiny)
        return MemoryRead(memory_BD, nearest_BD)

    @property
    def retrieves(self) -> bool:
        """Whether an image decides what it reads."""
        return self.retrieval in ("hallucinator", "cosine")

    def _seen_centroids(self) -> Tensor:
        return self.centroids if self.centroid_gradient else self.centroids.detach()

    def _blocks(self, x_GD: Tensor, chosen: Tensor | None, pairs: Pairs | None = None) -> ClassBlocks:
        return ClassBlocks(self.partition.size, self.products or x_GD.dtype, chosen, pairs, self.block)

    def _query(self, features_GD: Tensor, temperature: Tensor | None) -> tuple[Tensor, Keys]:
        """What scores the classes of a retrieval by similarity: the query, G x D, and this rank's keys."""
        if self.retrieval == "cosine":
            assert temperature is not None
            centroids_kD = self._seen_centroids()
            return temperature * normalize(features_GD), Keys(centroids_kD, None, inverse_norms(centroids_kD))
        return features_GD, Keys(self.hallucinator_weight, self.hallucinator_bias, None)

    def _partial_read(
        self, features_GD: Tensor, temperature: Tensor | None, masked: Pairs | None, chosen: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """m, s and a of `_BlockedRead`; for the control, every class counts alike."""
        if self.retrieval in ("mean", "none"):
            G = len(features_GD)
            total_D = self.centroids.detach().sum(0) * (self.retrieval == "mean")
            return total_D.new_zeros(G), total_D.new_full((G,), self.partition.size), total_D.expand(G, -1)
        query_GD, keys = self._query(features_GD, temperature)
        blocks = self._blocks(query_GD, chosen, masked)
        return _BlockedRead.apply(query_GD, keys.weight_kD, self._seen_centroids(), keys, self.softmax, blocks)

    @torch.no_grad()
    def _nearest(self, f_GD: Tensor, chosen: Tensor | None) -> tuple[Tensor, Tensor]:
        """The smallest squared distance (G; inf where no class takes part) and its local class (G). One product."""
        half_k = torch.linalg.vector_norm(self.centroids, dim=1).square_().mul_(-0.5)
        gain_G, index_G = self._best(f_GD, Keys(self.centroids, half_k, None), chosen)
        return f_GD.to(gain_G.dtype).square().sum(1) - 2 * gain_G, index_G  # f·c - ‖c‖²/2 is largest at the nearest

    def scores(
        self, x_GD: Tensor, labels_G: Tensor, prior_k: Tensor | None = None, chosen: Tensor | None = None
    ) -> Scores:
        """The memory as a classifier: scores x·c_k/‖c_k‖, for a softmax over all classes; the centroids do not learn.

        prior_k: added to the scores of this rank's classes. chosen: as in `read`.
        """
        centroids_kD = self.centroids.detach()
        keys = Keys(centroids_kD, prior_k, inverse_norms(centroids_kD))
        return softmax_scores(x_GD, keys, self._blocks(x_GD, chosen, Pairs(*self.partition.own(labels_G))))

    @torch.no_grad()
    def highest_cosine(self, features_GD: Tensor) -> Tensor:
        """The highest cosine of each image to a centroid, for all G images, on all ranks. One product."""
        keys = Keys(self.centroids, None, inverse_norms(self.centroids))
        return collectives.table(self._best(normalize(features_GD), keys, None)[0]).amax(0)

    def note(self, features_GD: Tensor, labels_G: Tensor) -> None:
        """Keep features, detached, of a micro-batch that the centroids will follow after the step."""
        self._noted.append((features_GD, labels_G))

    def follow_noted(self, momentum: float, applied: bool) -> None:
        """`follow` what was noted since the last step, unless that was skipped; nothing is noted any more."""
        if self._noted and applied:
            features, labels = zip(*self._noted, strict=True)
            self.follow(torch.cat(features), torch.cat(labels), momentum)
        self._noted.clear()

    @torch.no_grad()
    def follow(self, features_ND: Tensor, labels_N: Tensor, momentum: float) -> None:
        """c_k += (1 - momentum)·(mean of class k's features - c_k), for the classes among the labels.

        features_ND: direct features of all ranks' images, the same on all ranks. labels_N: their classes.
        """
        rows, columns = self.partition.own(labels_N)
        classes, inverse, counts = columns.unique(return_inverse=True, return_counts=True)
        sums = features_ND.new_zeros(len(classes), features_ND.shape[1]).index_add_(0, inverse, features_ND[rows])
        self.centroids[classes] = torch.lerp(sums / counts[:, None], self.centroids[classes], momentum)

    @torch.no_grad()
    def coefficients(self, features_GD: Tensor, temperature: Tensor | None = None) -> Tensor:
        """o of equation 1 as a matrix, G x K, on a single rank: for a few images that a person looks at."""
        assert group.world_size() == 1
        if not self.retrieves:
            share = 1 / self.partition.size if self.retrieval == "mean" else 0.0
            return features_GD.new_full((len(features_GD), self.partition.size), share)
        query_GD, keys = self._query(features_GD, temperature)
        scores_GK = keys.scores(query_GD.to(self.products or query_GD.dtype), slice(None))
        return scores_GK.softmax(1) if self.softmax else scores_GK

    @torch.no_grad()
    def retrieved(self, features_GD: Tensor, temperature: Tensor | None = None) -> Tensor:
        """The class that weighs most in each image's read, for all G images, on all ranks. One product."""
        top_G, index_G = self._best(*self._query(features_GD, temperature), None)
        table_R2G = collectives.table(torch.stack([top_G.double(), (index_G + self.partition.start).double()]))
        return table_R2G[:, 1].gather(0, table_R2G[:, 0].argmax(0)[None])[0].long()

    def _best(self, x_GD: Tensor, keys: Keys, chosen: Tensor | None) -> tuple[Tensor, Tensor]:
        """The highest score of this rank's classes (G; -inf where none takes part) and its local class (G)."""
        x_low = x_GD.to(self.products or x_GD.dtype)
        best_G = x_GD.new_full((len(x_GD),), -torch.inf, dtype=accumulate_dtype(x_GD))
        index_G = torch.zeros(len(x_GD), dtype=torch.int64, device=x_GD.device)
        for start, rows in self._blocks(x_GD, chosen):
            top_G, at_G = keys.scores(x_low, rows).max(1)
            higher_G = top_G > best_G
            best_G = torch.where(higher_G, top_G, best_G)
            index_G = torch.where(higher_G, at_G + start, index_G)
        return best_G, index_G if chosen is None or not len(chosen) else chosen[index_G]
