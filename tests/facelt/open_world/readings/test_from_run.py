"""τ-normalised and logit-adjusted classifiers against dense twins in float64, at 1, 2 and 3 ranks."""

import numpy as np
import pytest
import torch
from ranks import run_ranks

from facelt.errors import UserError
from facelt.open_world.readings.from_run import logit_adjusted, tau_normalised
from facelt.open_world.readings.reading import ByPrototypes
from facelt.open_world.scoring import Prototypes
from facelt.parallel import group
from facelt.parallel.partition import Partition

K, D, G = 11, 5, 9
COUNTS = np.arange(1, K + 1) ** 2


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(2)
    x, weight = (torch.randn(n, D, generator=g, dtype=torch.float64) for n in (G, K))
    return x, weight * torch.arange(1, K + 1)[:, None], torch.randn(K, generator=g, dtype=torch.float64)


def classifier(cosine: bool) -> ByPrototypes:
    _, weight, bias = inputs()
    partition = Partition(K, group.rank(), group.world_size())
    mine = slice(*partition.bounds())
    return ByPrototypes(
        Prototypes(partition, weight[mine], None if cosine else bias[mine], cosine, block=2), lambda v: v["direct"]
    )


def read(name: str, tau: float, cosine: bool) -> dict[str, torch.Tensor]:
    base = classifier(cosine)
    reading = tau_normalised(base, tau) if name == "tau" else logit_adjusted(base, tau, COUNTS)
    return reading({"direct": inputs()[0]})


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("tau", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("name, cosine", [("tau", False), ("logit_adjusted", False), ("logit_adjusted", True)])
def test_sharded_is_dense(ranks, tau, name, cosine):
    x, weight, bias = inputs()
    norms = weight.norm(dim=1)
    logits = x @ (weight / norms[:, None]).T if cosine else x @ weight.T + bias
    if name == "tau":
        logits = x @ weight.T / norms**tau
    else:
        logits = logits - tau * torch.from_numpy(COUNTS / COUNTS.sum()).log()
    for got in run_ranks(ranks, read, name, tau, cosine):
        np.testing.assert_array_equal(got["class"], logits.argmax(1))
        np.testing.assert_allclose(got["score"], logits.amax(1), rtol=1e-12)
        np.testing.assert_allclose(got["probability"], torch.softmax(logits, 1).amax(1), rtol=1e-12)


def test_what_a_run_lacks_is_refused():
    with pytest.raises(UserError, match="this run's classifier is cosine"):
        tau_normalised(classifier(True), 1)
    with pytest.raises(UserError, match="class 3 has no image in the training set, so no prior"):
        logit_adjusted(classifier(False), 1, np.where(np.arange(K) == 3, 0, 1))
