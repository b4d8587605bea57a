"""The visual memory: class-sharded centroids, read by a hallucinator (equation 1) and measured by reach (equation 3).

G: images of all ranks, B: of this rank, D: embedding size, K: classes, k: classes of this rank.
Nothing of size G x K exists at once: classes are visited in blocks, forward and backward.
"""

import torch
from torch import Tensor, nn

from facelt import comms
from facelt.partition import Partition

BLOCK = 4096


def accumulate_dtype(tensor: Tensor) -> torch.dtype:
    """float64 stays; everything else accumulates in float32."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


class _BlockedRead(torch.autograd.Function):
    """This rank's part of o·M (equation 1), and the nearest of its centroids.

    Scores l = f·Wᵀ + b. With softmax: m = max l, s = Σ e^(l-m), a = Σ e^(l-m) c, so that the read over all ranks is
    Σ e^(m-M) a / Σ e^(m-M) s, whatever the reference M. Without: a = Σ l·c, m = 0, s = 0.
    Returns m (G), s (G), a (G x D), the smallest squared distance (G) and its local class (G).
    m and the last two carry no gradient: the ratio does not depend on m.

    Products kept to what cannot be avoided, each G x k x D: forward f·Wᵀ, p·C, f·Cᵀ; backward f·Wᵀ again
    (cheaper than keeping G x k), da·Cᵀ, dl·W, dlᵀ·f, and pᵀ·da only where the centroids want this gradient.
    """

    @staticmethod
    def forward(ctx, f_GD, weight_kD, bias_k, centroids_kD, softmax: bool, block: int):
        (G, D), k = f_GD.shape, len(centroids_kD)
        dtype = accumulate_dtype(f_GD)
        m_G = f_GD.new_full((G,), -torch.inf, dtype=dtype) if softmax else f_GD.new_zeros(G, dtype=dtype)
        s_G = f_GD.new_zeros(G, dtype=dtype)
        a_GD = f_GD.new_zeros(G, D, dtype=dtype)
        nearest_G = f_GD.new_full((G,), torch.inf, dtype=dtype)
        index_G = f_GD.new_zeros(G, dtype=torch.int64)
        for start in range(0, k, block):
            rows = slice(start, start + block)
            c_bD = centroids_kD[rows]
            p_Gb = torch.addmm(bias_k[rows], f_GD, weight_kD[rows].T).to(dtype)
            if softmax:
                top_G = torch.maximum(m_G, p_Gb.amax(1))
                fade_G = torch.exp(m_G - top_G)
                p_Gb.sub_(top_G[:, None]).exp_()
                s_G.mul_(fade_G).add_(p_Gb.sum(1))
                a_GD.mul_(fade_G[:, None])
                m_G = top_G
            a_GD.addmm_(p_Gb.to(c_bD.dtype), c_bD) if a_GD.dtype == c_bD.dtype else a_GD.add_(
                p_Gb.to(c_bD.dtype) @ c_bD
            )
            d_Gb = torch.addmm(c_bD.square().sum(1), f_GD, c_bD.T, alpha=-2)
            low_G, at_G = d_Gb.min(1)
            closer_G = low_G < nearest_G
            nearest_G = torch.where(closer_G, low_G.to(dtype), nearest_G)
            index_G = torch.where(closer_G, at_G + start, index_G)
        nearest_G = nearest_G + f_GD.to(dtype).square().sum(1)
        ctx.save_for_backward(f_GD, weight_kD, bias_k, centroids_kD, m_G)
        ctx.softmax, ctx.block = softmax, block
        ctx.mark_non_differentiable(m_G, nearest_G, index_G)
        return m_G, s_G, a_GD, nearest_G, index_G

    @staticmethod
    def backward(ctx, _m, ds_G, da_GD, _nearest, _index):
        f_GD, weight_kD, bias_k, centroids_kD, m_G = ctx.saved_tensors
        _, wants_weight, _, wants_centroids = ctx.needs_input_grad[:4]
        da_GD = da_GD.to(f_GD.dtype)
        df_GD = torch.zeros_like(f_GD)
        dweight_kD = torch.empty_like(weight_kD) if wants_weight else None
        dbias_k = torch.empty_like(bias_k) if wants_weight else None
        dcentroids_kD = torch.empty_like(centroids_kD) if wants_centroids else None
        for start in range(0, len(weight_kD), ctx.block):
            rows = slice(start, start + ctx.block)
            w_bD, c_bD = weight_kD[rows], centroids_kD[rows]
            dl_Gb = da_GD @ c_bD.T
            if ctx.softmax or wants_centroids:
                p_Gb = torch.addmm(bias_k[rows], f_GD, w_bD.T)
            if ctx.softmax:
                p_Gb.sub_(m_G[:, None]).exp_()
                dl_Gb.add_(ds_G[:, None]).mul_(p_Gb)
            df_GD.addmm_(dl_Gb, w_bD)
            if wants_weight:
                torch.mm(dl_Gb.T, f_GD, out=dweight_kD[rows])
                torch.sum(dl_Gb, 0, out=dbias_k[rows])
            if wants_centroids:
                torch.mm(p_Gb.T, da_GD, out=dcentroids_kD[rows])
        return df_GD, dweight_kD, dbias_k, dcentroids_kD, None, None


class CentroidMemory(nn.Module):
    """This rank's centroids c_i and the rows of the hallucinator T_hal that score them.

    centroids: k x D. hallucinator: weight k x D and bias k of T_hal = Linear(D -> K).
    softmax: o = softmax(T_hal(v)) as released, or o = T_hal(v) as equation 1 has it.
    centroid_gradient: whether the read and the reach pass gradient to the centroids ("alternately" in section 3.3
    can be read so); released: they do not, and centroids move by the centroid loss alone.
    """

    def __init__(
        self, partition: Partition, embedding_size: int, softmax: bool, centroid_gradient: bool, block: int = BLOCK
    ) -> None:
        super().__init__()
        self.partition, self.softmax, self.centroid_gradient, self.block = partition, softmax, centroid_gradient, block
        self.centroids = nn.Parameter(torch.zeros(partition.size, embedding_size))
        self.hallucinator_weight = nn.Parameter(torch.zeros(partition.size, embedding_size))
        self.hallucinator_bias = nn.Parameter(torch.zeros(partition.size))

    def read(self, features_GD: Tensor) -> tuple[Tensor, Tensor]:
        """The memory feature v_memory and the nearest centroid c*, for this rank's images.

        features_GD: the gathered direct features. Returns two B x D tensors.
        Three collectives: a table of (m, distance) per rank, one scattered sum, and its transpose backward.
        """
        centroids_kD = self.centroids if self.centroid_gradient else self.centroids.detach()
        m_G, s_G, a_GD, distance_G, index_G = _BlockedRead.apply(
            features_GD, self.hallucinator_weight, self.hallucinator_bias, centroids_kD, self.softmax, self.block
        )
        table_R2G = comms.table(torch.stack([m_G, distance_G]))
        if self.softmax:
            scale_G = torch.exp(m_G - table_R2G[:, 0].amax(0))
            a_GD, s_G = a_GD * scale_G[:, None], s_G * scale_G
        # argmin takes the first of equals: ties go to the lowest class, at any number of ranks.
        mine_G = table_R2G[:, 1].argmin(0) == comms.rank()
        nearest_GD = centroids_kD[index_G] * mine_G[:, None]
        D = features_GD.shape[1]
        sums_BE = comms.scatter_sum(torch.cat([a_GD, nearest_GD, s_G[:, None]], 1))
        memory_BD, nearest_BD, s_B1 = sums_BE.split([D, D, 1], 1)
        return (memory_BD / s_B1 if self.softmax else memory_BD), nearest_BD


class ClassMeans:
    """Per-class means of direct features over a whole set, class-sharded while they are being summed."""

    def __init__(self, partition: Partition, embedding_size: int, like: Tensor) -> None:
        self.partition = partition
        dtype = accumulate_dtype(like)
        self.sums_kD = torch.zeros(partition.size, embedding_size, dtype=dtype, device=like.device)
        self.counts_k = torch.zeros(partition.size, dtype=torch.int64, device=like.device)

    def add(self, features_BD: Tensor, labels_G: Tensor, valid_G: Tensor) -> None:
        """Add this rank's features; labels and validity are those of all ranks' images. All ranks must call it."""
        features_GD = comms.gather(features_BD)
        rows, columns = self.partition.own(labels_G.where(valid_G, -1))
        self.sums_kD.index_add_(0, columns, features_GD[rows].to(self.sums_kD.dtype))
        self.counts_k.index_add_(0, columns, torch.ones_like(columns))

    def result(self) -> Tensor:
        """The means, k x D. Raises ValueError that names the first class without images."""
        empty = torch.nonzero(self.counts_k == 0).flatten()
        first = torch.full((), self.partition.num_classes, device=empty.device)
        if len(empty):
            first = empty[0] + self.partition.start
        missing = int(comms.table(first).min())
        if missing < self.partition.num_classes:
            raise ValueError(
                f"class {missing} has no image, so the memory has no centroid for it: "
                "drop the empty identities from the set"
            )
        return self.sums_kD / self.counts_k[:, None]
