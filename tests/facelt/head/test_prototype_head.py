"""The head of stage memory against the whole of it in plain float64 torch, at any number of ranks."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from ranks import run_ranks

from facelt.config import FaceltConfig
from facelt.head.prototype_head import PrototypeHead
from facelt.network.embedder import Embedded
from facelt.parallel import group
from facelt.parallel.partition import Partition

D, G, K = 5, 12, 10
COUNTS = torch.tensor([9, 4, 3, 2, 2, 7, 2, 30, 5, 2])


def inputs() -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    random = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)  # noqa: E731
    y = torch.randint(0, K - 3, (G,), generator=g)
    return {"f": 2 * random(G, D), "y": y, "c": random(K, D), "w": random(K, D), "b": random(K)}


def head_of(block: dict, x: dict[str, torch.Tensor]) -> PrototypeHead:
    torch.set_default_dtype(torch.float64)
    partition = Partition(K, group.rank(), group.world_size())
    mine = slice(*partition.bounds())
    config = FaceltConfig.model_validate({"preset": "facelt", "embedding_size": D, **block})
    head = PrototypeHead(config, partition, COUNTS)
    rows = {"memory.centroids": x["c"], "classifier.weight": x["w"], "classifier.bias": x["b"]}
    head.load_state_dict({name: rows[name][mine] for name in head.state_dict()})
    head.memory.block = head.classifier.block = 3
    return head


def sharded(block: dict) -> dict:
    x = inputs()
    head = head_of(block, x)
    B = G // group.world_size()
    f = x["f"][group.rank() * B :][:B].clone().requires_grad_()
    output = head(Embedded(f), x["y"])
    output.loss.backward()
    learned = head.classifier.weight.grad
    head.after_step(applied=True)
    return {
        "parts": output.parts,
        "correct": output.correct_B,
        "f": f.grad,
        "w": learned,
        "c": head.memory.centroids.detach(),
        "untouched": head.memory.centroids.grad is None,
    }


def dense(block: dict) -> dict:
    x = inputs()
    config = FaceltConfig.model_validate({"preset": "facelt", **block})
    knobs, y = config.memory_head, x["y"]
    f, w = x["f"].clone().requires_grad_(), x["w"].clone().requires_grad_()
    if config.plain_head.classifier == "linear":
        by_classifier = F.cross_entropy(f @ w.T + x["b"], y)
    else:
        by_classifier = F.cross_entropy(config.plain_head.scale * F.normalize(f) @ F.normalize(w).T, y)
    cosines = F.normalize(f) @ F.normalize(x["c"]).T
    margins = knobs.margin * (COUNTS.min() / COUNTS.double()) ** knobs.margin_power
    moved = cosines - F.one_hot(y, K) * margins
    by_memory = knobs.weight * F.cross_entropy(knobs.scale * moved + knobs.prior * COUNTS.double().log(), y)
    (by_classifier + by_memory).backward()
    c = x["c"].clone()
    for k in y.unique():
        c[k] += (1 - knobs.momentum) * (F.normalize(x["f"])[y == k].mean(0) - c[k])
    biased = knobs.scale * cosines + knobs.prior * COUNTS.double().log()
    parts = {"cross_entropy": by_classifier.item(), "memory": by_memory.item()}
    return {"parts": parts, "correct": biased.argmax(1) == y, "f": f.grad, "w": w.grad, "c": c}


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize(
    "block",
    [
        {},
        {"memory_head": {"margin": 0.3, "margin_power": 0, "weight": 2, "momentum": 0.5}},
        {"memory_head": {"prior": 0.5, "scale": 8}, "plain_head": {"classifier": "cosine", "scale": 10}},
    ],
)
def test_the_sharded_head_is_the_dense_one(ranks, block):
    got, want = run_ranks(ranks, sharded, block), dense(block)
    for name, value in want["parts"].items():
        assert sum(r["parts"][name] for r in got).item() == pytest.approx(value, rel=1e-12)
    for name in ("correct", "f", "w", "c"):
        whole = np.concatenate([r[name] for r in got])
        np.testing.assert_allclose(whole, want[name], rtol=1e-10, atol=1e-12, err_msg=name)
    assert all(r["untouched"] for r in got)


def evaluated() -> tuple[int, int]:
    head = head_of({}, inputs()).eval()
    B = G // group.world_size()
    head(Embedded(inputs()["f"][group.rank() * B :][:B]), inputs()["y"])
    after_evaluation = len(head.memory._noted)
    head.train()(Embedded(inputs()["f"][group.rank() * B :][:B]), inputs()["y"])
    before = head.memory.centroids.clone()
    head.after_step(applied=False)
    assert torch.equal(before, head.memory.centroids)
    return after_evaluation, len(head.memory._noted)


def test_centroids_follow_training_alone_and_no_skipped_step():
    assert run_ranks(1, evaluated) == [(0, 0)]


def highest() -> torch.Tensor:
    return head_of({}, inputs()).memory.highest_cosine(inputs()["f"])


@pytest.mark.parametrize("ranks", [1, 3])
def test_highest_cosine(ranks):
    want = (F.normalize(inputs()["f"]) @ F.normalize(inputs()["c"]).T).amax(1)
    for got in run_ranks(ranks, highest):
        np.testing.assert_allclose(got, want, rtol=1e-12)
