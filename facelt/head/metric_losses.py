"""Metric losses of stage plain, on the direct features of the gathered batch: lifted structure and range.

Neither has a class axis: every rank holds the whole batch and computes the same, and returns 1/ranks of it.
G: images of all ranks, D: embedding size, P: pairs of images of one class, Q: those that count,
C: classes of the batch.
Both are zero, without a gradient, where the batch has nothing for them to compare.
"""

import torch
from torch import Tensor

from facelt.parallel.partition import on_host, sent

# Squared distances below this count as this: an image that stands twice in a batch would make 1/d infinite.
SMALLEST_RANGE = 1e-6


def lifted(features_GD: Tensor, labels_G: Tensor, margin: float) -> Tensor:
    """Lifted structured loss (Song et al. 2016), Σ_(i,j)∈P max(0, J_ij)² / 2|P| over the pairs of one class.

    J_ij = log(Σ_k e^(α - D_ik) + Σ_l e^(α - D_jl)) + D_ij, where k and l are the images of other classes than i and j;
    D are distances, and α is `margin`.
    """
    i_P, j_P = _pairs(on_host(labels_G))
    if not len(i_P) or 2 * len(i_P) == len(labels_G) * (len(labels_G) - 1):
        return features_GD.new_zeros(())
    i_P, j_P = sent([i_P, j_P], features_GD.device)
    same_GG = labels_G[:, None] == labels_G
    # By differences: the product form would lose the digits of small distances.
    distance_GG = torch.cdist(features_GD, features_GD, compute_mode="donot_use_mm_for_euclid_dist")
    others_G = torch.logsumexp((margin - distance_GG).masked_fill(same_GG, -torch.inf), 1)
    hinge_P = torch.logaddexp(others_G[i_P], others_G[j_P]) + distance_GG[i_P, j_P]
    return hinge_P.clamp(min=0).square().sum() / (2 * len(i_P))


def range_loss(features_GD: Tensor, labels_G: Tensor, margin: float, pairs: int) -> Tensor:
    """Range loss (Zhang et al. 2017), its two parts weighted alike, of squared distances.

    Within classes, the sum over them of the harmonic mean of the `pairs` largest distances between two of their images
    (of all, where there are fewer). Between, max(0, margin - d), d the smallest distance of two class centres, the
    classes' means in the batch.
    """
    return _within(features_GD, labels_G, pairs) + _between(features_GD, labels_G, margin)


def _pairs(labels_G: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of the two images of every pair of one class. labels_G: of the host, which then knows how many there are."""
    i_P, j_P = torch.nonzero((labels_G[:, None] == labels_G).triu(1), as_tuple=True)
    return i_P, j_P


def _within(features_GD: Tensor, labels_G: Tensor, pairs: int) -> Tensor:
    labels_G, device = on_host(labels_G), features_GD.device
    i_P, j_P = _pairs(labels_G)
    _, class_P, number_C = labels_G[i_P].unique(return_inverse=True, return_counts=True)
    # Of pairs that stand class by class, a pair's place within its class; which pair stands there is for the distances.
    sorted_P = class_P.sort().values
    place_P = torch.arange(len(i_P)) - (number_C.cumsum(0) - number_C)[sorted_P]
    kept_Q = torch.nonzero(place_P < pairs).squeeze(1)
    i_P, j_P, class_P, kept_Q, class_Q, number_C = sent([i_P, j_P, class_P, kept_Q, sorted_P[kept_Q], number_C], device)
    distance_P = (features_GD[i_P] - features_GD[j_P]).square().sum(1).clamp(min=SMALLEST_RANGE)
    # The pairs of each class side by side, the longest first.
    order_P = torch.argsort(distance_P, descending=True)
    order_P = order_P[torch.argsort(class_P[order_P], stable=True)]
    longest_Q = distance_P[order_P[kept_Q]].reciprocal()
    inverse_C = features_GD.new_zeros(len(number_C)).index_add(0, class_Q, longest_Q)
    return (number_C.clamp(max=pairs) / inverse_C).sum()


def _between(features_GD: Tensor, labels_G: Tensor, margin: float) -> Tensor:
    _, class_G, number_C = on_host(labels_G).unique(return_inverse=True, return_counts=True)
    if len(number_C) < 2:
        return features_GD.new_zeros(())
    class_G, number_C = sent([class_G, number_C], features_GD.device)
    sums_CD = features_GD.new_zeros(len(number_C), features_GD.shape[1]).index_add(0, class_G, features_GD)
    centres_CD = sums_CD / number_C[:, None]
    a, b = torch.triu_indices(len(number_C), len(number_C), 1, device=class_G.device)
    with torch.no_grad():  # which two are nearest; C x C x D for their gradient would be for nothing
        distance_CC = torch.cdist(centres_CD, centres_CD, compute_mode="donot_use_mm_for_euclid_dist")
        nearest = distance_CC[a, b].argmin(keepdim=True)  # as a vector: a number would be waited for
    apart = (centres_CD[a[nearest]] - centres_CD[b[nearest]]).square().sum()
    return (margin - apart).clamp(min=0)
