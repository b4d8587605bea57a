"""Covariance within classes and the map that evens it, against numpy, at 1, 2 and 3 ranks."""

import numpy as np
import pytest
import torch
from ranks import run_ranks

from facelt.head.whitening import WithinClasses, whitening
from facelt.parallel import group
from facelt.parallel.partition import Partition

K, D, N = 7, 4, 60


def rows() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = np.concatenate([np.arange(K), rng.integers(0, K - 1, N - K)])
    return rng.normal(size=(N, D)) * [1, 2, 3, 0.5] + rng.normal(size=(K, D))[labels], labels


def sharded() -> torch.Tensor:
    x, labels = rows()
    partition = Partition(K, group.rank(), group.world_size())
    own = slice(*partition.bounds())
    means, counts = torch.from_numpy(class_means()[own]), torch.from_numpy(np.bincount(labels)[own])
    within = WithinClasses(D, torch.device("cpu"))
    for part in np.array_split(x[group.rank() :: group.world_size()], 3):
        within.add(torch.from_numpy(part))
    return within.result(means, counts)


def class_means() -> np.ndarray:
    x, labels = rows()
    return np.stack([x[labels == k].mean(0) for k in range(K)])


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_covariance_within_classes(ranks):
    x, labels = rows()
    about = x - class_means()[labels]
    for got in run_ranks(ranks, sharded):
        np.testing.assert_allclose(got, about.T @ about / (N - K), rtol=1e-10)


def test_whole_whitening_leaves_every_direction_alike():
    S = sharded().numpy()
    W = whitening(torch.from_numpy(S), 1, 1e-12).numpy()
    after = W @ S @ W.T
    np.testing.assert_allclose(after, after[0, 0] * np.eye(D), atol=1e-8)
    assert W.trace() == pytest.approx(D)


@pytest.mark.parametrize("power, ridge", [(0.5, 0.3), (1, 1)])
def test_the_map_by_its_square(power, ridge):
    S = sharded().numpy()
    W = whitening(torch.from_numpy(S), power, ridge).numpy()
    np.testing.assert_allclose(W, W.T, atol=1e-12)
    # W^(-2/power) is S + ridge·s·I, up to the factor that gives W its trace.
    variance, axes = np.linalg.eigh(W)
    got = axes * variance ** (-2 / power) @ axes.T
    want = S + ridge * np.trace(S) / D * np.eye(D)
    np.testing.assert_allclose(got / got.trace(), want / want.trace(), atol=1e-10)


def test_nothing_is_whitened_where_nothing_varies():
    labels = torch.arange(3)
    within = WithinClasses(2, torch.device("cpu"))
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    within.add(x)
    covariance = within.result(x, torch.ones_like(labels))
    assert torch.equal(whitening(covariance.clamp(max=0), 0.5, 0.3), torch.eye(2, dtype=torch.float64))
    torch.testing.assert_close(whitening(torch.eye(3).double(), 0, 0.3), torch.eye(3).double())
