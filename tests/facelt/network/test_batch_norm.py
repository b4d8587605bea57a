"""Synchronised batch normalisation over ranks is torch's own over the whole batch: outputs, gradients, statistics."""

import numpy as np
import pytest
import torch
from ranks import run_ranks

from facelt.network.batch_norm import FrozenBatchNorm2d, SynchronisedBatchNorm2d
from facelt.parallel import group

B, C = 12, 3


def data() -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    x = 100 + torch.randn(B, C, 2, 5, generator=g, dtype=torch.float64)  # a mean far from zero, where sums cancel
    return x, torch.randn(B, C, 2, 5, generator=g, dtype=torch.float64)


def normalise(kind: type) -> dict:
    ranks, rank = group.world_size(), group.rank()
    layer = kind(C).double().train()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([0.5, 1.0, 2.0]))
        layer.bias.copy_(torch.tensor([0.1, 0.2, 0.3]))
    x, toward = (t.tensor_split(ranks)[rank] for t in data())
    x = x.clone().requires_grad_()
    y = layer(x)
    (y * toward).sum().backward()
    statistics = [layer.running_mean, layer.running_var, layer.num_batches_tracked]
    return {"y": y, "x": x.grad, "weight": layer.weight.grad, "bias": layer.bias.grad, "statistics": statistics}


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_is_torchs_over_the_whole_batch(ranks):
    (want,) = run_ranks(1, normalise, torch.nn.BatchNorm2d)
    got = run_ranks(ranks, normalise, SynchronisedBatchNorm2d)
    for name in ("y", "x"):
        np.testing.assert_allclose(np.concatenate([g[name] for g in got]), want[name], rtol=1e-8, atol=1e-9)
    for name in ("weight", "bias"):
        np.testing.assert_allclose(sum(g[name] for g in got), want[name], rtol=1e-9, atol=1e-9)
    for mine, theirs in zip(got[-1]["statistics"], want["statistics"], strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-10)


def test_frozen_statistics_do_not_move_in_training():
    layer = FrozenBatchNorm2d(C).train()
    layer.running_mean.fill_(2.0)
    layer.running_var.fill_(4.0)
    x = torch.randn(4, C, 2, 2)
    torch.testing.assert_close(layer(x), (x - 2) / (4 + layer.eps) ** 0.5)
    assert layer.running_mean.eq(2).all()
    assert layer.running_var.eq(4).all()
    assert layer.num_batches_tracked == 0
