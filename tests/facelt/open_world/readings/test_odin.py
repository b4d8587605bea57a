"""ODIN against plain autograd on a dense classifier in float64, at 1, 2 and 3 ranks."""

import numpy as np
import pytest
import torch
from ranks import run_ranks

from facelt.features.recognisers import Recognised, Recogniser
from facelt.open_world.readings.odin import with_odin
from facelt.open_world.readings.reading import ByPrototypes
from facelt.open_world.scoring import Prototypes
from facelt.parallel import collectives, group
from facelt.parallel.partition import Partition

K, D, G, SIDE = 7, 5, 6, 4
STD = (100.0, 50.0, 127.5)


def parts() -> tuple[torch.Tensor, ...]:
    g = torch.Generator().manual_seed(3)
    shapes = ((G, 3, SIDE, SIDE), (3 * SIDE * SIDE, D), (K, D), (K,))
    return tuple(torch.randn(*shape, generator=g, dtype=torch.float64) for shape in shapes)


def embed(images: torch.Tensor) -> torch.Tensor:
    return torch.tanh(images.flatten(1) @ parts()[1] / 3)


def sharded(cosine: bool, temperature: float, epsilon: float) -> list[torch.Tensor]:
    images, _, weight, bias = parts()
    partition = Partition(K, group.rank(), group.world_size())
    mine = slice(*partition.bounds())
    prototypes = Prototypes(partition, weight[mine], None if cosine else bias[mine], cosine, block=2)
    classifier = ByPrototypes(prototypes, lambda v: 3 * v["direct"])
    plain = Recogniser(lambda x: Recognised([embed(x)], {"known": x.sum((1, 2, 3))}), SIDE, {}, std=STD)
    recogniser = with_odin(plain, classifier, temperature, epsilon)
    with torch.no_grad():
        output = recogniser.embed(collectives.own_rows(images))
    assert not output.features[0].requires_grad
    return [collectives.gather(part) for part in (output.columns["odin"], output.features[0], output.columns["known"])]


def dense(cosine: bool, temperature: float, epsilon: float) -> torch.Tensor:
    images, _, weight, bias = parts()
    weight = weight / weight.norm(dim=1, keepdim=True) if cosine else weight

    def softmax(x: torch.Tensor) -> torch.Tensor:
        logits = 3 * embed(x) @ weight.T + (0 if cosine else bias)
        return torch.softmax(logits / temperature, 1).amax(1)

    x = images.clone().requires_grad_()
    (slope,) = torch.autograd.grad(softmax(x).log().sum(), x)
    step = epsilon * 255 / torch.tensor(STD, dtype=torch.float64)[:, None, None]
    return softmax(images + step * slope.sign())


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("cosine", [False, True])
@pytest.mark.parametrize("temperature, epsilon", [(1000, 0.0014), (1, 0.1), (10, 0)])
def test_sharded_is_dense(ranks, cosine, temperature, epsilon):
    want = dense(cosine, temperature, epsilon)
    for odin, features, known in run_ranks(ranks, sharded, cosine, temperature, epsilon):
        np.testing.assert_allclose(odin, want, rtol=1e-12)
        np.testing.assert_allclose(features, embed(parts()[0]), rtol=1e-12)
        np.testing.assert_allclose(known, parts()[0].sum((1, 2, 3)), rtol=1e-12)


def test_the_step_raises_the_softmax():
    assert (dense(False, 1, 1e-5) > dense(False, 1, 0)).all()
