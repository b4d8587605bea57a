"""Per-class means of direct features over a whole set, class-sharded while they are being summed."""

import torch
from torch import Tensor

from facelt.errors import UserError
from facelt.head.blocked import accumulate_dtype
from facelt.parallel import collectives
from facelt.parallel.partition import Partition


class ClassMeans:
    """Sums and counts of this rank's classes. All ranks must add alike."""

    def __init__(self, partition: Partition, embedding_size: int, like: Tensor) -> None:
        self.partition = partition
        dtype = accumulate_dtype(like)
        self.sums_kD = torch.zeros(partition.size, embedding_size, dtype=dtype, device=like.device)
        self.counts_k = torch.zeros(partition.size, dtype=torch.int64, device=like.device)

    def add(self, features_BD: Tensor, labels_G: Tensor, valid_G: Tensor) -> Tensor:
        """Add this rank's features; labels and validity are those of all ranks' images. All ranks must call it.

        Returns the features of all ranks, G x D.
        """
        features_GD = collectives.gather(features_BD)
        self.add_gathered(features_GD, labels_G.where(valid_G, -1))
        return features_GD

    def add_gathered(self, features_GD: Tensor, labels_G: Tensor) -> None:
        """Add features that all ranks hold. labels_G: -1 for those that do not count."""
        rows, columns = self.partition.own(labels_G)
        self.sums_kD.index_add_(0, columns, features_GD[rows].to(self.sums_kD.dtype))
        self.counts_k.index_add_(0, columns, torch.ones_like(columns))

    def result(self) -> Tensor:
        """The means, k x D. Raises UserError that names the first class without images."""
        empty = torch.nonzero(self.counts_k == 0).flatten()
        first = torch.full((), self.partition.num_classes, device=empty.device)
        if len(empty):
            first = empty[0] + self.partition.start
        missing = int(collectives.table(first).min())
        if missing < self.partition.num_classes:
            raise UserError(
                f"class {missing} has no image, so the memory has no centroid for it, nor a classifier a mean: drop "
                "the identities that are empty, or none of whose images decodes, from the set"
            )
        return self.sums_kD / self.counts_k[:, None]
