"""Cross-entropy over class shards, what is made of it for long tails, and the centroid losses (equations 7 to 9).

G: images of all ranks, D: embedding size, K: classes, k: classes of this rank.
N: rows of scores (G, or several times G).
Every loss is returned as this rank's *share*: the sum of the shares over ranks is the loss.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from facelt.errors import UserError
from facelt.head.blocked import block_for, fresh_gradient, gradient_at, gradient_of, take_rows
from facelt.head.classifier import Scores
from facelt.head.memory import Moments
from facelt.parallel import collectives, group
from facelt.parallel.partition import Partition


class CrossEntropy(NamedTuple):
    """losses_N: of every row, the same on all ranks. correct_N: whether the own class scored highest."""

    losses_N: Tensor
    correct_N: Tensor


def cross_entropy(scores: Scores, own: Tensor) -> CrossEntropy:
    """Softmax cross-entropy (equation 8) of each row, from each rank's part of the scores.

    own: the own classes' scores with a margin (n, as `scores.own`); `correct_N` judges by those without. Two
    collectives, of 3N and N numbers, forward; none backward. Every rank gets every row's loss: a rank's share of their
    sum is 1/ranks of it.
    """
    nowhere_N = torch.full_like(scores.top_G, -torch.inf)
    part_N = nowhere_N.index_put((scores.own_rows,), own)
    unchanged_N = nowhere_N.index_put((scores.own_rows,), scores.own.detach())
    top_N = scores.top_G.detach()
    best_N, own_N, unchanged_N = collectives.max_alike(torch.stack([top_N, part_N, unchanged_N]))
    reference_N = torch.maximum(best_N, own_N).detach()
    # A score that is no number may get lost among maxima; it does not among sums.
    z_N = collectives.sum_alike(scores.sum_G * torch.exp(top_N - reference_N) + torch.exp(part_N - reference_N))
    return CrossEntropy(reference_N + torch.log(z_N) - own_N, unchanged_N.detach() >= best_N.detach())


def focal(losses_N: Tensor, gamma: float) -> Tensor:
    """(1 - p)^γ · (-log p) of each row (Lin et al. 2017), p = e^(-loss) being the own class's softmax probability."""
    # Where p rounds to 1, a power below 1 would have an infinite slope.
    missed_N = -torch.expm1(-losses_N)
    return missed_N.clamp(min=torch.finfo(losses_N.dtype).tiny).pow(gamma) * losses_N


def log_prior(counts_K: Tensor, partition: Partition) -> Tensor:
    """log(n_k / N) of this rank's classes, with n_k of the N images of the training set of class k.

    counts_K: of all classes, int64, the same on all ranks. Raises UserError that names the first class without images.
    """
    empty = torch.nonzero(counts_K == 0).flatten()
    if len(empty):
        raise UserError(
            f"class {empty[0]} has no image, so its prior is zero: drop the empty identities from the set, "
            'or take another "loss"'
        )
    return torch.log(counts_K[slice(*partition.bounds())].double() / counts_K.sum()).to(torch.get_default_dtype())


class CentroidLoss(NamedTuple):
    """loss: this rank's share. hinge_B: whether the hinge is above zero, for each of this rank's images."""

    loss: Tensor
    hinge_B: Tensor


# BLAS counts the numbers of a dot product in 32 bits.
DOT_NUMBERS = 2**31 - 1


def moments_of(rows_kD: Tensor) -> Moments:
    """Σ_k c_k and Σ_k ‖c_k‖²."""
    flat = rows_kD.reshape(-1)
    squares = torch.stack([torch.dot(part, part) for part in flat.split(DOT_NUMBERS)]).sum()
    return Moments(rows_kD.sum(0), squares)


class _CentroidLoss(torch.autograd.Function):
    """This rank's part of weight·Σ‖f-c_y‖²/2G and of Σ_g Σ_{k≠y}‖f-c_k‖² (two scalars), with gradients in closed form.

    pull: "released", "gradient" or None: what the attracting part does to the centroids (see `released_centroid_loss`).
    Attraction touches the centroids of the batch's classes alone; repulsion all, where there is any.
    """

    @staticmethod
    def forward(ctx, f_GD, centroids_kD, rows, columns, weight, pull, moments: Moments):
        own_distance = (f_GD[rows] - centroids_kD[columns]).square().sum()
        moment_D = moments.sum_D
        # Σ_k ‖f-c_k‖² = k‖f‖² - 2f·Σc + Σ‖c‖²: no product over classes.
        spread = len(centroids_kD) * f_GD.square().sum() + len(f_GD) * moments.squares
        ctx.save_for_backward(f_GD, rows, columns, moment_D)
        ctx.centroids, ctx.weight, ctx.pull = centroids_kD, weight, pull
        return own_distance * (weight / (2 * len(f_GD))), spread - 2 * f_GD.sum(0) @ moment_D - own_distance

    @staticmethod
    def backward(ctx, dattract, ddistances):
        f_GD, rows, columns, moment_D = ctx.saved_tensors
        c_kD, G = ctx.centroids, len(f_GD)
        # Beyond the margin nothing repels and no pass over the memory is needed; to ask costs a GPU more than the pass.
        repels = ddistances.device.type == "cuda" or bool(ddistances)
        difference = f_GD[rows] - c_kD[columns]
        df_GD = torch.zeros_like(f_GD)
        if repels:
            df_GD += 2 * ddistances * (len(c_kD) * f_GD - moment_D)
        df_GD.index_add_(0, rows, difference * (ctx.weight * dattract / G - 2 * ddistances))
        if ctx.pull is not None:
            if repels:
                gradient_kD = _repulsion(c_kD, 2 * G * ddistances, -2 * ddistances * f_GD.sum(0))
            else:
                gradient_kD = gradient_at(c_kD, columns)
            share = 1 / (1 + _class_sizes(columns, len(c_kD))) if ctx.pull == "released" else ctx.weight
            gradient_kD.index_add_(0, columns, -difference * (share * dattract / G - 2 * ddistances).reshape(-1, 1))
        return df_GD, *[None] * 6


def _repulsion(c_kD: Tensor, factor: Tensor, shift_D: Tensor) -> Tensor:
    """The centroids' gradient, to which factor·c + shift was added: in one pass where there was none yet."""
    if c_kD.grad is None:
        return torch.addcmul(shift_D, c_kD, factor, out=fresh_gradient(c_kD))
    return gradient_of(c_kD).addcmul_(c_kD, factor).add_(shift_D)


def _class_sizes(columns: Tensor, k: int) -> Tensor:
    """How many of these local class numbers are equal to each. No bincount: that would wait for a GPU."""
    return columns.new_zeros(k).index_add_(0, columns, torch.ones_like(columns))[columns]


def released_centroid_loss(
    features_GD: Tensor,
    labels_G: Tensor,
    centroids_kD: Tensor,
    partition: Partition,
    *,
    weight: float,
    margin: float,
    pull: str | None = "released",
    moments: Moments | None = None,
) -> CentroidLoss:
    """weight · (Σ‖f-c_y‖²/2G + 0.01·max(0, margin - Σ_{k≠y}‖f-c_k‖²/GK)), as released. This rank's share.

    features_GD: gathered features, labels_G: their classes. The attracting part moves the centroids by `pull`:
        "released"  Σ_{y=k}(c_k-f)/((1+n_k)·G), n_k the images of class k in the *global* batch, not scaled by `weight`
        "gradient"  the plain gradient
        None        nothing moves the centroids here, repulsion neither
    moments: of the centroids, where a read of the memory has found them (`CentroidMemory.moments`).
    One collective, of one number, forward; none backward.
    """
    rows, columns = partition.own(labels_G)
    attract, distances = _CentroidLoss.apply(
        features_GD, centroids_kD, rows, columns, weight, pull, moments or moments_of(centroids_kD.detach())
    )
    total = collectives.sum_alike(distances)
    repel = (margin - total / (len(labels_G) * partition.num_classes)).clamp(min=0)
    loss = attract + weight * 0.01 * repel / group.world_size()
    return CentroidLoss(loss, (repel.detach() > 0).expand(len(labels_G) // group.world_size()))


class _DistanceSum(torch.autograd.Function):
    """Σ_k ‖f_g - c_k‖ for each g, unsquared, over k x D rows in blocks. Differentiable towards both."""

    @staticmethod
    def forward(ctx, f_GD: Tensor, rows_kD: Tensor, block: int) -> Tensor:
        ctx.save_for_backward(f_GD)
        ctx.rows, ctx.block = rows_kD, block
        sum_G = f_GD.new_zeros(len(f_GD))
        for c_bD in rows_kD.split(block):
            sum_G += torch.cdist(f_GD, c_bD).sum(1)
        return sum_G

    @staticmethod
    def backward(ctx, grad_G: Tensor) -> tuple[Tensor, None, None]:
        (f_GD,) = ctx.saved_tensors
        df_GD = torch.zeros_like(f_GD)
        for start, c_bD in zip(range(0, len(ctx.rows), ctx.block), ctx.rows.split(ctx.block), strict=True):
            distance_Gb = torch.cdist(f_GD, c_bD)
            # d‖f-c‖/df = (f-c)/‖f-c‖, and zero where they meet.
            pull_Gb = torch.where(distance_Gb > 0, grad_G[:, None] / distance_Gb, 0)
            df_GD += pull_Gb.sum(1, keepdim=True) * f_GD - pull_Gb @ c_bD
            if ctx.needs_input_grad[1]:
                gradient_bD = gradient_of(ctx.rows)[start : start + ctx.block]
                gradient_bD.addmm_(pull_Gb.T, f_GD, alpha=-1).addcmul_(pull_Gb.sum(0)[:, None], c_bD)
        return df_GD, None, None


def paper_centroid_loss(
    features_GD: Tensor,
    labels_G: Tensor,
    centroids_kD: Tensor,
    partition: Partition,
    *,
    weight: float,
    margin: float,
    block: int | None = None,
) -> CentroidLoss:
    """weight · Σ_g max(0, ‖v-c_y‖ - Σ_{k≠y}‖v-c_k‖ + margin): equations 7 and 9, unsquared. This rank's share.

    features_GD: gathered meta-embeddings. The gradient is the plain one, to the features and to the centroids where
    they require one. block: classes of a block; None: by the features.
    """
    block = block or block_for(features_GD)
    rows, columns = partition.own(labels_G)
    own = torch.linalg.vector_norm(features_GD[rows] - take_rows(centroids_kD, columns), dim=1)
    hinge_G = -_DistanceSum.apply(features_GD, centroids_kD, block).index_add(0, rows, -2 * own)
    hinge_B = (collectives.scatter_sum(hinge_G) + margin).clamp(min=0)
    return CentroidLoss(weight * hinge_B.sum(), hinge_B.detach() > 0)
