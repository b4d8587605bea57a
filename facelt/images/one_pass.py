"""One pass over a whole set, every image once and in order, shared by all ranks."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from facelt.images.dali import Dataset, Decoding, ImagePipeline
from facelt.images.sampling import SequentialSampler, local
from facelt.parallel import group, heartbeat

T = TypeVar("T")


class Batch(NamedTuple, Generic[T]):
    """images_G: numbers of all ranks' images in this batch; valid_G: False where the last batch was filled up.
    output: what the function gave for this rank's share of them."""

    images_G: NDArray[np.int64]
    valid_G: NDArray[np.bool_]
    output: T


@dataclass(frozen=True)
class _PassPlan:
    """One rank's part of a pass, without augmentation."""

    sampler: SequentialSampler
    rank: int
    ranks: int

    def __len__(self) -> int:
        return self.sampler.steps

    def indices(self, i: int) -> NDArray[np.int64]:
        return local(self.sampler.indices(i), self.rank, self.ranks)

    def draws(self, i: int) -> NDArray[np.float64]:
        raise AssertionError("nothing is drawn in a pass over a set as it is")


@torch.no_grad()
def each_batch(function: Callable[[Tensor], T], dataset: Dataset, decoding: Decoding, title: str) -> Iterator[Batch[T]]:
    """function(images B x 3 x S x S in [-1, 1]) over the set, B = `decoding.batch_size` images of each rank a batch.

    All ranks must iterate to the end. Progress with rate and time left on rank 0, called `title`.
    """
    ranks, rank = group.world_size(), group.rank()
    sampler = SequentialSampler(len(dataset), decoding.batch_size * ranks)
    pipeline = ImagePipeline(dataset, _PassPlan(sampler, rank, ranks), decoding)
    # Below another bar it goes when it is done.
    with tqdm(total=len(dataset), desc=title, unit="img", disable=rank > 0, mininterval=1, leave=None) as bar:
        for i, images_B3SS in enumerate(pipeline):
            heartbeat.mark("pass over the set")
            valid_G = sampler.positions(i) < len(dataset)
            yield Batch(sampler.indices(i), valid_G, function(images_B3SS))
            bar.update(int(valid_G.sum()))
