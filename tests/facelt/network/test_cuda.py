"""Batch normalisation by torch's CUDA kernels is that written out.

By `make gpu` on a device; else on the one that is not there, where those kernels are written from their definitions.
"""

import pytest
import torch
from fake_cuda import maybe_fake_cuda, on_host

from facelt.network.batch_norm import FusedBatchNorm, Running, SynchronisedBatchNorm2d

B, C, H, W = 6, 16, 5, 7


def normalise(fused: bool, dtype: torch.dtype, last: bool) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    layer = SynchronisedBatchNorm2d(C).to(torch.float64 if dtype == torch.float64 else torch.float32)
    with torch.no_grad():
        layer.weight.copy_(0.5 + torch.rand(C, generator=generator))
    layer = layer.to("cuda").train()
    layout = torch.channels_last if last else torch.contiguous_format
    x, toward = (torch.randn(B, C, H, W, generator=generator).to(dtype).to("cuda") for _ in range(2))
    x = (3 + x).contiguous(memory_format=layout).requires_grad_()
    if fused:
        assert layer.momentum is not None
        running = Running(layer.running_mean, layer.running_var, layer.momentum, layer.eps)
        y = FusedBatchNorm.apply(x, layer.weight, layer.bias, running)
    else:
        y = layer.written_out(x)
    (y * toward).sum().backward()
    got = {"y": y, "x": x.grad, "weight": layer.weight.grad, "bias": layer.bias.grad}
    got |= {"mean": layer.running_mean, "variance": layer.running_var}
    return {name: tensor.detach().cpu().double() for name, tensor in on_host(got).items()}


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-9), (torch.float32, 1e-4), (torch.bfloat16, 0.05)])
def test_the_kernels_do_what_is_written_out(dtype, tolerance, last):
    with maybe_fake_cuda():
        got, want = normalise(True, dtype, last), normalise(False, dtype, last)
    for name, tensor in want.items():
        torch.testing.assert_close(got[name], tensor, rtol=tolerance, atol=tolerance, msg=name)
