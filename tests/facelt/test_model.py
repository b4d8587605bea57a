"""The sharded, blocked head against the dense twin in float64: losses and every gradient at 1, 2 and 3 ranks."""

import dense
import numpy as np
import pytest
import torch
from ranks import run_ranks

from facelt import comms
from facelt.config import FaceltConfig
from facelt.embedder import Embedded
from facelt.model import MetaHead, PlainHead
from facelt.partition import Partition

D, G = 5, 12


def inputs(K: int, near: bool) -> dict[str, torch.Tensor]:
    """A batch with repeated and absent classes, and a head's weights. near: images close to their centroids."""
    g = torch.Generator().manual_seed(K)
    random = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)  # noqa: E731
    y = torch.randint(0, max(K // 2, 1), (G,), generator=g)  # the upper half of the classes is absent
    p = {"c": random(K, D), "hw": random(K, D), "hb": random(K), "w": random(K, D), "e": torch.tanh(random(G, D))}
    f = p["c"][y] + 0.1 * random(G, D) if near else 3 * random(G, D)
    return {**p, "f": f, "y": y}


def sharded(K: int, preset: str, near: bool, block: int, knobs: dict) -> dict:
    torch.set_default_dtype(torch.float64)
    x = inputs(K, near)
    partition = Partition(K, comms.rank(), comms.world_size())
    rows = slice(*partition.bounds())
    config = FaceltConfig.model_validate({"preset": preset, "embedding_size": D, "head": knobs})
    head = MetaHead(config, partition)
    head.memory.block = head.classifier.block = block
    with torch.no_grad():
        head.memory.centroids.copy_(x["c"][rows])
        head.memory.hallucinator_weight.copy_(x["hw"][rows])
        head.memory.hallucinator_bias.copy_(x["hb"][rows])
        head.classifier.weight.copy_(x["w"][rows])
    B = G // comms.world_size()
    mine = slice(comms.rank() * B, (comms.rank() + 1) * B)
    f, e = x["f"][mine].clone().requires_grad_(), x["e"][mine].clone().requires_grad_()
    step = head(Embedded(f, e), x["y"])
    step.loss.backward()
    return {
        "loss": step.loss,
        "parts": step.parts,
        "correct": step.correct_B,
        "f": f.grad,
        "e": e.grad,
        "c": head.memory.centroids.grad,
        "hw": head.memory.hallucinator_weight.grad,
        "hb": head.memory.hallucinator_bias.grad,
        "w": head.classifier.weight.grad,
    }


def expected(K: int, preset: str, near: bool, knobs: dict) -> dict:
    x = inputs(K, near)
    knobs = FaceltConfig.model_validate({"preset": preset, "head": knobs}).head.model_dump()
    leaves = {name: x[name].clone().requires_grad_() for name in ("f", "e", "c", "hw", "hb", "w")}
    cross_entropy, centroid = dense.meta_objective(leaves, leaves["f"], leaves["e"], x["y"], knobs)
    (cross_entropy + centroid).backward()
    grads = {name: leaf.grad if leaf.grad is not None else torch.zeros_like(leaf) for name, leaf in leaves.items()}
    if knobs["centroid_loss"] == "released":
        weight, margin = knobs["centroid_weight"], knobs["centroid_margin"]
        grads["c"] = grads["c"] + dense.released_centroid_step(x["f"], x["y"], x["c"], weight, margin)
    return {"cross_entropy": cross_entropy, "centroid": centroid, **grads}


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize(
    "K, preset, near, knobs",
    [
        (13, "released", False, {}),  # beyond the margin: nothing repels
        (10, "released", True, {"centroid_margin": 30}),  # within it
        (7, "released", False, {"centroid_gradient": True}),
        (13, "paper", True, {"centroid_margin": 60}),  # within the hinge of equation 9
        (7, "paper", False, {}),  # beyond it
        (10, "paper", False, {"centroid_gradient": False, "hallucinator": "softmax", "squash": "released"}),
    ],
)
def test_meta_head_is_the_dense_head(ranks, K, preset, near, knobs):
    want = expected(K, preset, near, knobs)
    for block in (3, 4096):
        got = run_ranks(ranks, sharded, K, preset, near, block, knobs)
        for part in ("cross_entropy", "centroid"):
            assert sum(r["parts"][part] for r in got) == pytest.approx(want[part].item(), rel=1e-10, abs=1e-12)
        for name in ("f", "e", "c", "hw", "hb", "w"):
            whole = np.concatenate([r[name] for r in got])
            np.testing.assert_allclose(whole, want[name].numpy(), rtol=1e-8, atol=1e-10, err_msg=name)


def plain(K: int) -> dict:
    torch.set_default_dtype(torch.float64)
    x = inputs(K, False)
    partition = Partition(K, comms.rank(), comms.world_size())
    rows = slice(*partition.bounds())
    head = PlainHead(FaceltConfig.model_validate({"embedding_size": D}), partition)
    head.classifier.block = 2
    with torch.no_grad():
        head.classifier.weight.copy_(x["w"][rows])
        head.classifier.bias.copy_(x["hb"][rows])
    B = G // comms.world_size()
    f = x["f"][comms.rank() * B : (comms.rank() + 1) * B].clone().requires_grad_()
    step = head(Embedded(f), x["y"])
    step.loss.backward()
    grads = {"f": f.grad, "w": head.classifier.weight.grad, "hb": head.classifier.bias.grad}
    return {"loss": step.loss, "correct": step.correct_B, **grads}


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("K", [3, 7, 13])
def test_plain_head_is_linear_and_cross_entropy(ranks, K):
    x = inputs(K, False)
    leaves = {name: x[name].clone().requires_grad_() for name in ("f", "w", "hb")}
    logits = leaves["f"] @ leaves["w"].T + leaves["hb"]
    loss = torch.nn.functional.cross_entropy(logits, x["y"])
    loss.backward()
    got = run_ranks(ranks, plain, K)
    assert sum(r["loss"] for r in got) == pytest.approx(loss.item(), rel=1e-12)
    np.testing.assert_array_equal(np.concatenate([r["correct"] for r in got]), (logits.argmax(1) == x["y"]).numpy())
    for name, leaf in leaves.items():
        np.testing.assert_allclose(np.concatenate([r[name] for r in got]), leaf.grad, rtol=1e-9, atol=1e-12)
