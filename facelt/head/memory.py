"""The visual memory: class-sharded centroids, read by similarity (equation 1) and measured by reach (equation 3).

G: images of all ranks, B: of this rank, D: embedding size, K: classes, k: classes of this rank, b: of a block.
Nothing of size G x K exists at once: classes are visited in blocks, forward and backward.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from facelt.head.blocked import (
    BlockMatrix,
    ClassBlocks,
    Kernels,
    Keys,
    Pairs,
    Reused,
    RowGradient,
    Rows,
    Towards,
    Within,
    accumulate_dtype,
    block_for,
    finite,
    inverse_norms,
    put,
    take_rows,
)
from facelt.head.classifier import Scores, softmax_scores
from facelt.head.nearest import Best
from facelt.head.products import Products, add_product, multiply, operand
from facelt.parallel import collectives, group
from facelt.parallel.partition import Partition

# Rows of centroids that are gone over twice in a row.
PART = 512


class Moments(NamedTuple):
    """Of this rank's centroids: Σ_k c_k (D) and Σ_k ‖c_k‖²."""

    sum_D: Tensor
    squares: Tensor


class Census:
    """What a visit of this rank's centroids, block by block, tells beside a read: the nearest, norms, moments."""

    def __init__(self, f_GD: Tensor, centroids_kD: Tensor, blocks: ClassBlocks) -> None:
        self.f_GD, self.blocks = f_GD, blocks
        self.f_low = operand(f_GD, blocks.products)
        self.norm_k = centroids_kD.new_empty(len(centroids_kD))
        # f·c - ‖c‖²/2 is largest at the nearest.
        self.minus_k = torch.empty_like(self.norm_k)
        self.gains = Keys(centroids_kD, self.minus_k, None)
        self.nearest = Best(f_GD, self.gains, blocks)
        self.sum_D = centroids_kD.new_zeros(centroids_kD.shape[1])

    def visit(self, start: int, rows: Rows, products_Gb: Tensor, work_Gb: Tensor) -> None:
        """products_Gb: f·cᵀ of a block. work_Gb: memory of that shape; it may be the same, where that is used up."""
        norm_b = self._norms(self.gains.weight_kD[rows])
        put(self.norm_k, rows, norm_b)
        minus_b = norm_b.square().mul_(-0.5)
        put(self.minus_k, rows, minus_b)
        self.nearest.visit(start, torch.add(products_Gb, minus_b, out=work_Gb))

    def _norms(self, centroids_bD: Tensor) -> Tensor:
        """‖c‖ of these, b; they are added to the sum. On a processor by parts that stay near it in between."""
        norms = []
        for part_PD in centroids_bD.split(len(centroids_bD) if centroids_bD.is_cuda else PART):
            norms.append(torch.linalg.vector_norm(part_PD, dim=1))
            self.sum_D.add_(part_PD.sum(0))
        return norms[0] if len(norms) == 1 else torch.cat(norms)

    def distances(self) -> tuple[Tensor, Tensor]:
        """The smallest squared distance (G; inf where no class takes part) and its local class (G)."""
        gain_G, index_G = self.nearest.result()
        return self.f_GD.to(gain_G.dtype).square().sum(1) - 2 * gain_G, index_G

    def moments(self) -> Moments | None:
        """None where not all classes took part."""
        return None if self.blocks.chosen is not None else Moments(self.sum_D, self.norm_k.square().sum())


class Retrieval(NamedTuple):
    """How the memory is read by similarity: scores l of f, the direct features, G x D, by `keys`, times scale_G1.

    of_centroids: whether the keys are the centroids, f·cᵀ being the product that both scores and distances come from.
    census: visited along with the read.
    """

    keys: Keys
    scale_G1: Tensor | None
    of_centroids: bool
    softmax: bool
    census: Census

    def scores(self, rows: Rows, out: Tensor) -> Tensor:
        """G x b scores of some classes."""
        return self.finish(multiply(self.census.f_low, self.keys.weight_kD[rows].T, self.low, out), rows)

    def finish(self, l_Gb: Tensor, rows: Rows) -> Tensor:
        """The scores, in the place of the bare product."""
        l_Gb = self.keys.finish(l_Gb, rows)
        return l_Gb if self.scale_G1 is None else l_Gb.mul_(self.scale_G1)

    def visit(self, start: int, rows: Rows, out: Tensor, work_Gb: Tensor) -> Tensor:
        """The scores of a block, and the census of it."""
        centroids_bD = self.census.gains.weight_kD[rows]
        products_Gb = multiply(self.census.f_low, centroids_bD.T, self.low, out if self.of_centroids else work_Gb)
        self.census.visit(start, rows, products_Gb, work_Gb)
        if not self.of_centroids:
            return self.scores(rows, out)
        assert self.keys.inverse_norm_k is not None
        put(self.keys.inverse_norm_k, rows, self.census.norm_k[rows].clamp(min=1e-12).reciprocal_())
        return self.finish(products_Gb, rows)

    @property
    def blocks(self) -> ClassBlocks:
        return self.census.blocks

    @property
    def low(self) -> Products:
        return self.blocks.products


class _Attention(NamedTuple):
    """The scores of queries by keys alone: in the place of a `Retrieval`, without a census."""

    keys: Keys
    q_low: Tensor
    blocks: ClassBlocks
    softmax: bool = True

    def scores(self, rows: Rows, out: Tensor) -> Tensor:
        return self.keys.scores(self.q_low, rows, self.low, out)

    def visit(self, start: int, rows: Rows, out: Tensor, work_Gb: Tensor) -> Tensor:
        return self.scores(rows, out)

    @property
    def low(self) -> Products:
        return self.blocks.products


class BlockedRead(torch.autograd.Function):
    """This rank's part of o·M, equation 1: a softmax-weighted, or a linear, sum of its centroids.

    Scores l of a query q by the keys of `how`. With softmax: m = max l, s = Σ e^(l-m), a = Σ e^(l-m) c, so that the
    read over all ranks is Σ e^(m-M) a / Σ e^(m-M) s, whatever the reference M. Without: a = Σ l·c, m = 0, s = 0.
    Returns m (G; no gradient, the ratio does not depend on it), s (G) and a (G x D).
    weight_kD is that of the keys, once more: autograd must see what learns. The pairs of the blocks are left out of the
    read.

    Products kept to what cannot be avoided, each G x k x D: forward the scores, p·C, and f·Cᵀ for the nearest where the
    scores are of other keys; backward da·Cᵀ, dl·W, dlᵀ·q where the keys learn, pᵀ·da only where the centroids want this
    gradient, and the scores again where they were not kept.
    """

    @staticmethod
    def forward(ctx, q_GD, weight_kD, centroids_kD, how: "Retrieval | _Attention"):
        blocks, (G, D), dtype = how.blocks, q_GD.shape, accumulate_dtype(q_GD)
        q_low, place_G1 = operand(q_GD, how.low), None if blocks.pairs is None else blocks.pair_places(G)
        m_G = q_GD.new_full((G,), -torch.inf if how.softmax else 0, dtype=dtype)
        s_G = q_GD.new_zeros(G, dtype=dtype)
        a_GD = q_GD.new_zeros(G, D, dtype=dtype)
        scores, work = BlockMatrix.of_scores(blocks, q_GD), BlockMatrix("work", blocks, q_GD)
        for start, rows in blocks:
            p_Gb = l_Gb = how.visit(start, rows, scores.at(start), work.at(start))
            within = before_G1 = None
            if place_G1 is not None:
                within = Within.of(place_G1, start, l_Gb.shape[1])
                before_G1 = within.exchange(l_Gb, -torch.inf if how.softmax else 0.0)
            if how.softmax:
                top_G = torch.maximum(m_G, l_Gb.amax(1))
                reference_G = finite(top_G)
                fade_G = torch.exp(m_G - reference_G)
                p_Gb = torch.sub(l_Gb, reference_G[:, None], out=work.at(start)).exp_()
                s_G.mul_(fade_G).add_(p_Gb.sum(1))
                a_GD.mul_(fade_G[:, None])
                m_G = top_G
            add_product(a_GD, p_Gb, centroids_kD[rows], how.low)
            if within is not None and before_G1 is not None and scores.whole:
                within.exchange(l_Gb, before_G1)
        work.give_back()
        if not scores.whole:
            scores.give_back()
        ctx.save_for_backward(q_low, m_G, place_G1)
        ctx.how, ctx.centroids, ctx.kept = how, centroids_kD, scores if scores.whole else None
        ctx.mark_non_differentiable(m_G)
        return m_G, s_G, a_GD

    @staticmethod
    def backward(ctx, _m, ds_G, da_GD):
        how, blocks, low = ctx.how, ctx.how.blocks, ctx.how.low
        q_low, m_G, place_G1 = ctx.saved_tensors
        _, wants_weight, wants_centroids = ctx.needs_input_grad[:3]
        reference_G, da_low, dq_GD = finite(m_G)[:, None], operand(da_GD, low), torch.zeros_like(da_GD)
        # Where keys and centroids are one, the keys' gradient comes first in each block.
        weight = RowGradient(how.keys.weight_kD, blocks) if wants_weight else None
        centroids = RowGradient(ctx.centroids, blocks) if wants_centroids else None
        towards = Towards(q_low, low, dq_GD, weight)
        kept, ctx.kept = ctx.kept, None  # they are used up: whoever comes back to this graph makes them again
        scores = kept or BlockMatrix("scores", blocks, q_low)
        work, more = BlockMatrix("work", blocks, q_low), BlockMatrix("more", blocks, q_low)
        for start, rows in blocks:
            p_Gb = l_Gb = scores.at(start) if kept else how.scores(rows, scores.at(start))
            dl_Gb = multiply(da_low, ctx.centroids[rows].T, low, work.at(start))
            if how.softmax:
                p_Gb = torch.sub(l_Gb, reference_G, out=more.at(start)).exp_()
                dl_Gb.add_(ds_G[:, None])
            if place_G1 is not None:
                within = Within.of(place_G1, start, l_Gb.shape[1])
                for of_pairs in (p_Gb, dl_Gb):
                    within.exchange(of_pairs, 0.0)
            if how.softmax:
                dl_Gb.mul_(p_Gb)
            how.keys.learn(l_Gb, dl_Gb, rows, towards)
            if centroids is not None:
                centroids.add(rows, p_Gb.T, da_low)
        for matrix in (scores, work, more):
            matrix.give_back()
        return dq_GD, None, None, None


def attend(query_GD: Tensor, keys: Keys, values_kD: Tensor, blocks: ClassBlocks) -> Tensor:
    """Σ_k softmax_k(query·key_k)·value_k over the classes of all ranks, for this rank's images: B x D.

    Over those that take part, an image's pair left out; zero where none is left. No gradient reaches the values.
    """
    how = _Attention(keys, operand(query_GD.detach(), blocks.products), blocks)
    m_G, s_G, a_GD = BlockedRead.apply(query_GD, keys.weight_kD, values_kD.detach(), how)
    scale_G = torch.exp(m_G - finite(collectives.all_max(m_G)))
    sums_BE = collectives.scatter_sum(torch.cat([a_GD, s_G[:, None]], 1) * scale_G[:, None])
    a_BD, s_B1 = sums_BE[:, :-1], sums_BE[:, -1:]
    return a_BD / s_B1.clamp(min=torch.finfo(s_B1.dtype).tiny)


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
    can be read so); released: they do not. products: what operands of matrix products are rounded to; None: the
    query's dtype. block: classes of a block; None: by the rows. kept_bytes: the largest matrix of scores, images x
    classes, that is kept for the backward pass. moments: of the centroids, at the last read that visited all of them.
    """

    def __init__(
        self,
        partition: Partition,
        embedding_size: int,
        *,
        retrieval: str = "hallucinator",
        softmax: bool = True,
        centroid_gradient: bool = False,
        products: Products | None = None,
        block: int | None = None,
        kept_bytes: int = 0,
    ) -> None:
        super().__init__()
        self.partition, self.retrieval, self.softmax = partition, retrieval, softmax or retrieval != "hallucinator"
        self.centroid_gradient, self.block = centroid_gradient, block
        self.products: Products | None = products
        self.kept_bytes, self._reused = kept_bytes, Reused()
        self.kernels: Kernels | None = None
        self.moments: Moments | None = None
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

        Collectives: the maxima of m and of -distance, which rank is nearest, one scattered sum, and its transpose
        backward. As many numbers at any number of ranks.
        """
        census = self._census(features_GD.detach(), chosen, masked)
        m_G, s_G, a_GD = self._partial_read(features_GD, temperature, census)
        distance_G, index_G = census.distances()
        self.moments = census.moments()
        best_2G = collectives.all_max(torch.stack([m_G, -distance_G]))
        if self.softmax:
            scale_G = torch.exp(m_G - finite(best_2G[0]))
            a_GD, s_G = a_GD * scale_G[:, None], s_G * scale_G
        # Ties go to the lowest class, at any number of ranks.
        mine_G = collectives.first(~(-distance_G < best_2G[1]))  # a NaN too is held by one rank
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

    def _blocks(
        self, x_GD: Tensor, chosen: Tensor | None = None, pairs: Pairs | None = None, keep: bool = False
    ) -> ClassBlocks:
        kept_bytes = self.kept_bytes if keep and torch.is_grad_enabled() else 0
        block, low = self.block or block_for(x_GD), self.products or x_GD.dtype
        return ClassBlocks(self.partition.size, low, chosen, pairs, block, kept_bytes, self._reused)

    def _census(self, f_GD: Tensor, chosen: Tensor | None, pairs: Pairs | None) -> Census:
        return Census(f_GD, self.centroids.detach(), self._blocks(f_GD, chosen, pairs, keep=True))

    def _query(self, features_GD: Tensor, temperature: Tensor | None) -> tuple[Tensor, Keys]:
        """What scores the classes of a retrieval by similarity: the query, G x D, and this rank's keys."""
        if self.retrieval == "cosine":
            assert temperature is not None
            centroids_kD = self._seen_centroids()
            return temperature * normalize(features_GD), Keys(centroids_kD, None, inverse_norms(centroids_kD))
        return features_GD, Keys(self.hallucinator_weight, self.hallucinator_bias, None)

    def _partial_read(
        self, features_GD: Tensor, temperature: Tensor | None, census: Census
    ) -> tuple[Tensor, Tensor, Tensor]:
        """m, s and a of `BlockedRead`, and the census; for the control, every class counts alike."""
        if not self.retrieves:
            work = BlockMatrix("work", census.blocks, features_GD)
            for start, rows in census.blocks:
                centroids_bD, at = self.centroids.detach()[rows], work.at(start)
                census.visit(start, rows, multiply(census.f_low, centroids_bD.T, census.blocks.products, at), at)
            work.give_back()
            total_D = self.centroids.detach().sum(0) * (self.retrieval == "mean")
            G = len(features_GD)
            return total_D.new_zeros(G), total_D.new_full((G,), self.partition.size), total_D.expand(G, -1)
        centroids_kD = self._seen_centroids()
        if self.retrieval == "cosine":
            assert temperature is not None
            norm_G1 = torch.linalg.vector_norm(census.f_GD, dim=1, keepdim=True).clamp_(min=1e-12)
            keys = Keys(centroids_kD, None, torch.empty_like(census.norm_k))
            how = Retrieval(keys, temperature.detach() / norm_G1, True, self.softmax, census)
            query_GD = temperature * normalize(features_GD)
        else:
            keys = Keys(self.hallucinator_weight, self.hallucinator_bias, None)
            how, query_GD = Retrieval(keys, None, False, self.softmax, census), features_GD
        read = BlockedRead.apply if self.kernels is None else self.kernels.read
        return read(query_GD, keys.weight_kD, centroids_kD, how)

    def scores(
        self, x_GD: Tensor, labels_G: Tensor, prior_k: Tensor | None = None, chosen: Tensor | None = None
    ) -> Scores:
        """The memory as a classifier: scores x·c_k/‖c_k‖, for a softmax over all classes; the centroids do not learn.

        prior_k: added to the scores of this rank's classes. chosen: as in `read`.
        """
        centroids_kD = self.centroids.detach()
        keys = Keys(centroids_kD, prior_k, centroids_kD.new_empty(len(centroids_kD)))
        pairs = Pairs(*self.partition.own(labels_G))
        return softmax_scores(x_GD, keys, self._blocks(x_GD, chosen, pairs, keep=True), self.kernels)

    @torch.no_grad()
    def highest_cosine(self, features_GD: Tensor) -> Tensor:
        """The highest cosine of each image to a centroid, for all G images, on all ranks. One product."""
        keys = Keys(self.centroids, None, inverse_norms(self.centroids))
        return collectives.all_max(self._best(normalize(features_GD), keys)[0])

    def note(self, features_GD: Tensor, labels_G: Tensor) -> None:
        """Keep features, detached, of a micro-batch that the centroids will follow after the step."""
        self._noted.append((features_GD, labels_G))

    def follow_noted(self, momentum: float, applied: bool) -> None:
        """`follow` what was noted since the last step, unless that was skipped; nothing is noted any more."""
        if self._noted and applied:
            features, labels = zip(*self._noted, strict=True)
            self.follow(torch.cat(features), self.partition.joined(labels), momentum)
        self._noted.clear()

    @torch.no_grad()
    def follow(self, features_ND: Tensor, labels_N: Tensor, momentum: float) -> None:
        """c_k += (1 - momentum)·(mean of class k's features - c_k), for the classes among the labels.

        features_ND: direct features of all ranks' images, the same on all ranks. labels_N: their classes.
        """
        rows, columns_n = self.partition.own(labels_N)
        # The first row of each class stands for it. How many classes there are is not asked: a GPU would be waited for.
        place_n = torch.arange(len(rows), device=rows.device)
        first_k = place_n.new_full((self.partition.size,), len(rows))
        first_n = first_k.scatter_reduce_(0, columns_n, place_n, "amin")[columns_n]
        f_nD = features_ND[rows]
        sums_nD = torch.zeros_like(f_nD).index_add_(0, first_n, f_nD)
        counts_n1 = f_nD.new_zeros(len(rows), 1).index_add_(0, first_n, f_nD.new_ones(len(rows), 1))
        means_nD = sums_nD[first_n] / counts_n1[first_n]
        moved_nD = torch.lerp(means_nD, self.centroids[columns_n], momentum)
        self.centroids.index_copy_(0, columns_n, moved_nD)  # rows of one class are alike

    @torch.no_grad()
    def coefficients(self, features_GD: Tensor, temperature: Tensor | None = None) -> Tensor:
        """o of equation 1 as a matrix, G x K, on a single rank: for a few images that a person looks at."""
        assert group.world_size() == 1
        if not self.retrieves:
            share = 1 / self.partition.size if self.retrieval == "mean" else 0.0
            return features_GD.new_full((len(features_GD), self.partition.size), share)
        query_GD, keys = self._query(features_GD, temperature)
        scores_GK = keys.scores(query_GD, slice(None), self.products)
        return scores_GK.softmax(1) if self.softmax else scores_GK

    @torch.no_grad()
    def retrieved(self, features_GD: Tensor, temperature: Tensor | None = None) -> Tensor:
        """The class that weighs most in each image's read, for all G images, on all ranks. One product."""
        top_G, index_G = self._best(*self._query(features_GD, temperature))
        mine_G = collectives.first(~(top_G < collectives.all_max(top_G)))
        return collectives.all_max(torch.where(mine_G, index_G + self.partition.start, -1))

    def _best(self, x_GD: Tensor, keys: Keys) -> tuple[Tensor, Tensor]:
        """The highest score of this rank's classes (G) and its local class (G)."""
        blocks = self._blocks(x_GD)
        best, x_low, work = Best(x_GD, keys, blocks), operand(x_GD, blocks.products), BlockMatrix("work", blocks, x_GD)
        for start, rows in blocks:
            best.visit(start, keys.scores(x_low, rows, blocks.products, work.at(start)))
        work.give_back()
        return best.result()
