"""Margins on the own class of a cosine classifier: CosFace, ArcFace, AdaFace.

A cosine classifier scores an embedding x as r·cosθ, with r = ‖x‖ and θ the angle to the class's row; x has the scale
(r = s for a normalised feature, r = s·‖v‖ < s for a squashed meta-embedding). A margin changes the own class alone.
n: images whose class this rank owns.
"""

import math

import torch
from torch import Tensor, nn

# Within this of cosθ = ±1, sinθ is taken as constant, so that its gradient stays finite.
SMALLEST_SIN2 = 1e-6


def cosface(own: Tensor, r: Tensor, size: float) -> Tensor:
    """r·(cosθ - m), Wang et al. 2018. own = r·cosθ and r: n."""
    return own - r * size


def arcface(own: Tensor, r: Tensor, size: float | Tensor) -> Tensor:
    """r·cos(θ + m), Deng et al. 2019. Beyond θ = π - m, where that would rise again, r·(cosθ - m·sin m).

    size: m in radians, one number or n of them; a negative one, as AdaFace has, needs no other branch below θ = -m but
    stops at θ = 0.
    """
    r = r.clamp(min=torch.finfo(r.dtype).tiny)
    cos = (own / r).clamp(-1, 1)
    if not isinstance(size, Tensor):
        size = torch.full((), size, dtype=own.dtype, device=own.device)  # no copy that waits
    sin = (1 - cos.square()).clamp(min=SMALLEST_SIN2).sqrt()
    turned = cos * size.cos() - sin * size.sin()
    past = cos - size * size.sin()
    angle = torch.acos(cos.detach())
    turned = torch.where(angle + size > math.pi, past, turned)
    return r * torch.where(angle + size < 0, torch.ones_like(cos), turned)


def adaface(own: Tensor, r: Tensor, size: float, quality: Tensor) -> Tensor:
    """r·(cos(θ - m·q) - (m·q + m)), Kim et al. 2022: blurred images (low norms) are pushed less at wide angles.

    quality: q in [-1, 1] of each image, by `Margin.quality`.
    """
    return arcface(own, r, -size * quality) - r * size * (quality + 1)


class Margin(nn.Module):
    """A kind of margin (none, cosface, arcface, adaface), its size, and AdaFace's running statistics of feature norms.

    The statistics are buffers, the same on all ranks; a checkpoint has them among its scalars.

    h: how many deviations of the norm count as one. pace: share of a new batch in the running numbers. As published.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, kind: str, size: float, h: float = 0.333, pace: float = 0.01) -> None:
        super().__init__()
        self.kind, self.size, self.h, self.pace = kind, size, h, pace
        self.register_buffer("mean", torch.tensor(20.0, dtype=torch.float64), persistent=False)
        self.register_buffer("deviation", torch.tensor(100.0, dtype=torch.float64), persistent=False)

    def forward(self, own: Tensor, r: Tensor, rows: Tensor, norms_N: Tensor) -> Tensor:
        """Own scores (n) with the margin. r: ‖x‖ of the same images (n), at `rows` among all N.

        norms_N: feature norms of all ranks' images, which AdaFace takes for the quality of an image.
        """
        if self.kind == "cosface":
            return cosface(own, r, self.size)
        if self.kind == "arcface":
            return arcface(own, r, self.size)
        if self.kind == "adaface":
            return adaface(own, r, self.size, self.quality(norms_N)[rows])
        return own

    def quality(self, norms_N: Tensor) -> Tensor:
        """q = clip(h·(‖z‖ - mean)/deviation, -1, 1) of all ranks' norms, which move the statistics first."""
        norms_N = norms_N.detach().clamp(0.001, 100)
        if len(norms_N) > 1:
            self.mean += self.pace * (norms_N.mean().double() - self.mean)
            self.deviation += self.pace * (norms_N.std().double() - self.deviation)
        return ((norms_N - self.mean) / (self.deviation + 1e-3) * self.h).clamp(-1, 1)

    def statistics(self) -> dict[str, float]:
        """What AdaFace remembers, for a checkpoint."""
        return {"norm_mean": self.mean.item(), "norm_deviation": self.deviation.item()}

    def load_statistics(self, values: dict[str, float]) -> None:
        """Load what `statistics` gave; what is missing keeps its start."""
        self.mean.fill_(values.get("norm_mean", self.mean.item()))
        self.deviation.fill_(values.get("norm_deviation", self.deviation.item()))
