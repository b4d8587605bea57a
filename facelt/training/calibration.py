"""What a memory of prototypes is read with: a temperature and a threshold, from its own training images.

An image is scored against the memory without it: the centroid of its class is taken as the mean of the class's other
images, c' = (n·c - u)/(n - 1). Images of a class with one image say nothing and are left out.
S: images of the sample, P: of a part of it, D: embedding size, k: classes of this rank, T: temperatures.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize
from tqdm import tqdm

from facelt.errors import UserError
from facelt.head.blocked import ClassBlocks, Keys, Pairs, Within, finite, inverse_norms
from facelt.parallel import collectives, group, heartbeat
from facelt.parallel.partition import Partition

SAMPLE = 4096  # images that are scored
TEMPERATURES = tuple(4 * 2 ** (i / 4) for i in range(25))  # 4 … 256
ACCEPTED = 0.95
PART = 256


@dataclass(frozen=True)
class Calibration:
    """temperature: that of `TEMPERATURES` with the smallest mean cross-entropy of softmax(t·cos). threshold: the cosine
    to the nearest centroid that `ACCEPTED` of the images reach."""

    temperature: float
    threshold: float


@torch.no_grad()
def calibrate(
    rows_SD: Tensor, labels_S: Tensor, centroids_kD: Tensor, counts_k: Tensor, partition: Partition
) -> Calibration:
    """Temperature and threshold of a memory.

    Args:
        rows_SD: of training images, what the centroids are the means of; the same on all ranks.
        labels_S: their classes.
        centroids_kD: this rank's means of all training images' rows.
        counts_k: of how many images each is the mean.
        partition: which classes this rank owns.

    Raises:
        UserError: no image of the sample has another of its class.
    """
    rows, columns = partition.own(labels_S)
    several_S = torch.zeros_like(labels_S).index_copy_(0, rows, (counts_k[columns] > 1).to(labels_S.dtype))
    several_S = collectives.all_sum(several_S) > 0
    rows_SD, labels_S = rows_SD[several_S], labels_S[several_S]
    if not len(rows_SD):
        raise UserError(
            "the memory cannot be calibrated: no class of the training set has two images; give a set with such classes"
        )
    temperatures_T = rows_SD.new_tensor(TEMPERATURES)
    losses_T = torch.zeros_like(temperatures_T)
    highest = []
    parts = list(zip(rows_SD.split(PART), labels_S.split(PART), strict=True))
    bar = tqdm(parts, desc="calibrating", unit="part", delay=2, leave=False, disable=group.rank() > 0)
    for part_PD, labels_P in bar:
        heartbeat.mark("calibration")
        top_P, sum_TP, own_P = _scores(part_PD, labels_P, centroids_kD, counts_k, partition, temperatures_T)
        losses_T += (temperatures_T[:, None] * (top_P - own_P) + sum_TP.log()).sum(1)
        highest.append(top_P)
    threshold = torch.quantile(torch.cat(highest).double(), 1 - ACCEPTED)
    return Calibration(TEMPERATURES[int(losses_T.argmin())], float(threshold))


def _scores(
    rows_PD: Tensor, labels_P: Tensor, centroids_kD: Tensor, counts_k: Tensor, partition: Partition, t_T: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The highest cosine, Σ_k e^(t·(cos - highest)) at each temperature, and the own class's cosine, on all ranks."""
    rows, columns = partition.own(labels_P)
    n_p1, unit_PD = counts_k[columns, None].to(rows_PD.dtype), normalize(rows_PD)
    own_p = cosine_similarity(unit_PD[rows], (n_p1 * centroids_kD[columns] - rows_PD[rows]) / (n_p1 - 1))
    top_P = torch.full_like(unit_PD[:, 0], -torch.inf)
    sum_TP = unit_PD.new_zeros(len(t_T), len(unit_PD))
    keys = Keys(centroids_kD, None, inverse_norms(centroids_kD))
    blocks = ClassBlocks(partition.size, unit_PD.dtype, pairs=Pairs(rows, columns))
    place_P1, own_P1 = blocks.pair_places(len(unit_PD)), unit_PD.new_zeros(len(unit_PD), 1)
    own_P1[rows, 0] = own_p
    for start, block in blocks:
        cos_Pb = keys.scores(unit_PD, block)
        Within.of(place_P1, start, cos_Pb.shape[1]).exchange(cos_Pb, own_P1)
        new_P = torch.maximum(top_P, cos_Pb.amax(1))
        below_Pb, fall_P = cos_Pb - new_P[:, None], finite(top_P) - new_P
        sum_TP = torch.stack(
            [s_P * torch.exp(t * fall_P) + torch.exp(t * below_Pb).sum(1) for t, s_P in zip(t_T, sum_TP, strict=True)]
        )
        top_P = new_P
    own_P = collectives.all_sum(torch.zeros_like(top_P).index_copy_(0, rows, own_p))
    table_RXP = collectives.table(torch.cat([top_P[None], sum_TP]))
    best_P = table_RXP[:, 0].amax(0)
    fall_RP = finite(table_RXP[:, 0]) - best_P
    sum_TP = (table_RXP[:, 1:] * torch.exp(t_T[:, None] * fall_RP[:, None])).sum(0)
    return best_P, sum_TP, own_P
