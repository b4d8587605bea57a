"""Sharded and in blocks = dense, at 1, 2 and 3 ranks."""

import numpy as np
import pytest
import torch
from ranks import run_ranks

from facelt.open_world.scoring import Prototypes
from facelt.parallel import collectives, group
from facelt.parallel.partition import Partition

K, D, G = 11, 5, 9


def inputs(scale: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(2)
    x = scale * torch.randn(G, D, generator=g, dtype=torch.float64)
    return x, torch.randn(K, D, generator=g, dtype=torch.float64), torch.randn(K, generator=g, dtype=torch.float64)


def sharded(cosine: bool, block: int, scale: float) -> list[torch.Tensor]:
    x, w, b = inputs(scale)
    partition = Partition(K, group.rank(), group.world_size())
    mine = slice(*partition.bounds())
    return list(Prototypes(partition, w[mine], None if cosine else b[mine], cosine, block=block).best(x))


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("cosine", [False, True])
@pytest.mark.parametrize("block, scale", [(2, 1.0), (100, 1.0), (3, 1e4)])
def test_sharded_is_dense(ranks, cosine, block, scale):
    x, w, b = inputs(scale)
    logits = x @ (w / w.norm(dim=1, keepdim=True)).T if cosine else x @ w.T + b
    probabilities = torch.softmax(logits, 1)
    for classes, scores, certain in run_ranks(ranks, sharded, cosine, block, scale):
        np.testing.assert_array_equal(classes, logits.argmax(1))
        np.testing.assert_allclose(scores, logits.amax(1), rtol=1e-12)
        np.testing.assert_allclose(certain, probabilities.amax(1), rtol=1e-12)


def ties() -> torch.Tensor:
    partition = Partition(6, group.rank(), group.world_size())
    return Prototypes(partition, torch.ones(partition.size, 2), block=2).best(torch.ones(3, 2)).classes_G


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_of_equals_the_lowest_class(ranks):
    for classes in run_ranks(ranks, ties):
        assert classes.tolist() == [0, 0, 0]


def top(cosine: bool, block: int, count: int) -> list[torch.Tensor]:
    x, w, b = inputs(1.0)
    partition = Partition(K, group.rank(), group.world_size())
    mine = slice(*partition.bounds())
    return list(Prototypes(partition, w[mine], None if cosine else b[mine], cosine, block=block).top(x, count))


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("cosine", [False, True])
@pytest.mark.parametrize("block, count", [(2, 1), (3, 5), (100, 5), (2, K)])
def test_the_best_classes_and_the_rest_are_dense(ranks, cosine, block, count):
    x, w, b = inputs(1.0)
    logits = x @ (w / w.norm(dim=1, keepdim=True)).T if cosine else x @ w.T + b
    ordered, classes = logits.sort(1, descending=True)
    for got_scores, got_classes, rest in run_ranks(ranks, top, cosine, block, count):
        np.testing.assert_allclose(got_scores, ordered[:, :count], rtol=1e-12)
        np.testing.assert_array_equal(got_classes, classes[:, :count])
        np.testing.assert_allclose(rest, ordered[:, count:].logsumexp(1), rtol=1e-12)


def rise(cosine: bool, scale: float) -> torch.Tensor:
    x, w, b = inputs(scale)
    partition = Partition(K, group.rank(), group.world_size())
    mine = slice(*partition.bounds())
    prototypes = Prototypes(partition, w[mine], None if cosine else b[mine], cosine, block=2)
    return collectives.all_sum(prototypes.rise(x, prototypes.best(x)))


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("cosine", [False, True])
@pytest.mark.parametrize("scale", [1e-3, 1.0])
def test_the_rise_is_the_gradient(ranks, cosine, scale):
    x, w, b = inputs(scale)
    x.requires_grad_()
    logits = x @ (w / w.norm(dim=1, keepdim=True)).T if cosine else x @ w.T + b
    (want,) = torch.autograd.grad(torch.log_softmax(logits, 1).amax(1).sum(), x)
    for got in run_ranks(ranks, rise, cosine, scale):
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-12)
