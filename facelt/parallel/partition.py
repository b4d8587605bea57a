"""Which rank owns which classes: the only such arithmetic in the project.

Rank r of R owns a contiguous range of the K classes; the first K mod R ranks own one class more than the others.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from facelt.errors import UserError


@dataclass(frozen=True)
class Partition:
    """The classes of one rank among all.

    Raises UserError when there are more ranks than classes.
    """

    num_classes: int
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if self.num_classes < self.world_size:
            raise UserError(
                f"{self.num_classes} classes cannot be shared by {self.world_size} ranks: "
                f"every rank needs at least one; start at most {max(self.num_classes, 1)} ranks"
            )
        assert 0 <= self.rank < self.world_size

    def bounds(self, rank: int | None = None) -> tuple[int, int]:
        """First class of a rank (this one by default) and one past its last."""
        rank = self.rank if rank is None else rank
        share, extra = divmod(self.num_classes, self.world_size)
        start = rank * share + min(rank, extra)
        return start, start + share + (rank < extra)

    @property
    def start(self) -> int:
        return self.bounds()[0]

    @property
    def size(self) -> int:
        """k: how many classes this rank owns."""
        start, stop = self.bounds()
        return stop - start

    def starts(self) -> list[int]:
        """The first class of every rank."""
        return [self.bounds(rank)[0] for rank in range(self.world_size)]

    def own(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Positions of the labels that this rank owns, and their local class numbers.

        labels: int64 of shape G. Returns two int64 tensors of the same length.
        """
        known = getattr(labels, "owned", None)
        if known is not None and known[0] == self:
            return known[1], known[2]
        start, stop = self.bounds()
        positions = torch.nonzero((labels >= start) & (labels < stop)).squeeze(1)
        return positions, labels[positions] - start

    def place(self, labels: Tensor, device: torch.device) -> Tensor:
        """Labels of the host on a device, where `own` then answers of these without waiting for it.

        On CUDA how many labels a rank owns would be known to the device alone: it is worked out before, on the host.
        """
        if device.type == "cpu":
            return labels
        positions, columns = self.own(labels)
        packed = torch.cat([labels, positions, columns]).pin_memory().to(device, non_blocking=True)
        placed, positions, columns = packed.split([len(labels), len(positions), len(columns)])
        placed.owned = (self, positions, columns)  # pyright: ignore[reportAttributeAccessIssue] - goes with the tensor
        return placed
