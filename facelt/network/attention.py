"""Modulated attention: spatial attention on a self-attention map (equation 5).

B: images, C: channels, H x W: positions of the map, N = H·W.
"""

import torch
from torch import Tensor, nn


class ModulatedAttention(nn.Module):
    """f + MA(f) ⊗ SA(f), equation 5, on a feature map of any size. With on = "features", f + MA(f) ⊗ f: spatial
    attention on the features themselves, which the paper compares it with (figure 5c).

    SA(f): θ, φ, g are 1x1 convolutions C -> C/2; A = softmax(θᵀφ) over positions, unscaled; then a 1x1 convolution
    without bias back to C. MA(f): one softmax map over the positions, from a linear layer on the whole map (C·N -> N).
    The last convolution starts at zero, so the block starts as the identity; on the features, it never is.

    channels: C. height, width: the map's size, which fixes the shape of the linear layer.
    """

    def __init__(self, channels: int, height: int, width: int, on: str = "attended") -> None:
        super().__init__()
        inner = max(channels // 2, 1)
        self.size, self.on = (height, width), on
        if on == "attended":
            self.theta = nn.Conv2d(channels, inner, 1)
            self.phi = nn.Conv2d(channels, inner, 1)
            self.g = nn.Conv2d(channels, inner, 1)
            self.conv_mask = nn.Conv2d(inner, channels, 1, bias=False)
            nn.init.zeros_(self.conv_mask.weight)
        self.fc_spatial = nn.Linear(channels * height * width, height * width)

    def forward(self, f_BCHW: Tensor) -> Tensor:
        _, _, H, W = f_BCHW.shape
        assert self.size == (H, W), f"attention was built for a {self.size} map, given {(H, W)}"
        spatial_B1HW = self.spatial(f_BCHW)[:, None]
        if self.on == "features":
            return f_BCHW + spatial_B1HW * f_BCHW
        theta_BcN, phi_BcN, g_BcN = (conv(f_BCHW).flatten(2) for conv in (self.theta, self.phi, self.g))
        affinity_BNN = torch.softmax(theta_BcN.transpose(1, 2) @ phi_BcN, dim=-1)
        context_BcHW = (g_BcN @ affinity_BNN.transpose(1, 2)).unflatten(2, (H, W))
        return f_BCHW + spatial_B1HW * self.conv_mask(context_BcHW)

    def spatial(self, f_BCHW: Tensor) -> Tensor:
        """MA(f): where each image's context counts, B x H x W, which sums to one over the positions of an image."""
        return torch.softmax(self.fc_spatial(f_BCHW.flatten(1)), dim=-1).view(-1, *self.size)
