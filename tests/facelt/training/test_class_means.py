"""Class means over ranks by hand; a class without images is named."""

import numpy as np
import pytest
import torch
from ranks import run_ranks

from facelt.parallel import group
from facelt.parallel.partition import Partition
from facelt.training.class_means import ClassMeans

K, N, D, STEP = 5, 23, 3, 6


def means(drop: int | None) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(N, D, generator=generator, dtype=torch.float64)
    labels = torch.arange(N) % K
    if drop is not None:
        labels[labels == drop] = 0
    ranks, rank = group.world_size(), group.rank()
    sums = ClassMeans(Partition(K, rank, ranks), D, features)
    for first in range(0, N, STEP):
        images = torch.arange(first, first + STEP)
        valid, images = images < N, images.clamp(max=N - 1)
        mine = images[rank * STEP // ranks : (rank + 1) * STEP // ranks]
        sums.add(features[mine], labels[images], valid)
    return sums.result()


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_class_means_at_any_number_of_ranks(ranks):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(N, D, generator=generator, dtype=torch.float64).numpy()
    want = np.stack([features[np.arange(N) % K == k].mean(0) for k in range(K)])
    np.testing.assert_allclose(np.concatenate(run_ranks(ranks, means, None)), want, rtol=1e-12)


def failing(drop: int) -> str:
    with pytest.raises(ValueError, match="has no image") as caught:
        means(drop)
    return str(caught.value)


@pytest.mark.parametrize("ranks", [1, 3])
def test_a_class_without_images_is_named_on_every_rank(ranks):
    assert all(answer.startswith("class 3 has no image") for answer in run_ranks(ranks, failing, 3))
