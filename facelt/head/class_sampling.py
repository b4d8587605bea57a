"""Which classes take part in a step: all, or the batch's own and a seeded sample of the others (Partial FC, An 2021).

With a sample, softmax runs over fewer classes: the classifier's loss, and equally the memory's read and the nearest
centroid, see only the classes drawn, and the step costs that share of the products. The gradient is that of the
softmax over the sample, without a correction for those left out, as is usual.
"""

import torch
from torch import Tensor

from facelt.parallel.partition import Partition


def choose(partition: Partition, labels_G: Tensor, rate: float, generator: torch.Generator) -> Tensor | None:
    """Sorted local numbers of this rank's classes that take part: a class of the batch always, others at `rate`.

    labels_G: classes of all ranks' images. The generator, at the same state on every rank, is drawn from once for all
    K classes, so that a class takes part or not whatever the number of ranks. None: all do (rate 1).
    """
    if rate >= 1:
        return None
    drawn_K = torch.rand(partition.num_classes, generator=generator, dtype=torch.float32) < rate
    taking_k = drawn_K[slice(*partition.bounds())].to(labels_G.device)
    _, columns = partition.own(labels_G)
    taking_k[columns] = True
    return torch.nonzero(taking_k).squeeze(1)
