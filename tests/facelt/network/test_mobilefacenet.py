"""MobileFaceNet: its map, what of it keeps its input, and checkpointing; its numbers are proved under weights/."""

import torch

from facelt.network import backbone
from facelt.network.mobilefacenet import Bottleneck


def test_map_and_bottlenecks():
    net = backbone.build("mobilefacenet", 64, "imagenet", "local").eval()
    assert net(torch.zeros(1, 3, 48, 48)).shape == (1, 512, 3, 3)
    bottlenecks = [block for block in net.blocks() if isinstance(block, Bottleneck)]
    assert [b.residual for b in bottlenecks].count(True) == 4 + 6 + 2
    assert [b.residual for b in bottlenecks].count(False) == 3


def test_checkpointing_changes_no_number():
    images, found = torch.randn(4, 3, 32, 32), []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        net = backbone.build("mobilefacenet", 64, "imagenet", "synchronised").train()
        backbone.switch(net, compile=False, channels_last=False, checkpointing=checkpointing)
        net(images).square().sum().backward()
        found.append({**{n: p.grad for n, p in net.named_parameters()}, **dict(net.named_buffers())})
    for name, tensor in found[0].items():
        torch.testing.assert_close(found[1][name], tensor, rtol=1e-4, atol=1e-4 * float(tensor.abs().max()), msg=name)
