"""Necks, each against its equation."""

import pytest
import torch

from facelt.errors import UserError
from facelt.network import neck


@pytest.mark.parametrize("kind", ["linear", "relu", "batch_norm"])
def test_pooled_ones_by_hand(kind):
    made = neck.build(kind, (4, 2, 2), 3, torch.nn.BatchNorm2d).eval()
    x = torch.randn(5, 4, 2, 2)
    want = x.mean((2, 3)) @ made.fc.weight.T + made.fc.bias
    if kind == "relu":
        want = want.clamp(min=0)
    if kind == "batch_norm":
        want = want / (1 + 1e-5) ** 0.5
    torch.testing.assert_close(made(x), want)


def test_none_is_the_mean_of_the_map_whose_channels_are_the_embedding():
    made, x = neck.build("none", (4, 2, 2), 4, torch.nn.BatchNorm2d), torch.randn(5, 4, 2, 2)
    torch.testing.assert_close(made(x), x.mean((2, 3)))
    with pytest.raises(UserError, match="the 4 channels of the map, and embedding_size is 3"):
        neck.build("none", (4, 2, 2), 3, torch.nn.BatchNorm2d)


def normalised(x_BC: torch.Tensor) -> torch.Tensor:
    return (x_BC - x_BC.mean(0)) / (x_BC.var(0, unbiased=False) + 1e-5).sqrt()


def test_arcface_by_hand_in_training():
    made = neck.build("arcface", (4, 2, 3), 5, torch.nn.BatchNorm2d).train()
    x = torch.randn(7, 4, 2, 3)
    first = normalised(x.permute(0, 2, 3, 1).reshape(-1, 4)).view(7, 2, 3, 4).permute(0, 3, 1, 2)
    want = normalised(first.flatten(1) @ made.fc.weight.T + made.fc.bias)
    torch.testing.assert_close(made(x), want, rtol=1e-4, atol=1e-5)
    assert [name for name, p in made.named_parameters() if not p.requires_grad] == ["features.weight"]


def test_depthwise_by_hand_in_training():
    made = neck.build("depthwise", (4, 2, 3), 5, torch.nn.BatchNorm2d).train()
    x = torch.randn(7, 4, 2, 3)
    weights_CHW = made.layers[0].layers[0].weight[:, 0]
    pooled = normalised(torch.einsum("bchw,chw->bc", x, weights_CHW))
    torch.testing.assert_close(made(x), normalised(pooled @ made.layers[2].weight.T), rtol=1e-4, atol=1e-5)
