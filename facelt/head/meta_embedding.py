"""The dynamic meta-embedding, from a direct feature and what the memory says of it (equations 2 to 4 and 6).

B: images, D: embedding size. Every function is pure and local to a rank.
"""

import torch
from torch import Tensor

# Below this distance a feature counts as lying on its centroid: 1/γ and its gradient stay finite.
SMALLEST_REACH = 1e-4

EMBEDDINGS = ("direct", "memory", "infused", "meta", "squashed")


def reach(direct_BD: Tensor, nearest_BD: Tensor) -> Tensor:
    """γ = ‖v_direct - c*‖, equation 3, at least SMALLEST_REACH. Shape B."""
    return (direct_BD - nearest_BD).square().sum(1).clamp(min=SMALLEST_REACH**2).sqrt()


def infuse(direct_BD: Tensor, concept_BD: Tensor, memory_BD: Tensor) -> Tensor:
    """v_direct + e ⊗ v_memory, the bracket of equation 2."""
    return direct_BD + concept_BD * memory_BD


def calibrate(infused_BD: Tensor, reach_B: Tensor, scale: float) -> Tensor:
    """v_meta = (scale / γ) · infused, equation 2; scale is 1 in the paper, 10 as released."""
    return infused_BD * (scale / reach_B)[:, None]


def squash(v_BD: Tensor, form: str) -> Tensor:
    """Equation 6: "paper" ‖v‖²/(1+‖v‖²) · v/‖v‖, or "released" v/(1+‖v‖), which its authors call the right one."""
    norm_B1 = torch.linalg.vector_norm(v_BD, dim=1, keepdim=True)
    if form == "paper":
        return v_BD * (norm_B1 / (1 + norm_B1.square()))
    return v_BD / (1 + norm_B1)
