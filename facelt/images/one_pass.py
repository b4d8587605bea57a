"""One pass over a whole set, every image once and in order, shared by all ranks."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from facelt.images.dali import NOTHING, Dataset, Decoding, ImagePipeline, Unreadable
from facelt.images.sampling import SequentialSampler, local
from facelt.parallel import collectives, group, heartbeat
from recordio_tools.dataset import RecordDataset

T = TypeVar("T")


class Batch(NamedTuple, Generic[T]):
    """images_G: numbers of all ranks' images in this batch; valid_G: False where the last batch was filled up, and
    where an image did not decode and black stands in for it. output: what the function gave for this rank's share of
    them."""

    images_G: NDArray[np.int64]
    valid_G: NDArray[np.bool_]
    output: T


@dataclass(frozen=True)
class _PassPlan:
    """One rank's part of a pass, without augmentation. start: the step that its first batch is."""

    sampler: SequentialSampler
    rank: int
    ranks: int
    start: int

    def __len__(self) -> int:
        return self.sampler.steps - self.start

    def indices(self, i: int) -> NDArray[np.int64]:
        return local(self.sampler.indices(self.start + i), self.rank, self.ranks)

    def draws(self, i: int) -> NDArray[np.float64]:
        raise AssertionError("nothing is drawn in a pass over a set as it is")

    def instead(self, i: int, at: int) -> tuple[()]:
        return ()  # an image counts once or not at all


@torch.no_grad()
def each_batch(
    function: Callable[[Tensor], T],
    dataset: Dataset,
    decoding: Decoding,
    title: str,
    unreadable: Unreadable | None = None,
    start: int = 0,
) -> Iterator[Batch[T]]:
    """function(images B x 3 x S x S in [-1, 1]) over the set, B = `decoding.batch_size` images of each rank a batch.

    All ranks must iterate to the end. Progress with rate and time left on rank 0, called `title`.
    unreadable: where images that do not decode are noted; they are left out, by `Batch.valid_G`.
    start: batches that are done already; every batch is what it is without them.
    Raises UserError: without it, for such an image; where a file was cut short meanwhile.
    """
    ranks, rank = group.world_size(), group.rank()
    sampler = SequentialSampler(len(dataset), decoding.batch_size * ranks)
    batches = ImagePipeline(dataset, _PassPlan(sampler, rank, ranks, start), decoding, unreadable=unreadable).batches()
    done = min(start * decoding.batch_size * ranks, len(dataset))
    # Below another bar it goes when it is done.
    with tqdm(
        total=len(dataset), initial=done, desc=title, unit="img", disable=rank > 0, mininterval=1, leave=None
    ) as bar:
        for i in range(start, sampler.steps):
            heartbeat.mark("pass over the set")
            if isinstance(dataset, RecordDataset):
                dataset.check_whole()
            indices_B, images_B3SS = next(batches)
            valid_G = sampler.positions(i) < len(dataset)
            if unreadable is not None:
                decoded_B = torch.from_numpy((indices_B != NOTHING).astype(np.uint8)).to(decoding.device)
                valid_G &= collectives.gather(decoded_B).cpu().numpy().astype(bool)
            yield Batch(sampler.indices(i), valid_G, function(images_B3SS))
            bar.update(int(valid_G.sum()))
