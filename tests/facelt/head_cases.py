"""Small heads, sharded and dense: the same batch through both, for each knob that changes the numbers."""

import dense
import numpy as np
import pytest
import torch
from ranks import run_ranks

from facelt.config import FaceltConfig
from facelt.head.blocked import Kernels
from facelt.head.heads import MetaHead, PlainHead
from facelt.head.kernels import choice
from facelt.network.embedder import Embedded
from facelt.parallel import group
from facelt.parallel.partition import Partition

D, G, SEED = 5, 12, 3
HALLUCINATOR = {"hw": "memory.hallucinator_weight", "hb": "memory.hallucinator_bias"}


def inputs(K: int, near: bool) -> dict[str, torch.Tensor]:
    """A batch with repeated and absent classes, and a head's weights. near: images close to their centroids."""
    g = torch.Generator().manual_seed(K)
    random = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)  # noqa: E731
    y = torch.randint(0, max(K // 2, 1), (G,), generator=g)  # the upper half of the classes is absent
    p = {"c": random(K, D), "hw": random(K, D), "hb": random(K), "w": random(K, D), "e": torch.tanh(random(G, D))}
    f = p["c"][y] + 0.1 * random(G, D) if near else 3 * random(G, D)
    return {**p, "f": f, "y": y, "t": torch.tensor([3.0], dtype=torch.float64)}


def by_triton() -> Kernels:
    kernels = choice.load()
    assert kernels is not None, "triton is not installed"
    return kernels


def head_of(
    K: int,
    preset: str,
    knobs: dict,
    x: dict[str, torch.Tensor],
    rate: float = 1,
    device: str = "cpu",
    budget: float = 96,
    kernels: bool = False,
) -> MetaHead:
    """This rank's shard of a head with the given weights."""
    torch.set_default_dtype(torch.float64)
    partition = Partition(K, group.rank(), group.world_size())
    block = {"preset": preset, "embedding_size": D, "head": knobs, "meta": {"sample_rate": rate}}
    block["score_budget_mb"] = budget
    head = MetaHead(FaceltConfig.model_validate(block), partition)
    names = {"c": "memory.centroids", "w": "classifier.weight"}
    names |= {"hw": "memory.hallucinator_weight", "hb": "memory.hallucinator_bias"}
    rows = {name: x[short][slice(*partition.bounds())] for short, name in names.items()}
    head.load_state_dict({name: rows[name] for name in head.state_dict()})
    head.serve_by(by_triton() if kernels else None)
    return head.to(device)


def sharded(
    K: int,
    preset: str,
    near: bool,
    block: int,
    knobs: dict,
    rate: float = 1,
    device: str = "cpu",
    budget: float = 96,
    kernels: bool = False,
) -> dict:
    """What a head gives for its share of the batch. kernels: by Triton's kernels."""
    x = inputs(K, near)
    head = head_of(K, preset, knobs, x, rate, device, budget, kernels)
    x = {name: tensor.to(device) for name, tensor in x.items()}
    head.memory.block = head.classifier.block = block
    B = G // group.world_size()
    mine = slice(group.rank() * B, (group.rank() + 1) * B)
    f, e = x["f"][mine].clone().requires_grad_(), x["e"][mine].clone().requires_grad_()
    t = x["t"].clone().requires_grad_()
    step = head(Embedded(f, e, t), x["y"], SEED)
    step.loss.backward()
    grads = {name: p.grad if p.grad is not None else torch.zeros_like(p) for name, p in head.named_parameters()}
    return {
        "parts": step.parts,
        "correct": step.correct_B,
        "f": f.grad,
        "e": e.grad,
        "t": t.grad if t.grad is not None else torch.zeros_like(t),
        "c": grads["memory.centroids"],
        "w": grads["classifier.weight"],
        **{s: grads[n] for s, n in HALLUCINATOR.items() if n in grads},
    }


def expected(K: int, preset: str, near: bool, knobs: dict, rate: float = 1) -> dict:
    """Parts and gradients by the dense twin, over the classes that take part."""
    x = inputs(K, near)
    knobs = FaceltConfig.model_validate({"preset": preset, "head": knobs}).head.model_dump()
    generator = torch.Generator().manual_seed(SEED)
    taking = torch.ones(K, dtype=bool)
    if rate < 1:
        taking = dense.taking(K, rate, generator)
        taking[x["y"]] = True
        assert not taking.all(), "the case must leave classes out"
    y = (taking.cumsum(0) - 1)[x["y"]]
    masked = None
    if knobs["mask_own"]:
        rows = torch.rand(G, generator=generator, dtype=torch.float32) < knobs["mask_own"]
        assert rows.any()
        masked = rows[:, None] & torch.nn.functional.one_hot(y, int(taking.sum())).bool()
    leaves = {name: x[name].clone().requires_grad_() for name in ("f", "e", "c", "hw", "hb", "w", "t")}
    part = {name: leaves[name][taking] for name in ("c", "hw", "hb", "w")} | {"t": leaves["t"]}
    # The centroid loss needs no product over classes, so no class is left out of it.
    parts = dense.meta_objective(part, leaves["f"], leaves["e"], y, knobs, masked)
    whole = dense.meta_objective(leaves, leaves["f"], leaves["e"], x["y"], knobs)
    parts["centroid"] = whole["centroid"]
    sum(parts.values()).backward()
    grads = {name: leaf.grad if leaf.grad is not None else torch.zeros_like(leaf) for name, leaf in leaves.items()}
    if knobs["centroid_update"] == "released":
        weight, margin = knobs["centroid_weight"], knobs["centroid_margin"]
        grads["c"] = grads["c"] + dense.released_centroid_step(x["f"], x["y"], x["c"], weight, margin)
    return {"parts": parts, "grads": grads}


def compare(ranks: int, K: int, preset: str, near: bool, knobs: dict, rate: float = 1, kernels: bool = False) -> None:
    want = expected(K, preset, near, knobs, rate)
    for block in (3, 4096):
        got = run_ranks(ranks, sharded, K, preset, near, block, knobs, rate, "cpu", 96, kernels)
        assert_dense(got, want)


def assert_dense(got: list[dict], want: dict) -> None:
    for part in got[0]["parts"]:
        total = sum(r["parts"][part] for r in got)
        assert total == pytest.approx(want["parts"][part].item(), rel=1e-10, abs=1e-12)
    np.testing.assert_allclose(sum(r["t"] for r in got), want["grads"]["t"], rtol=1e-10, atol=1e-10)
    for name in ("f", "e", "c", "hw", "hb", "w"):
        if name in got[0]:
            whole = np.concatenate([r[name] for r in got])
            np.testing.assert_allclose(whole, want["grads"][name], rtol=1e-10, atol=1e-10, err_msg=name)


CASES = [
    (13, "released", False, {}),  # beyond the margin: nothing repels
    (10, "released", True, {"centroid_margin": 30}),  # within it
    (7, "released", False, {"centroid_gradient": True}),
    (13, "paper", True, {"centroid_margin": 60}),  # within the hinge of equation 9
    (7, "paper", False, {}),  # beyond it
    (10, "paper", True, {"centroid_margin": 60, "centroid_on": "squashed"}),
    (10, "paper", False, {"centroid_gradient": False, "hallucinator": "softmax", "squash": "released"}),
    (13, "cosine", False, {}),
    (10, "cosine", True, {"centroid_update": "gradient", "centroid_gradient": True, "centroid_margin": 30}),
    (7, "released", True, {"mask_own": 0.5, "centroid_update": "gradient", "centroid_gradient": True}),
    (7, "paper", True, {"mask_own": 1, "direct_weight": 2}),
    (10, "released", False, {"direct_weight": 0.5, "margin": "arcface", "margin_size": 0.4}),
    (13, "released", True, {"margin": "cosface", "margin_size": 0.35, "centroid_update": "refresh"}),
    (10, "released", True, {"retrieval": "mean"}),
    (7, "released", False, {"memory": False, "centroid_gradient": True}),
    (10, "paper", True, {"reach": False}),
    (13, "cosine", True, {"reach": False, "classify": "meta", "scale": 2}),
    (7, "paper", True, {"memory": False, "reach": False, "classify": "meta", "centroid_gradient": False}),
]

PLAIN_CASES = [
    (7, {}),
    (13, {"classifier": "cosine", "scale": 4}),
    (13, {"loss": "focal"}),
    (10, {"loss": "focal", "focal_gamma": 0.5, "classifier": "cosine", "scale": 8, "margin": "none"}),
    (7, {"loss": "balanced_softmax"}),
    (13, {"loss": "balanced_softmax", "classifier": "cosine", "scale": 4}),
    (10, {"loss": "logit_adjusted", "tau": 1.5}),
    (13, {"metric": "lifted", "metric_weight": 0.3, "metric_margin": 2}),
    (13, {"metric": "range", "metric_weight": 0.3, "metric_margin": 1000}),  # two centres within the margin
    (10, {"metric": "range", "range_pairs": 3, "loss": "logit_adjusted", "classifier": "cosine", "scale": 4}),
]


def plain_config(knobs: dict, rate: float = 1) -> FaceltConfig:
    return FaceltConfig.model_validate({"embedding_size": D, "plain_head": knobs, "plain": {"sample_rate": rate}})


def counts_of(K: int) -> torch.Tensor:
    """Training images of each class: a long tail."""
    return 1 + 60 // torch.arange(1, K + 1)


def plain_sharded(K: int, knobs: dict, block: int, rate: float = 1, kernels: bool = False) -> dict:
    torch.set_default_dtype(torch.float64)
    x = inputs(K, False)
    partition = Partition(K, group.rank(), group.world_size())
    rows = slice(*partition.bounds())
    head = PlainHead(plain_config(knobs, rate), partition, counts_of(K))
    head.serve_by(by_triton() if kernels else None)
    head.classifier.block = block
    shorts = {"weight": "w", "bias": "hb"}
    head.classifier.load_state_dict({n: x[shorts[n]][rows] for n in head.classifier.state_dict()})
    B = G // group.world_size()
    f = x["f"][group.rank() * B : (group.rank() + 1) * B].clone().requires_grad_()
    step = head(Embedded(f), x["y"], SEED)
    step.loss.backward()
    grads = {shorts[n]: p.grad for n, p in head.classifier.named_parameters()}
    return {"loss": step.loss, "parts": step.parts, "correct": step.correct_B, "f": f.grad, **grads}


def compare_plain(ranks: int, K: int, knobs: dict, rate: float = 1, kernels: bool = False) -> None:
    x, filled = inputs(K, False), plain_config(knobs).plain_head.model_dump()
    taking = torch.ones(K, dtype=bool)
    if rate < 1:
        taking = dense.taking(K, rate, torch.Generator().manual_seed(SEED))
        taking[x["y"]] = True
        assert not taking.all(), "the case must leave classes out"
    leaves = {name: x[name].clone().requires_grad_() for name in ("f", "w", "hb")}
    part = {name: leaves[name][taking] for name in ("w", "hb")}
    parts = dense.plain_objective(part, leaves["f"], (taking.cumsum(0) - 1)[x["y"]], filled, counts_of(K)[taking])
    sum(parts.values()).backward()
    for block in (2, 4096):
        got = run_ranks(ranks, plain_sharded, K, knobs, block, rate, kernels)
        assert got[0]["parts"].keys() == parts.keys()
        for name, part in parts.items():
            assert sum(r["parts"][name] for r in got) == pytest.approx(part.item(), rel=1e-10, abs=1e-12)
        assert sum(r["loss"] for r in got) == pytest.approx(sum(parts.values()).item(), rel=1e-10)
        for name in leaves.keys() & got[0].keys():
            whole = np.concatenate([r[name] for r in got])
            np.testing.assert_allclose(whole, leaves[name].grad, rtol=1e-9, atol=1e-11, err_msg=name)
