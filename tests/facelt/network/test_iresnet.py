"""IResNet: the size of its map, and a block against its equation; what loading proves is under weights/."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from facelt.network.backbone import build
from facelt.network.batch_norm import FrozenBatchNorm2d
from facelt.network.iresnet import Block


@pytest.mark.parametrize("name, layers", [("iresnet18", 18), ("ir18", 18), ("iresnet50", 50)])
def test_map_and_layers(name, layers):
    net = build(name, 4, "imagenet", "frozen").eval()
    assert net(torch.zeros(1, 3, 40, 40)).shape == (1, 32, 3, 3)
    assert net.channels == 32
    convolutions = sum(isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3) for m in net.modules())
    assert convolutions == layers - 1  # the linear map is the last layer
    assert isinstance(net.layer1[0].bn1, FrozenBatchNorm2d)


@pytest.mark.parametrize("project, stride", [(True, 2), (False, 2), (False, 1)])
def test_a_block_by_hand(project, stride):
    block = Block(4, 4, stride, project, nn.BatchNorm2d).eval()
    x, scale = torch.randn(2, 4, 5, 5), (1 + 1e-5) ** -0.5
    y = F.conv2d(x * scale, block.conv1.weight, padding=1) * scale
    y = torch.where(y > 0, y, 0.25 * y)
    y = F.conv2d(y, block.conv2.weight, stride=stride, padding=1) * scale
    shortcut = x[:, :, ::stride, ::stride]
    if project:
        shortcut = torch.einsum("oi,bihw->bohw", block.downsample[0].weight[:, :, 0, 0], shortcut) * scale
    torch.testing.assert_close(block(x), y + shortcut, rtol=1e-4, atol=1e-5)
