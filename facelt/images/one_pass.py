"""One pass over a whole set, every image once and in order, shared by all ranks."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from facelt.images.dali import ImagePipeline
from facelt.images.sampling import SequentialSampler, local
from facelt.parallel import group
from recordio_tools.dataset import RecordDataset


class Batch(NamedTuple):
    """images_G: numbers of all ranks' images in this step; valid_G: False where the last batch was filled up.
    output: what the function gave for this rank's share of them."""

    images_G: np.ndarray
    valid_G: np.ndarray
    output: Any


@torch.no_grad()
def each_batch(
    function: Callable[[Tensor], Any],
    dataset: RecordDataset,
    image_size: int,
    batch: int,
    device: torch.device,
    threads: int,
    title: str,
) -> Iterator[Batch]:
    """function(images B x 3 x H x W in [-1, 1]) over the set, B = `batch` images of each rank a step.

    All ranks must iterate to the end. Progress with rate and time left on rank 0.
    """
    ranks, rank = group.world_size(), group.rank()
    sampler = SequentialSampler(len(dataset), batch * ranks)
    pipeline = ImagePipeline(
        dataset,
        indices_for=lambda step: local(sampler.indices(step), rank, ranks),
        batch_size=batch,
        image_size=image_size,
        device="gpu" if device.type == "cuda" else "cpu",
        device_id=device.index or 0,
        threads=threads,
        num_steps=sampler.steps,
    )
    with tqdm(total=len(dataset), desc=title, unit="img", disable=rank > 0, mininterval=1) as bar:
        for step, (images_B3HW, _) in enumerate(pipeline):
            valid_G = sampler.positions(step) < len(dataset)
            yield Batch(sampler.indices(step), valid_G, function(images_B3HW.to(device)))
            bar.update(int(valid_G.sum()))
