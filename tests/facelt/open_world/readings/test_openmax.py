"""OpenMax against its algorithm in plain loops and float64, at 1, 2 and 3 ranks; classes that have no tail."""

import numpy as np
import pytest
import torch
from ranks import run_ranks
from scipy.stats import weibull_min

from facelt.errors import UserError
from facelt.open_world.readings.openmax import OpenMax, TailCollector, fit_tail
from facelt.open_world.readings.reading import ByPrototypes
from facelt.open_world.scoring import Prototypes
from facelt.parallel import group
from facelt.parallel.partition import Partition

K, D, TAIL = 7, 4, 6


def training() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows, labels, classifier and bias: class 5 has two images, class 6 none that is named rightly."""
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(K, D)) * 2
    bias = np.where(np.arange(K) == 6, -100.0, 0.3 * rng.normal(size=K))
    labels = np.concatenate([rng.integers(0, 5, 100), [5, 5, 6, 6, 6]])
    rows = (weight[labels] + 0.6 * rng.normal(size=(len(labels), D))).astype(np.float32)  # as they wait on the disk
    return torch.from_numpy(rows).double(), torch.from_numpy(labels), torch.from_numpy(weight), torch.from_numpy(bias)


def asked() -> torch.Tensor:
    g = torch.Generator().manual_seed(1)
    return torch.cat([training()[0][:8], 3 * torch.randn(12, D, generator=g, dtype=torch.float64)])


def collected() -> TailCollector:
    rows, labels, weight, bias = training()
    partition = Partition(K, group.rank(), group.world_size())
    mine = slice(*partition.bounds())
    tails = TailCollector(ByPrototypes(Prototypes(partition, weight[mine], bias[mine], block=2), lambda v: v["direct"]))
    filling = torch.where(torch.arange(18) < 15, 1, -1)  # rows that do not count
    for start in range(0, len(rows), 15):
        batch, named = rows[start : start + 15], labels[start : start + 15]
        padded = torch.cat([batch, batch[:1].expand(18 - len(batch), -1)])
        counted = torch.cat([named, torch.full((18 - len(named),), -1)]).where(filling > 0, -1)
        tails.add({"direct": padded}, counted)
    return tails


def sharded(alpha: int) -> dict[str, torch.Tensor]:
    tails = collected()
    return OpenMax(tails.classifier, tails.fit(TAIL), alpha)({"direct": asked()})


def by_hand(alpha: int) -> list[tuple[int, float, float]]:
    """(best known class, its probability, log odds of being known) of each image."""
    rows, labels, weight, bias = (part.numpy() for part in training())
    said = (rows @ weight.T + bias).argmax(1)
    means, fits = {}, {}
    for k in range(K):
        right = rows[(labels == k) & (said == k)]
        means[k] = (right if len(right) else rows[labels == k]).mean(0)
        distances = sorted(np.linalg.norm(right - means[k], axis=1))[-TAIL:]
        if len(distances) >= 3:
            shape, _, scale = weibull_min.fit(distances, floc=0)
            fits[k] = (shape, scale)
    assert sorted(fits) == [0, 1, 2, 3, 4]
    for k in (5, 6):
        fits[k] = tuple(np.median([fits[j] for j in range(5)], axis=0))
    answers = []
    for x in asked().numpy():
        logits = weight @ x + bias
        revised, unknown = logits.copy(), 0.0
        for i, k in enumerate(np.argsort(-logits)[:alpha], start=1):
            w = weibull_min.cdf(np.linalg.norm(x - means[k]), fits[k][0], scale=fits[k][1])
            revised[k] = logits[k] * (1 - (alpha + 1 - i) / alpha * w)
            unknown += logits[k] - revised[k]
        known = np.exp(revised).sum()
        best, total = int(revised.argmax()), known + np.exp(unknown)
        p = np.exp(revised[best]) / total
        answers.append((best, p if revised[best] >= unknown else -1.0, np.log(known) - unknown))
    return answers


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("alpha", [1, 3, K])
def test_sharded_is_the_algorithm_by_hand(ranks, alpha):
    classes, probabilities, known = zip(*by_hand(alpha), strict=True)
    assert min(probabilities) == -1 < max(probabilities)  # some are rejected
    for got in run_ranks(ranks, sharded, alpha):
        np.testing.assert_array_equal(got["class"], classes)
        np.testing.assert_allclose(got["probability"], probabilities, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(got["known"], known, rtol=1e-3, atol=1e-3)


def test_more_classes_than_there_are_is_all_of_them():
    for one, other in zip(sharded(K).values(), sharded(100).values(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_tail_that_cannot_be_told():
    for distances in ([], [1.0, 2.0], [1.0, 1.0, 1.0], [0.0, 1.0, 2.0]):
        assert np.isnan(fit_tail(np.array(distances))).all()
    rng = np.random.default_rng(0)
    shape, scale = fit_tail(np.sort(weibull_min.rvs(4.0, scale=2.0, size=2000, random_state=rng)))
    assert (shape, scale) == (pytest.approx(4, rel=0.1), pytest.approx(2, rel=0.1))


def test_a_run_without_any_tail_is_refused():
    rows, labels, weight, bias = training()
    tails = TailCollector(ByPrototypes(Prototypes(Partition(K), -weight, bias), lambda v: v["direct"]))
    tails.add({"direct": rows}, labels)
    with pytest.raises(UserError, match="no class has 3 training images that the classifier names rightly"):
        tails.fit(TAIL)
