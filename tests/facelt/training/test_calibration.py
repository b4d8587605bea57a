"""Temperature and threshold against every image scored without itself, one by one, in float64."""

import math

import numpy as np
import pytest
import torch
from ranks import run_ranks

from facelt.errors import UserError
from facelt.parallel import group
from facelt.parallel.partition import Partition
from facelt.training import calibration
from facelt.training.calibration import ACCEPTED, TEMPERATURES, Calibration, calibrate

K, D = 7, 4
COUNTS = [5, 1, 4, 1, 3, 2, 6]


def images(spread: float) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(5)
    y = torch.repeat_interleave(torch.arange(K), torch.tensor(COUNTS))
    centres = torch.randn(K, D, generator=g, dtype=torch.float64)
    f = centres[y] + spread * torch.randn(len(y), D, generator=g, dtype=torch.float64)
    return torch.nn.functional.normalize(f), y


def sharded(spread: float) -> Calibration:
    f, y = images(spread)
    partition = Partition(K, group.rank(), group.world_size())
    mine = slice(*partition.bounds())
    means = torch.stack([f[y == k].mean(0) for k in range(K)])
    return calibrate(f, y, means[mine], torch.tensor(COUNTS)[mine], partition)


def one_by_one(spread: float) -> Calibration:
    f, y = (tensor.numpy() for tensor in images(spread))
    rows = []
    for i in range(len(f)):
        if COUNTS[y[i]] == 1:
            continue
        others = np.arange(len(f)) != i
        means = np.stack([f[(y == k) & others].mean(0) for k in range(K)])
        rows.append((means @ f[i] / np.linalg.norm(means, axis=1), y[i]))
    losses = [sum(math.log(np.exp(t * cos).sum()) - t * cos[k] for cos, k in rows) for t in TEMPERATURES]
    threshold = np.quantile([cos.max() for cos, _ in rows], 1 - ACCEPTED)
    return Calibration(TEMPERATURES[int(np.argmin(losses))], float(threshold))


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("spread", [0.5, 0.8])
def test_against_images_one_by_one(ranks, spread, monkeypatch):
    monkeypatch.setattr(calibration, "PART", 4)
    want = one_by_one(spread)
    for got in run_ranks(ranks, sharded, spread):
        assert got.temperature == want.temperature
        assert got.threshold == pytest.approx(want.threshold, rel=1e-12)


def test_noisier_images_want_a_lower_temperature():
    assert one_by_one(0.8).temperature < one_by_one(0.5).temperature


def test_no_class_with_two_images():
    partition = Partition(3, 0, 1)
    rows = torch.eye(3)
    with pytest.raises(UserError, match="no class of the training set has two images"):
        calibrate(rows, torch.arange(3), rows, torch.ones(3, dtype=torch.int64), partition)
