"""Class means over ranks by hand; the read at its numerical edges."""

import numpy as np
import pytest
import torch
from ranks import run_ranks

from facelt import comms
from facelt.class_means import ClassMeans
from facelt.memory import CentroidMemory
from facelt.partition import Partition

K, N, D, STEP = 5, 23, 3, 6


def means(drop: int | None) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(N, D, generator=generator, dtype=torch.float64)
    labels = torch.arange(N) % K
    if drop is not None:
        labels[labels == drop] = 0
    ranks, rank = comms.world_size(), comms.rank()
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


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e4])
@pytest.mark.parametrize("classes", [1, 7])
def test_the_read_is_finite_at_extreme_scores(scale, classes):
    memory = CentroidMemory(Partition(classes), D, centroid_gradient=True, block=2)
    torch.nn.init.normal_(memory.centroids)
    torch.nn.init.normal_(memory.hallucinator_weight, std=scale)
    features = torch.cat([torch.randn(4, D), memory.centroids[:1].detach(), torch.zeros(1, D)]).requires_grad_()
    read, nearest = memory.read(features)
    (read.sum() + nearest.sum()).backward()
    assert read.isfinite().all()
    torch.testing.assert_close(nearest[4], memory.centroids[0])
    for tensor in (features, memory.centroids, memory.hallucinator_weight, memory.hallucinator_bias):
        assert tensor.grad.isfinite().all()
    low, high = memory.centroids.amin(0), memory.centroids.amax(0)
    assert ((read >= low - 1e-5) & (read <= high + 1e-5)).all()  # an average of centroids
