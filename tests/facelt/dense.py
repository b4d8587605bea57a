"""Both heads in plain float64 torch, straight from the equations: no shards, no blocks, no own gradients."""

import math
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor


def memory_read(f: Tensor, p: dict[str, Tensor], c: Tensor, knobs: dict, masked: Tensor | None) -> Tensor:
    """Equation 1: v_memory = Σ o_i c_i, with o by hallucinator, by cosine, or the same for all. masked: G x K."""
    if knobs["retrieval"] == "mean":
        return c.mean(0).expand(len(f), -1)
    if knobs["retrieval"] == "cosine":
        o = p["t"] * F.normalize(f) @ F.normalize(c).T
    else:
        o = f @ p["hw"].T + p["hb"]
    softmax = knobs["retrieval"] == "cosine" or knobs["hallucinator"] == "softmax"
    if masked is not None:
        o = o.masked_fill(masked, -torch.inf if softmax else 0)
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


def with_margin(logits: Tensor, y: Tensor, r: Tensor, kind: str, m: float) -> Tensor:
    """The own class's logit r·cosθ as r·(cosθ - m) or r·cos(θ + m)."""
    own = logits.gather(1, y[:, None]).squeeze(1)
    if kind == "cosface":
        own = own - r * m
    if kind == "arcface":
        theta = torch.acos(own / r)
        own = r * torch.where(theta + m <= torch.pi, torch.cos(theta + m), torch.cos(theta) - m * math.sin(m))
    return logits.scatter(1, y[:, None], own[:, None])


def meta_objective(
    p: dict[str, Tensor], f: Tensor, e: Tensor, y: Tensor, knobs: dict, masked: Tensor | None = None
) -> dict[str, Tensor]:
    """The parts of the whole head's objective, with the plain gradient for everything.

    p: hallucinator weight and bias (hw, hb), centroids (c), classifier weights (w), temperature (t).
    """
    c = p["c"] if knobs["centroid_gradient"] else p["c"].detach()
    infused = f + e * memory_read(f, p, c, knobs, masked) if knobs["memory"] else f
    meta = infused * (knobs["reach_scale"] / reach(f, c))[:, None] if knobs["reach"] else infused
    classified = meta if knobs["classify"] == "meta" else squash(meta, knobs["squash"])
    parts = {}
    for name, x in (("cross_entropy", classified), ("direct", F.normalize(f))):
        logits = cosine_logits(x, p["w"], knobs["scale"])
        r = knobs["scale"] * x.norm(dim=1)
        logits = with_margin(logits, y, r, knobs["margin"], knobs["margin_size"])
        parts[name] = F.cross_entropy(logits, y, reduction=knobs["reduction"])
    parts["direct"] = parts["direct"] * knobs["direct_weight"]
    moved = p["c"] if knobs["centroid_update"] == "gradient" else p["c"].detach()
    weight, margin = knobs["centroid_weight"], knobs["centroid_margin"]
    if knobs["centroid_loss"] == "paper":
        pulled = squash(meta, knobs["squash"]) if knobs["centroid_on"] == "squashed" else meta
        parts["centroid"] = paper_centroid_loss(pulled, y, moved, weight, margin)
    else:
        parts["centroid"] = released_centroid_loss(f, y, moved, weight, margin)
    return parts


def taking(K: int, rate: float, generator: torch.Generator) -> Tensor:
    """Which classes a sample takes, beside the batch's own: by MurmurHash3's fmix32 of their numbers and two keys."""
    keys, taken = torch.randint(2**31, (2,), generator=generator).tolist(), []
    for x in range(K):
        for key in keys:
            x ^= key
            x = (x ^ x >> 16) * 0x85EBCA6B % 2**32
            x = (x ^ x >> 13) * 0xC2B2AE35 % 2**32
            x ^= x >> 16
        taken.append(x % 2**24 < round(rate * 2**24))
    return torch.tensor(taken)


def focal(logits: Tensor, y: Tensor, gamma: float) -> Tensor:
    """Lin et al. 2017: the mean of -(1-p)^γ·log p over the images, p the own class's probability."""
    p = torch.softmax(logits, 1)[torch.arange(len(y)), y]
    return (-((1 - p) ** gamma) * p.log()).mean()


def lifted(f: Tensor, y: Tensor, margin: float) -> Tensor:
    """Song et al. 2016, pair by pair."""
    distance = lambda i, j: (f[i] - f[j]).norm()  # noqa: E731
    hinges = []
    for i, j in combinations(range(len(f)), 2):
        if y[i] == y[j]:
            others = [torch.exp(margin - distance(a, k)) for a in (i, j) for k in range(len(f)) if y[k] != y[a]]
            hinges.append((sum(others).log() + distance(i, j)).clamp(min=0) ** 2)
    return sum(hinges) / (2 * len(hinges))


def range_loss(f: Tensor, y: Tensor, margin: float, pairs: int) -> Tensor:
    """Zhang et al. 2017, class by class; its two parts weighted alike."""
    classes = y.unique()
    within = torch.zeros((), dtype=f.dtype)
    for k in classes:
        distances = sorted(((a - b).square().sum() for a, b in combinations(f[y == k], 2)), reverse=True)[:pairs]
        if distances:
            within = within + len(distances) / sum(1 / d for d in distances)
    centres = [f[y == k].mean(0) for k in classes]
    nearest = min((a - b).square().sum() for a, b in combinations(centres, 2))
    return within + (margin - nearest).clamp(min=0)


def plain_objective(p: dict[str, Tensor], f: Tensor, y: Tensor, knobs: dict, counts: Tensor) -> dict[str, Tensor]:
    """The parts of the plain head's objective. p: classifier weights and bias (w, hb). counts: training images, K."""
    if knobs["classifier"] == "cosine":
        logits = cosine_logits(F.normalize(f), p["w"], knobs["scale"])
    else:
        logits = f @ p["w"].T + p["hb"]
    if knobs["loss"] == "balanced_softmax":
        logits = logits + counts.double().log()
    if knobs["loss"] == "logit_adjusted":
        logits = logits + knobs["tau"] * (counts.double() / counts.sum()).log()
    loss = focal(logits, y, knobs["focal_gamma"]) if knobs["loss"] == "focal" else F.cross_entropy(logits, y)
    parts = {knobs["loss"]: loss}
    if knobs["metric"] == "lifted":
        parts["lifted"] = knobs["metric_weight"] * lifted(f, y, knobs["metric_margin"])
    if knobs["metric"] == "range":
        parts["range"] = knobs["metric_weight"] * range_loss(f, y, knobs["metric_margin"], knobs["range_pairs"])
    return parts
