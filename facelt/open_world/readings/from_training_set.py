"""Readings that are made of the training set, in one pass over it: the memory, nearest class mean, OpenMax.

D: embedding size, k: classes of this rank.
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from facelt.head.blocked import accumulate_dtype
from facelt.open_world.readings.openmax import OpenMax, TailCollector
from facelt.open_world.readings.reading import ByPrototypes, Knobs, Reading, gathered
from facelt.open_world.scoring import Prototypes
from facelt.open_world.sets import Batches, Given
from facelt.parallel import group
from facelt.parallel.partition import Partition
from facelt.training.class_means import ClassMeans

MADE_OF_TRAINING = ("memory", "ncm", "openmax")


def accurate(rows_GD: Tensor) -> Tensor:
    """The rows in float32 at least."""
    return rows_GD.to(accumulate_dtype(rows_GD))


def by_memory(means_kD: Tensor, temperature: float, partition: Partition) -> ByPrototypes:
    """The class whose mean of unit features has the highest cosine; softmax(t·cos)."""
    prototypes = Prototypes(partition, means_kD, cosine=True)
    return ByPrototypes(prototypes, lambda v: normalize(accurate(v["direct"])) * temperature)


def by_class_mean(means_kD: Tensor, partition: Partition) -> ByPrototypes:
    """The class whose mean m is nearest: x·m - ‖m‖²/2 is highest; softmax(-‖x - m‖²/2)."""
    prototypes = Prototypes(partition, means_kD, means_kD.square().sum(1) / -2)
    return ByPrototypes(prototypes, lambda v: accurate(v["direct"]))


@torch.no_grad()
def make_readings(
    names: list[str], batches: Batches, train: Given, classifier: ByPrototypes | None, knobs: Knobs
) -> dict[str, Reading]:
    """Those of `names` that are made of the training set.

    classifier: the run's own, which OpenMax revises. Raises UserError where a class has no image.
    """
    wanted = [name for name in MADE_OF_TRAINING if name in names]
    if not wanted:
        return {}
    partition = Partition(train.content.num_classes, group.rank(), group.world_size())
    labels_N = torch.from_numpy(train.content.labels)
    means: dict[str, ClassMeans] = {}
    tails: TailCollector | None = None
    if "openmax" in wanted:
        assert classifier is not None
        tails = TailCollector(classifier)
    for batch in batches.each(train, "training set"):
        v = gathered(batches, batch.output)
        direct_GD = accurate(v["direct"])
        labels_G = labels_N[batch.images_G].where(torch.from_numpy(batch.valid_G), -1).to(direct_GD.device)
        for name, rows_GD in (("memory", normalize(direct_GD)), ("ncm", direct_GD)):
            if name in wanted:
                mean = means.setdefault(name, ClassMeans(partition, rows_GD.shape[1], rows_GD))
                mean.add_gathered(rows_GD, labels_G)
        if tails is not None:
            tails.add(v, labels_G)
    made: dict[str, Reading] = {}
    if "memory" in wanted:
        made["memory"] = by_memory(means["memory"].result(), knobs.temperature, partition)
    if "ncm" in wanted:
        made["ncm"] = by_class_mean(means["ncm"].result(), partition)
    if tails is not None:
        made["openmax"] = OpenMax(tails.classifier, tails.fit(knobs.tail), knobs.alpha)
    return made
