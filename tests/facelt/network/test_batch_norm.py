"""Synchronised batch normalisation over ranks is torch's own over the whole batch: outputs, gradients, statistics."""

import numpy as np
import pytest
import torch
from fake_cuda import counted, fake_cuda, on_host
from ranks import run_ranks

from facelt.network.batch_norm import FrozenBatchNorm2d, SynchronisedBatchNorm2d
from facelt.parallel import group

B, C = 12, 3


def data() -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    x = 100 + torch.randn(B, C, 2, 5, generator=g, dtype=torch.float64)  # a mean far from zero, where sums cancel
    return x, torch.randn(B, C, 2, 5, generator=g, dtype=torch.float64)


def normalise(kind: type, device: str = "cpu", dtype: torch.dtype = torch.float64, last: bool = False) -> dict:
    ranks, rank = group.world_size(), group.rank()
    layer = kind(C).to(torch.float64 if dtype == torch.float64 else torch.float32).train()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([0.5, 1.0, 2.0]))
        layer.bias.copy_(torch.tensor([0.1, 0.2, 0.3]))
    layer = layer.to(device)
    layout = torch.channels_last if last else torch.contiguous_format
    x, toward = (t.tensor_split(ranks)[rank].to(dtype).to(device).contiguous(memory_format=layout) for t in data())
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


def faked(dtype: torch.dtype, last: bool) -> dict:
    with fake_cuda():
        with counted() as tally:
            got = on_host(normalise(SynchronisedBatchNorm2d, "cuda", dtype, last))
        assert tally.kernels["batch_norm_elemt"] == tally.kernels["batch_norm_backward_elemt"] == 1
    return {name: [x.double() for x in part] if isinstance(part, list) else part.double() for name, part in got.items()}


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("last", [False, True])
def test_by_torchs_kernels_it_is_the_same(ranks, last):
    """Those kernels are there on CUDA alone: what stands in for them here is written from their definitions."""
    (want,) = run_ranks(1, normalise, torch.nn.BatchNorm2d)
    got = run_ranks(ranks, faked, torch.float64, last)
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
