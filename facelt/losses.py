"""Cross-entropy over class shards, and the centroid losses (equations 7 to 9).

G: images of all ranks, B: of this rank, D: embedding size, K: classes, k: classes of this rank.
Every loss is returned as this rank's *share*: the sum of the shares over ranks is the loss.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from facelt import comms
from facelt.partition import Partition


class CrossEntropy(NamedTuple):
    """loss: this rank's share (scalar). correct_B: whether the own class scored highest, for this rank's images."""

    loss: Tensor
    correct_B: Tensor


def cross_entropy(top_G: Tensor, sum_G: Tensor, own: Tensor, own_rows: Tensor, reduction: str = "mean") -> CrossEntropy:
    """Softmax cross-entropy (equation 8) from each rank's part of the scores: the fields of `classifier.Scores`.

    reduction: "mean" over the G images as released, or "sum" as equation 7. Collectives: a maximum and a scattered
    sum forward, a gather backward, each of G or 2G numbers.
    """
    with torch.no_grad():
        reference_G = comms.all_max(top_G.index_put((own_rows,), torch.maximum(top_G[own_rows], own)))
    sum_G = sum_G * torch.exp(top_G - reference_G)
    sum_G = sum_G.index_add(0, own_rows, torch.exp(own - reference_G[own_rows]))
    target_G = torch.zeros_like(top_G).index_put((own_rows,), own)
    z_B, target_B = comms.scatter_sum(torch.stack([sum_G, target_G], 1)).unbind(1)
    reference_B = reference_G.tensor_split(comms.world_size())[comms.rank()]
    loss = (reference_B + torch.log(z_B) - target_B).sum()
    return CrossEntropy(loss / len(top_G) if reduction == "mean" else loss, target_B.detach() >= reference_B)


class _Moments(torch.autograd.Function):
    """Σ_k c_k (D) and Σ_k ‖c_k‖² (1) of k x D rows, in one tensor of D + 1; backward in one pass over the rows."""

    @staticmethod
    def forward(ctx, rows_kD: Tensor) -> Tensor:
        ctx.save_for_backward(rows_kD)
        flat = rows_kD.reshape(-1)
        return torch.cat([rows_kD.sum(0), torch.dot(flat, flat)[None]])

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor | None:
        (rows_kD,) = ctx.saved_tensors
        if not grad.any():
            return None  # beyond the margin nothing repels: no pass over the memory
        return torch.add(grad[:-1], rows_kD * (2 * grad[-1]))


def released_centroid_loss(
    features_GD: Tensor, labels_G: Tensor, centroids_kD: Tensor, partition: Partition, weight: float, margin: float
) -> Tensor:
    """weight · (Σ‖f-c_y‖²/2G + 0.01·max(0, margin - Σ_{k≠y}‖f-c_k‖²/GK)), as released. This rank's share.

    features_GD: gathered features, labels_G: their classes. Two things are not the plain gradient, as released: the
    attracting part moves centroid k by Σ_{y=k}(c_k-f)/((1+n_k)·G), with n_k the images of class k in the *global*
    batch, and that step is not scaled by `weight`.
    No product over classes is needed: Σ_k‖f-c_k‖² = K‖f‖² - 2f·Σc + Σ‖c‖².
    """
    G, K = len(labels_G), partition.num_classes
    rows, columns = partition.own(labels_G)
    own_f, own_c = features_GD[rows], centroids_kD[columns]
    attract = (own_f - own_c.detach()).square().sum() / (2 * G)
    images_per_class = torch.bincount(columns, minlength=partition.size)[columns]
    pull = (((own_f.detach() - own_c).square().sum(1)) / (1 + images_per_class)).sum() / (2 * G)

    moments = _Moments.apply(centroids_kD)
    own_distance = (own_f - own_c).square().sum()
    f_sum_D, f_square = features_GD.sum(0), features_GD.square().sum()
    distances = partition.size * f_square - 2 * f_sum_D @ moments[:-1] + G * moments[-1] - own_distance
    repel = (margin - comms.all_sum(distances) / (G * K)).clamp(min=0) / comms.world_size()
    return weight * (attract + 0.01 * repel) + (pull - pull.detach())


class _DistanceSum(torch.autograd.Function):
    """Σ_k ‖f_g - c_k‖ for each g, unsquared, over k x D rows in blocks. Differentiable towards both."""

    @staticmethod
    def forward(ctx, f_GD: Tensor, rows_kD: Tensor, block: int) -> Tensor:
        ctx.save_for_backward(f_GD, rows_kD)
        ctx.block = block
        return sum(torch.cdist(f_GD, rows_kD[i : i + block]).sum(1) for i in range(0, len(rows_kD), block))

    @staticmethod
    def backward(ctx, grad_G: Tensor) -> tuple[Tensor, Tensor, None]:
        f_GD, rows_kD = ctx.saved_tensors
        df_GD, drows_kD = torch.zeros_like(f_GD), torch.empty_like(rows_kD)
        for i in range(0, len(rows_kD), ctx.block):
            c_bD = rows_kD[i : i + ctx.block]
            distance_Gb = torch.cdist(f_GD, c_bD)
            # d‖f-c‖/df = (f-c)/‖f-c‖, and zero where they meet.
            pull_Gb = torch.where(distance_Gb > 0, grad_G[:, None] / distance_Gb, 0)
            df_GD += pull_Gb.sum(1, keepdim=True) * f_GD - pull_Gb @ c_bD
            drows_kD[i : i + ctx.block] = pull_Gb.sum(0)[:, None] * c_bD - pull_Gb.T @ f_GD
        return df_GD, drows_kD, None


def paper_centroid_loss(
    features_GD: Tensor,
    labels_G: Tensor,
    centroids_kD: Tensor,
    partition: Partition,
    weight: float,
    margin: float,
    block: int = 4096,
) -> Tensor:
    """weight · Σ_g max(0, ‖v-c_y‖ - Σ_{k≠y}‖v-c_k‖ + margin): equations 7 and 9, unsquared. This rank's share.

    features_GD: gathered meta-embeddings. The gradient is the plain one, to the features and to the centroids.
    """
    rows, columns = partition.own(labels_G)
    own_difference = features_GD[rows] - centroids_kD[columns]
    own = torch.linalg.vector_norm(own_difference, dim=1)
    hinge_G = -_DistanceSum.apply(features_GD, centroids_kD, block).index_add(0, rows, -2 * own)
    return weight * (comms.scatter_sum(hinge_G) + margin).clamp(min=0).sum()
