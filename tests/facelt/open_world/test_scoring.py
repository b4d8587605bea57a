"""Sharded and in blocks = dense, at 1, 2 and 3 ranks."""

import numpy as np
import pytest
import torch
from ranks import run_ranks

from facelt.open_world.scoring import Prototypes
from facelt.parallel import group
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
