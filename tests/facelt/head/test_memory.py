"""The read at its numerical edges, at any precision of its products; a memory that follows its classes."""

import numpy as np
import pytest
import torch
from ranks import run_ranks

from facelt.head.blocked import Pairs
from facelt.head.memory import CentroidMemory
from facelt.parallel import group
from facelt.parallel.partition import Partition

D = 3


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


@pytest.mark.parametrize("retrieval", ["hallucinator", "cosine"])
@pytest.mark.parametrize("classes", [1, 3])
def test_a_read_without_its_own_class_is_finite_even_when_that_is_the_only_one(retrieval, classes):
    memory = CentroidMemory(Partition(classes), D, retrieval=retrieval, centroid_gradient=True, block=2)
    torch.nn.init.normal_(memory.centroids)
    features, temperature = torch.randn(4, D, requires_grad=True), torch.tensor([9.0], requires_grad=True)
    rows, own = torch.arange(4), torch.zeros(4, dtype=torch.int64)
    read, _ = memory.read(features, temperature, Pairs(rows, own))
    read.sum().backward()
    if classes == 1:
        assert torch.equal(read, torch.zeros(4, D))
    else:
        others = memory.centroids[1:].detach()
        assert ((read >= others.amin(0) - 1e-5) & (read <= others.amax(0) + 1e-5)).all()
    assert features.grad.isfinite().all()
    assert memory.centroids.grad.isfinite().all()


@pytest.mark.parametrize("retrieval", ["hallucinator", "cosine"])
def test_bfloat16_products_are_finite_and_near_those_of_float32(retrieval):
    torch.manual_seed(0)
    exact, rounded = (
        CentroidMemory(Partition(500), 64, retrieval=retrieval, products=p) for p in (None, torch.bfloat16)
    )
    for parameter in exact.parameters():
        torch.nn.init.normal_(parameter)
    rounded.load_state_dict(exact.state_dict())
    grads = []
    start = torch.randn(64, 64)
    for memory in (exact, rounded):
        features = start.clone().requires_grad_()
        read, nearest = memory.read(features, torch.tensor([4.0]))
        assert read.dtype == torch.float32
        (read.square().sum() + nearest.sum()).backward()
        grads.append((read.detach(), features.grad))
    for one, other in zip(*grads, strict=True):
        assert other.isfinite().all()
        assert torch.nn.functional.cosine_similarity(one.flatten(), other.flatten(), 0) > 0.99
        assert not torch.equal(one, other) or not torch.cpu._is_amx_tile_supported()  # others do not round


def follow(momentum: float) -> torch.Tensor:
    partition = Partition(7, group.rank(), group.world_size())
    memory = CentroidMemory(partition, 2)
    with torch.no_grad():
        memory.centroids.copy_(torch.arange(14.0).view(7, 2)[slice(*partition.bounds())])
    memory.follow(torch.tensor([[2.0, 4.0], [4.0, 8.0], [1.0, 1.0]]), torch.tensor([5, 5, 0]), momentum)
    return memory.centroids


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("momentum", [0.0, 0.75, 1.0])
def test_centroids_follow_the_means_of_their_classes(ranks, momentum):
    want = np.arange(14.0).reshape(7, 2)
    want[5] += (1 - momentum) * (np.array([3.0, 6.0]) - want[5])
    want[0] += (1 - momentum) * (np.array([1.0, 1.0]) - want[0])
    np.testing.assert_allclose(np.concatenate(run_ranks(ranks, follow, momentum)), want, rtol=1e-6)


def nearest_of_equals() -> torch.Tensor:
    """Seven centroids, of which those of classes 2, 3 and 6 are equal and nearest: at 3 ranks each has one of them."""
    partition = Partition(7, group.rank(), group.world_size())
    memory = CentroidMemory(partition, 2, centroid_gradient=True, block=2)
    whole = torch.full((7, 2), 5.0)
    whole[[2, 3, 6]] = torch.tensor([1.0, 2.0])
    with torch.no_grad():
        memory.centroids.copy_(whole[slice(*partition.bounds())])
        memory.hallucinator_weight.zero_()
    _, nearest = memory.read(torch.ones(6, 2))
    nearest.sum().backward()
    return torch.cat([nearest.detach(), memory.centroids.grad])


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_of_equally_near_centroids_that_of_the_lowest_class_counts(ranks):
    answers = [np.split(got, [6 // ranks]) for got in run_ranks(ranks, nearest_of_equals)]
    np.testing.assert_array_equal(np.concatenate([nearest for nearest, _ in answers]), [[1, 2]] * 6)
    gradient = np.zeros((7, 2))
    gradient[2] = 6
    np.testing.assert_array_equal(np.concatenate([got for _, got in answers]), gradient)


def retrieved(retrieval: str) -> torch.Tensor:
    partition = Partition(7, group.rank(), group.world_size())
    memory = CentroidMemory(partition, 2, retrieval=retrieval, block=2)
    angles = torch.arange(7) * 0.8
    rows = torch.stack([angles.cos(), angles.sin()], 1)[slice(*partition.bounds())]
    with torch.no_grad():
        memory.centroids.copy_(rows)
        if retrieval == "hallucinator":
            memory.hallucinator_weight.copy_(-rows)
    queries = torch.tensor([0.1, 1.7, 4.7])
    return memory.retrieved(torch.stack([queries.cos(), queries.sin()], 1), torch.tensor([5.0]))


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_the_class_that_weighs_most_is_found_on_all_ranks(ranks):
    assert all(got.tolist() == [0, 2, 6] for got in run_ranks(ranks, retrieved, "cosine"))
    opposite = [int(np.argmin(np.cos(np.arange(7) * 0.8 - q))) for q in (0.1, 1.7, 4.7)]
    assert all(got.tolist() == opposite for got in run_ranks(ranks, retrieved, "hallucinator"))
