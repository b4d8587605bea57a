"""The whole meta head in plain float64 torch, straight from the equations: no shards, no blocks, no own gradients."""

import torch
import torch.nn.functional as F
from torch import Tensor


def memory_read(f: Tensor, w: Tensor, b: Tensor, c: Tensor, softmax: bool) -> Tensor:
    """Equation 1: o = T_hal(f), v_memory = Σ o_i c_i."""
    o = f @ w.T + b
    return (torch.softmax(o, 1) if softmax else o) @ c


def reach(f: Tensor, c: Tensor) -> Tensor:
    """Equation 3: min_i ‖f - c_i‖."""
    return (f[:, None] - c[None]).square().sum(2).min(1).values.clamp(min=1e-8).sqrt()


def squash(v: Tensor, form: str) -> Tensor:
    """Equation 6."""
    norm = v.norm(dim=1, keepdim=True)
    return v / norm * (norm**2 / (1 + norm**2)) if form == "paper" else v / norm * (norm / (1 + norm))


def released_centroid_loss(f: Tensor, y: Tensor, c: Tensor, weight: float, margin: float) -> Tensor:
    """The released loss with the plain gradient: centroid gradients of its attracting part are checked apart."""
    distances = (f[:, None] - c[None]).square().sum(2)
    own = distances.gather(1, y[:, None]).sum()
    repel = (margin - (distances.sum() - own) / distances.numel()).clamp(min=0)
    return weight * (own / 2 / len(y) + 0.01 * repel)


def released_centroid_step(f: Tensor, y: Tensor, c: Tensor, weight: float, margin: float) -> Tensor:
    """What the released code hands the centroids: attraction by class counts, unscaled; repulsion by autograd."""
    c = c.detach().requires_grad_()
    distances = (f.detach()[:, None] - c[None]).square().sum(2)
    mask = F.one_hot(y, len(c)).bool()
    repel = (margin - distances.masked_fill(mask, 0).sum() / distances.numel()).clamp(min=0)
    (grad,) = torch.autograd.grad(weight * 0.01 * repel, c)
    for k in range(len(c)):
        of_k = f.detach()[y == k]
        grad[k] += (c.detach()[k] - of_k).sum(0) / (1 + len(of_k)) / len(f)
    return grad


def paper_centroid_loss(v: Tensor, y: Tensor, c: Tensor, weight: float, margin: float) -> Tensor:
    """Equations 7 and 9: weight · Σ_n max(0, ‖v-c_y‖ - Σ_{i≠y}‖v-c_i‖ + m)."""
    distances = (v[:, None] - c[None]).norm(dim=2)
    own = distances.gather(1, y[:, None]).squeeze(1)
    return weight * (own - (distances.sum(1) - own) + margin).clamp(min=0).sum()


def cosine_logits(x: Tensor, w: Tensor, scale: float) -> Tensor:
    """Equation 6: scale · x·wᵀ/‖w‖."""
    return scale * x @ (w / w.norm(dim=1, keepdim=True)).T


def meta_objective(p: dict[str, Tensor], f: Tensor, e: Tensor, y: Tensor, knobs: dict) -> tuple[Tensor, Tensor]:
    """Cross-entropy and centroid loss of the whole head, with the plain gradient for everything.

    p: hallucinator weight and bias (hw, hb), centroids (c), classifier weights (w).
    """
    c = p["c"] if knobs["centroid_gradient"] else p["c"].detach()
    infused = f + e * memory_read(f, p["hw"], p["hb"], c, knobs["hallucinator"] == "softmax")
    meta = infused * (knobs["reach_scale"] / reach(f, c))[:, None]
    logits = cosine_logits(squash(meta, knobs["squash"]), p["w"], knobs["scale"])
    cross_entropy = F.cross_entropy(logits, y, reduction=knobs["reduction"])
    if knobs["centroid_loss"] == "paper":
        return cross_entropy, paper_centroid_loss(meta, y, p["c"], knobs["centroid_weight"], knobs["centroid_margin"])
    return cross_entropy, released_centroid_loss(
        f, y, p["c"].detach(), knobs["centroid_weight"], knobs["centroid_margin"]
    )
