"""Which classes take part in a step: all, or the batch's own and a seeded sample of the others (Partial FC, An 2021).

With a sample, softmax runs over fewer classes: the classifier's loss, and equally the memory's read and the nearest
centroid, see only the classes drawn, and the step costs that share of the products. The gradient is that of the
softmax over the sample, without a correction for those left out, as is usual.
"""

import torch
from torch import Tensor

from facelt.parallel.partition import Partition

# Binary digits of a draw in [0, 1).
DIGITS = 24


def choose(partition: Partition, labels_G: Tensor, rate: float, generator: torch.Generator) -> Tensor | None:
    """Sorted local numbers of this rank's classes that take part: a class of the batch always, others at `rate`.

    labels_G: classes of all ranks' images. The generator, at the same state on every rank, gives two keys; of these and
    its number each class makes its own draw, where it lies: it takes part or not whatever the number of ranks, and no
    rank draws for all K. None: all do (rate 1).
    """
    if rate >= 1:
        return None
    keys = torch.randint(2**31, (2,), generator=generator).tolist()
    numbers_k = torch.arange(*partition.bounds(), dtype=torch.int32, device=labels_G.device)
    for key in keys:
        numbers_k = _scatter(numbers_k.bitwise_xor_(key))
    taking_k = numbers_k.bitwise_and_(2**DIGITS - 1) < round(rate * 2**DIGITS)
    _, columns = partition.own(labels_G)
    taking_k.index_fill_(0, columns, True)
    return torch.nonzero(taking_k).squeeze(1)


def _scatter(x_k: Tensor) -> Tensor:
    """The last step of MurmurHash3 (fmix32): a bijection of int32 in which each bit decides about all. In its place."""
    for shift, factor in ((16, -2048144789), (13, -1028477387), (16, None)):
        x_k.bitwise_xor_(x_k.bitwise_right_shift(shift).bitwise_and_(2 ** (32 - shift) - 1))
        if factor is not None:
            x_k.mul_(factor)
    return x_k
