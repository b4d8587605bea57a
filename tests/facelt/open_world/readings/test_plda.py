"""PLDA against the two Gaussians themselves, by scipy, at 1, 2 and 3 ranks."""

import numpy as np
import pytest
import torch
from ranks import run_ranks
from scipy.linalg import eigh
from scipy.stats import multivariate_normal

from facelt.errors import UserError
from facelt.head.whitening import WithinClasses
from facelt.open_world.readings.plda import ByLikelihood
from facelt.parallel import collectives, group
from facelt.parallel.partition import Partition

K, D, RIDGE = 23, 6, 0.5


def people(seed: int, spread: float) -> tuple[np.ndarray, np.ndarray]:
    """Unit rows of K people, one image and more; spread: of people around each other."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(K), rng.integers(1, 9, K))
    rows = (3 + spread * rng.normal(size=(K, D)))[labels] + rng.normal(size=(len(labels), D)) * np.linspace(0.2, 2, D)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True), labels


def asked() -> np.ndarray:
    return 3 + 2 * np.random.default_rng(9).normal(size=(30, D))


def sharded(seed: int, spread: float) -> dict[str, torch.Tensor]:
    rows, labels = people(seed, spread)
    partition = Partition(K, group.rank(), group.world_size())
    mine = range(*partition.bounds())
    means = torch.from_numpy(np.stack([rows[labels == k].mean(0) for k in mine]))
    counts = torch.tensor([int((labels == k).sum()) for k in mine])
    within = WithinClasses(D, torch.device("cpu"))
    within.add(collectives.own_rows(torch.from_numpy(rows)))
    reading = ByLikelihood.of(means, counts, within.result(means, counts), RIDGE, partition)
    return reading({"direct": torch.from_numpy(asked())})


def dense(seed: int, spread: float) -> np.ndarray:
    rows, labels = people(seed, spread)
    means = np.stack([rows[labels == k].mean(0) for k in range(K)])
    counts = np.bincount(labels)
    scatter = sum(np.outer(u - means[k], u - means[k]) for u, k in zip(rows, labels, strict=True)) / (len(rows) - K)
    W = scatter + RIDGE * np.trace(scatter) / D * np.eye(D)
    B = np.cov(means.T) - scatter * (1 / counts).mean()
    ratios, axes = eigh(B, W)  # axesᵀ·W·axes = 1
    back = np.linalg.inv(axes)
    B = back.T @ np.diag(ratios.clip(0)) @ back
    g = means.mean(0)
    x = asked() / np.linalg.norm(asked(), axis=1, keepdims=True)
    unseen = multivariate_normal(g, W + B).logpdf(x)
    believed = [g + B @ np.linalg.solve(B + W / n, c - g) for c, n in zip(means, counts, strict=True)]
    return np.stack([multivariate_normal(m, W).logpdf(x) for m in believed], 1) - unseen[:, None]


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("spread", [2, 0.1])
def test_scores_are_logarithms_of_ratios_of_densities(ranks, spread):
    want = dense(3, spread)
    for got in run_ranks(ranks, sharded, 3, spread):
        np.testing.assert_array_equal(got["class"], want.argmax(1))
        np.testing.assert_allclose(got["score"], want.max(1), rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(got["probability"], torch.from_numpy(want).softmax(1).amax(1), rtol=1e-8)


def test_the_fewer_the_images_the_less_is_believed():
    """A mean of one image lies nearer to the centre of all people than the same mean of many."""
    rows, labels = people(3, 2)
    means = torch.from_numpy(np.stack([rows[labels == k].mean(0) for k in range(K)]))
    within = torch.eye(D, dtype=torch.float64) * 0.01
    counts = torch.full((K,), 5)
    counts[:2] = torch.tensor([1, 1000])
    means[1] = means[0]
    rows_kD = ByLikelihood.of(means, counts, within, RIDGE, Partition(K)).prototypes.weight_kD
    assert rows_kD[0].norm() < 0.99 * rows_kD[1].norm()


def test_where_no_person_varies_it_is_refused():
    means = torch.nn.functional.normalize(torch.randn(4, D, dtype=torch.float64))
    with pytest.raises(UserError, match="plda: no class of the training set has two images that differ"):
        ByLikelihood.of(means, torch.ones(4), torch.zeros(D, D, dtype=torch.float64), 1.0, Partition(4))
