"""Which rank owns which classes: the only such arithmetic in the project.

Rank r of R owns a contiguous range of the K classes; the first K mod R ranks own one class more than the others.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

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
        known = _known(labels, self)
        if known is not None:
            return known.positions, known.columns
        start, stop = self.bounds()
        positions = torch.nonzero((labels >= start) & (labels < stop)).squeeze(1)
        return positions, labels[positions] - start

    def place(self, labels: Tensor, device: torch.device) -> Tensor:
        """Labels of the host on a device, where `own` then answers of these without waiting for it.

        On CUDA how many labels a rank owns would be known to the device alone: it is worked out before, on the host.
        """
        if device.type == "cpu":
            return labels
        placed, positions, columns = sent([labels, *self.own(labels)], device)
        return _knowing(placed, _Known(self, positions, columns, labels))

    def joined(self, parts: Sequence[Tensor]) -> Tensor:
        """Labels one after the other, of which `own` answers without waiting where it does so of each part."""
        whole, known = torch.cat([*parts]), [_known(part, self) for part in parts]
        if any(part is None for part in known):
            return whole
        starts = itertools.accumulate(map(len, parts[:-1]), initial=0)
        own = [part for part in known if part is not None]
        positions = torch.cat([part.positions + start for part, start in zip(own, starts, strict=True)])
        columns = torch.cat([part.columns for part in own])
        return _knowing(whole, _Known(self, positions, columns, torch.cat([part.labels for part in own])))


class _Known(NamedTuple):
    """What goes with labels on a device: what a partition's rank owns of them, there; and the labels on the host."""

    partition: Partition
    positions: Tensor
    columns: Tensor
    labels: Tensor


def _knowing(labels: Tensor, known: _Known) -> Tensor:
    labels.known = known  # pyright: ignore[reportAttributeAccessIssue] - goes with the tensor
    return labels


def _known(labels: Tensor, partition: Partition | None = None) -> _Known | None:
    known: _Known | None = getattr(labels, "known", None)
    return known if known is None or partition in (None, known.partition) else None


def on_host(labels: Tensor) -> Tensor:
    """Labels on the host: those that `Partition.place` gave, or `joined` of these, without waiting for their device."""
    known = _known(labels)
    return labels.cpu() if known is None else known.labels


def sent(parts: Sequence[Tensor], device: torch.device) -> tuple[Tensor, ...]:
    """Vectors of one dtype, of the host, on a device: in one copy, which the host does not wait for."""
    if device.type == "cpu":
        return tuple(parts)
    packed = torch.cat([*parts]).pin_memory().to(device, non_blocking=True)
    return packed.split([len(part) for part in parts])
