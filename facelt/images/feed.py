"""What a stage is fed: micro-batches of images with their labels, the same at any number of ranks.

B: images of this rank in a micro-batch, G: of all ranks, S: side of the images.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facelt.config import FaceltConfig, StageConfig
from facelt.errors import one_line
from facelt.images.dali import DRAWS, Decoding, ImagePipeline
from facelt.images.sampling import (
    ClassAwareSampler,
    DeferredSampler,
    Sampler,
    UniformSampler,
    augmentation_seeds,
    local,
    step_seed,
    uniforms,
)
from facelt.parallel import heartbeat
from facelt.parallel.partition import Partition
from recordio_tools.dataset import RecordDataset

KEPT = 8  # global batches that are remembered: more than decoding runs ahead


class MicroBatch(NamedTuple):
    """images_B3SS: of this rank, on the device. labels_G: classes of all ranks' images, there too.

    seed: of what a head draws; the same on all ranks.
    """

    images_B3SS: Tensor
    labels_G: Tensor
    seed: int


@dataclass(frozen=True, kw_only=True)
class RankPlan:
    """One rank's part of every global batch, micro-batch after micro-batch: the plan of an `ImagePipeline`.

    sampler: gives the images of a step's global batch. seed: of augmentation. rank, ranks: whose part, of how many.
    micro_batches: of one step. first_step, steps: the first step that is asked for, and one past the last.
    """

    sampler: Sampler
    seed: int
    rank: int
    ranks: int
    micro_batches: int
    first_step: int
    steps: int

    def __len__(self) -> int:
        return (self.steps - self.first_step) * self.micro_batches

    def indices(self, i: int) -> NDArray[np.int64]:
        """Images of this rank in micro-batch i, counted from the first step: int64 of shape B."""
        step, part = self._place(i)
        return self._own(self.batch(step), part)

    @cached_property
    def batch(self) -> Callable[[int], NDArray[np.int64]]:
        """The images of a step's global batch: int64 of shape G, found once for all that ask for it, and to be read
        alone. Decoding asks ahead of the step by the batches that it is ahead."""
        return lru_cache(maxsize=KEPT)(self.sampler.indices)

    def draws(self, i: int) -> NDArray[np.float64]:
        """What augmentation draws for them: B x DRAWS numbers in [0, 1)."""
        step, part = self._place(i)
        seeds = augmentation_seeds(self.seed, step, self.sampler.global_batch)
        return uniforms(self._own(seeds, part), DRAWS)

    def _place(self, i: int) -> tuple[int, int]:
        step, part = divmod(i, self.micro_batches)
        return self.first_step + step, part

    def _own(self, batch: NDArray, part: int) -> NDArray:
        return local(batch.reshape(self.micro_batches, -1)[part], self.rank, self.ranks, self.sampler.group)


def make_sampler(knobs: StageConfig, dataset: RecordDataset, global_batch: int, seed: int) -> Sampler:
    """The order of a stage's images. Raises UserError where the set or the batch does not suit its sampler."""
    uniform = UniformSampler(dataset.labels, global_batch, seed)
    if knobs.sampler == "uniform":
        return uniform
    by_class = ClassAwareSampler(dataset.labels, global_batch, seed, knobs.images_per_class, dataset.num_classes)
    if not knobs.class_aware_from:
        return by_class
    return DeferredSampler(uniform, by_class, math.ceil(knobs.class_aware_from * len(dataset) / global_batch))


class Feed:
    """The micro-batches of a stage from a step on. All ranks iterate alike.

    plan: this rank's part. config: image size, augmentation and threads.
    """

    def __init__(self, dataset: RecordDataset, plan: RankPlan, config: FaceltConfig, device: torch.device) -> None:
        self.plan, self.device, self.labels = plan, device, torch.from_numpy(dataset.labels)
        self.partition = Partition(dataset.num_classes, plan.rank, plan.ranks)
        size = plan.sampler.global_batch // (plan.micro_batches * plan.ranks)
        self._images = iter(ImagePipeline(dataset, plan, Decoding.of(config, size, device), config.augment))

    def step(self, step: int) -> Iterator[MicroBatch]:
        """The micro-batches of a step; steps are asked for in order, from the plan's first on.

        An image of this rank that does not decode ends the run in one line.
        """
        parts = self.plan.batch(step).reshape(self.plan.micro_batches, -1)
        for part, indices_G in enumerate(parts):
            heartbeat.mark("data", step)
            with one_line("facelt.train", every_rank=True):
                images_B3SS = next(self._images)
            labels_G = self.partition.place(self.labels[indices_G], self.device)
            yield MicroBatch(images_B3SS, labels_G, step_seed(self.plan.seed, step, part))
