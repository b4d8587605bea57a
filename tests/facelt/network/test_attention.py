"""Modulated attention: identity at its start, the formula position by position, any map size."""

import pytest
import torch

from facelt.network.attention import ModulatedAttention


def formula(block: ModulatedAttention, f: torch.Tensor) -> torch.Tensor:
    """Equation 5 image by image and position by position, in float64."""
    B, C, H, W = f.shape
    out = f.clone()
    for b in range(B):
        x = f[b].reshape(C, H * W)
        theta, phi, g = (conv.weight[:, :, 0, 0] @ x + conv.bias[:, None] for conv in (block.theta, block.phi, block.g))
        context = torch.zeros_like(g)
        for i in range(H * W):
            affinity = torch.exp(torch.stack([theta[:, i] @ phi[:, j] for j in range(H * W)]))
            context[:, i] = sum(a * g[:, j] for j, a in enumerate(affinity / affinity.sum()))
        self_attention = block.conv_mask.weight[:, :, 0, 0] @ context
        spatial = torch.exp(block.fc_spatial.weight @ x.reshape(-1) + block.fc_spatial.bias)
        out[b] += (spatial / spatial.sum() * self_attention).view(C, H, W)
    return out


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (4, 4), (7, 7)])
def test_is_the_formula_at_any_map_size(size):
    torch.manual_seed(0)
    block = ModulatedAttention(6, *size).double()
    f = torch.randn(2, 6, *size, dtype=torch.float64)
    torch.testing.assert_close(block(f), f, rtol=0, atol=0)  # the identity at its start
    torch.nn.init.normal_(block.conv_mask.weight)
    torch.testing.assert_close(block(f), formula(block, f), rtol=1e-10, atol=1e-12)


def test_on_the_features_it_weights_them_by_one_map_over_positions():
    block = ModulatedAttention(3, 2, 2, on="features").double()
    assert {name.split(".")[0] for name in block.state_dict()} == {"fc_spatial"}
    f = torch.randn(2, 3, 2, 2, dtype=torch.float64)
    spatial = torch.softmax(f.flatten(1) @ block.fc_spatial.weight.T + block.fc_spatial.bias, 1).view(2, 1, 2, 2)
    torch.testing.assert_close(block(f), f * (1 + spatial))


def test_attention_learns_from_its_start():
    block = ModulatedAttention(4, 2, 2)
    block(torch.randn(3, 4, 2, 2)).square().sum().backward()
    assert block.conv_mask.weight.grad.abs().sum() > 0
