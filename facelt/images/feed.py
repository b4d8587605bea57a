"""What a stage is fed: micro-batches of images with their labels, the same at any number of ranks.

B: images of this rank in a micro-batch, G: of all ranks, S: side of the images.
"""

import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from facelt.config import FaceltConfig, StageConfig
from facelt.errors import UserError, one_line
from facelt.images.dali import DRAWS, NOTHING, Decoding, ImagePipeline, Unreadable
from facelt.images.sampling import (
    ClassAwareSampler,
    DeferredSampler,
    Sampler,
    UniformSampler,
    augmentation_seeds,
    local,
    stand_ins,
    step_seed,
    uniforms,
)
from facelt.parallel import collectives, heartbeat
from facelt.parallel.partition import Partition
from recordio_tools.dataset import RecordDataset

KEPT = 8  # global batches that are remembered: more than decoding runs ahead


class MicroBatch(NamedTuple):
    """images_B3SS: of this rank, on the device. labels_G: classes of all ranks' images, as they were taken, there too.

    seed: of what a head draws; the same on all ranks.
    """

    images_B3SS: Tensor
    labels_G: Tensor
    seed: int


@dataclass(frozen=True, kw_only=True)
class RankPlan:
    """One rank's part of every global batch, micro-batch after micro-batch: the plan of an `ImagePipeline`.

    sampler: gives the images of a step's global batch. labels: of the set. seed: of augmentation, and of what stands in
    for images that do not decode. rank, ranks: whose part, of how many.
    micro_batches: of one step. first_step, steps: the first step that is asked for, and one past the last.
    """

    sampler: Sampler
    labels: NDArray[np.int64]
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

    def instead(self, i: int, at: int) -> Iterator[int]:
        """Images that may stand in for one of them, see `sampling.stand_ins`: the same at any number of ranks."""
        step, part = self._place(i)
        position = int(self._own(np.arange(self.sampler.global_batch), part)[at])
        return stand_ins(self.labels, int(self.indices(i)[at]), self.seed, step, position)

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

    plan: this rank's part. config: image size, augmentation and threads. unreadable: see `ImagePipeline`.
    waited: seconds that steps have waited for images since the start.
    """

    def __init__(
        self,
        dataset: RecordDataset,
        plan: RankPlan,
        config: FaceltConfig,
        device: torch.device,
        unreadable: Unreadable | None = None,
    ) -> None:
        self.dataset, self.plan, self.device = dataset, plan, device
        self.partition = Partition(dataset.num_classes, plan.rank, plan.ranks)
        size = plan.sampler.global_batch // (plan.micro_batches * plan.ranks)
        decoding = Decoding.of(config, size, device)
        self._images = ImagePipeline(dataset, plan, decoding, config.augment, unreadable).batches()
        self.waited = 0.0
        self._lost: set[int] = set()  # classes that others stand in for

    def step(self, step: int) -> Iterator[MicroBatch]:
        """The micro-batches of a step; steps are asked for in order, from the plan's first on.

        What ends the run is said in one line by this rank: an image that does not decode, where none may stand in for
        it, or too many of them; a file that was cut short.
        """
        first = (step - self.plan.first_step) * self.plan.micro_batches
        for part in range(self.plan.micro_batches):
            heartbeat.mark("data", step)
            since = time.monotonic()
            with one_line("facelt.train", every_rank=True):
                self.dataset.check_whole()
                indices_B, images_B3SS = next(self._images)
                labels_B = self._labels(indices_B, self.plan.indices(first + part))
            self.waited += time.monotonic() - since
            # As they were taken: a class that no image is left of has another in its place, known to this rank alone.
            labels_G = torch.from_numpy(labels_B)
            if self.plan.ranks > 1:
                labels_G = collectives.gather(labels_G.to(self.device)).cpu()
            labels_G = self.partition.place(labels_G, self.device)
            yield MicroBatch(images_B3SS, labels_G, step_seed(self.plan.seed, step, part))

    def _labels(self, indices_B: NDArray[np.int64], wanted_B: NDArray[np.int64]) -> NDArray[np.int64]:
        """Classes of the images that were taken. Says once of a class that none of its images decodes."""
        if (indices_B == NOTHING).any():
            raise UserError(f"{self.dataset.folder}: none of its images decodes; give another set")
        labels_B, wanted_B = self.plan.labels[indices_B], self.plan.labels[wanted_B]
        for was, now in zip(wanted_B[labels_B != wanted_B], labels_B[labels_B != wanted_B], strict=True):
            if int(was) not in self._lost:
                self._lost.add(int(was))
                text = f"warning: no image of class {was} decodes; images of others, now of {now}, stand in for it"
                tqdm.write(f"facelt.train: {text}", file=sys.stderr)
        return labels_B
