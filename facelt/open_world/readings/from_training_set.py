"""Readings that are made of the training set, in one pass over it: the memory, PLDA, nearest class mean, OpenMax.

D: embedding size, k: classes of this rank.
"""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import normalize

from facelt.head.blocked import accumulate_dtype
from facelt.head.whitening import WithinClasses
from facelt.open_world.readings.openmax import OpenMax, TailCollector
from facelt.open_world.readings.plda import ByLikelihood
from facelt.open_world.readings.reading import ByPrototypes, Embedded, Knobs, Reading, gathered
from facelt.open_world.scoring import Prototypes
from facelt.open_world.sets import Batches, Given
from facelt.parallel import collectives, group
from facelt.parallel.partition import Partition
from facelt.training.class_means import ClassMeans

MADE_OF_TRAINING = ("memory", "both", "plda", "ncm", "openmax")


def accurate(rows_GD: Tensor) -> Tensor:
    """The rows in float32 at least."""
    return rows_GD.to(accumulate_dtype(rows_GD))


def by_memory(means_kD: Tensor, temperature: float, partition: Partition) -> ByPrototypes:
    """The class whose mean of unit features has the highest cosine; softmax(t·cos)."""
    prototypes = Prototypes(partition, means_kD, cosine=True)
    return ByPrototypes(prototypes, lambda v: normalize(accurate(v["direct"])) * temperature)


def by_both(classifier: ByPrototypes, means_kD: Tensor, temperature: float) -> ByPrototypes:
    """The class with the highest sum of the classifier's logit and t·cos to its mean of unit features."""
    of = classifier.prototypes
    weight_kD = normalize(of.weight_kD) if of.cosine else of.weight_kD
    rows_kE = torch.cat([weight_kD, normalize(means_kD).to(weight_kD)], 1)

    def query(v: Embedded) -> Tensor:
        by_classifier, unit = classifier.query(v), normalize(accurate(v["direct"])) * temperature
        return torch.cat([by_classifier, unit.to(by_classifier)], 1)

    return ByPrototypes(replace(of, weight_kD=rows_kE, cosine=False), query)


def by_class_mean(means_kD: Tensor, partition: Partition) -> ByPrototypes:
    """The class whose mean m is nearest: x·m - ‖m‖²/2 is highest; softmax(-‖x - m‖²/2)."""
    prototypes = Prototypes(partition, means_kD, means_kD.square().sum(1) / -2)
    return ByPrototypes(prototypes, lambda v: accurate(v["direct"]))


@torch.no_grad()
def make_readings(
    names: list[str], batches: Batches, train: Given, classifier: ByPrototypes | None, knobs: Knobs
) -> dict[str, Reading]:
    """Those of `names` that are made of the training set.

    classifier: the run's own, which OpenMax revises and `both` adds to. Raises UserError where a class has no image.
    """
    wanted = [name for name in MADE_OF_TRAINING if name in names]
    if not wanted:
        return {}
    partition = Partition(train.content.num_classes, group.rank(), group.world_size())
    labels_N = torch.from_numpy(train.content.labels)
    means: dict[str, ClassMeans] = {}
    tails: TailCollector | None = None
    within: WithinClasses | None = None
    if "openmax" in wanted:
        assert classifier is not None
        tails = TailCollector(classifier)
    for batch in batches.each(train, "training set"):
        v = gathered(batches, batch.output)
        direct_GD = accurate(v["direct"])
        labels_G = labels_N[batch.images_G].where(torch.from_numpy(batch.valid_G), -1).to(direct_GD.device)
        unit_GD = normalize(direct_GD)
        for names_of, rows_GD in ((("memory", "both", "plda"), unit_GD), (("ncm",), direct_GD)):
            if set(names_of) & set(wanted):
                mean = means.setdefault(names_of[0], ClassMeans(partition, rows_GD.shape[1], rows_GD))
                mean.add_gathered(rows_GD, labels_G)
        if "plda" in wanted:
            within = within or WithinClasses(unit_GD.shape[1], unit_GD.device)
            within.add(collectives.own_rows(unit_GD)[collectives.own_rows(labels_G) >= 0])
        if tails is not None:
            tails.add(v, labels_G)
    made: dict[str, Reading] = {}
    if "memory" in wanted:
        made["memory"] = by_memory(means["memory"].result(), knobs.temperature, partition)
    if "both" in wanted:
        assert classifier is not None
        made["both"] = by_both(classifier, means["memory"].result(), knobs.temperature)
    if within is not None:
        of_units = means["memory"]
        means_kD, counts_k = of_units.result(), of_units.counts_k
        made["plda"] = ByLikelihood.of(means_kD, counts_k, within.result(means_kD, counts_k), knobs.ridge, partition)
    if "ncm" in wanted:
        made["ncm"] = by_class_mean(means["ncm"].result(), partition)
    if tails is not None:
        made["openmax"] = OpenMax(tails.classifier, tails.fit(knobs.tail), knobs.alpha)
    return made
