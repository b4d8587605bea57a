"""Figures of the memory's health by hand at 1, 2 and 3 ranks, and what is said of them."""

import numpy as np
import pytest
import torch
from ranks import run_ranks

from facelt.config import FaceltConfig
from facelt.head import health
from facelt.head.heads import MetaHead, PlainHead
from facelt.network.embedder import Embedded
from facelt.parallel import group
from facelt.parallel.partition import Partition

K, D, G = 7, 4, 12


def inputs() -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    y = torch.tensor([0, 0, 0, 2, 2, 2, 5, 5, 5, 6, 6, 1])
    c = torch.randn(K, D, generator=g)
    f = c[y] + 0.5 * torch.randn(G, D, generator=g) + 1
    return {"c": c, "f": f, "y": y, "e": torch.tanh(torch.randn(G, D, generator=g))}


def measured(retrieval: str, **knobs) -> dict:
    x = inputs()
    partition = Partition(K, group.rank(), group.world_size())
    config = FaceltConfig.model_validate({"embedding_size": D, "head": {"retrieval": retrieval, **knobs}})
    head = MetaHead(config, partition)
    with torch.no_grad():
        head.memory.centroids.copy_(x["c"][slice(*partition.bounds())])
        if head.memory.retrieval == "hallucinator":
            head.memory.hallucinator_weight.copy_(3 * x["c"][slice(*partition.bounds())])
    mine = slice(group.rank() * G // group.world_size(), (group.rank() + 1) * G // group.world_size())
    output = head(Embedded(x["f"][mine], x["e"][mine], torch.tensor([8.0])), x["y"])
    return health.measure(head, output.seen)


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("retrieval", ["hallucinator", "cosine", "mean"])
def test_figures_by_hand(ranks, retrieval):
    x = {name: t.double() if t.is_floating_point() else t for name, t in inputs().items()}
    f, c, e, y = x["f"], x["c"], x["e"], x["y"]
    cosine = torch.nn.functional.normalize(f) @ torch.nn.functional.normalize(c).T
    o = {"hallucinator": f @ (3 * c).T, "cosine": 8 * cosine, "mean": torch.zeros(G, K)}[retrieval].double()
    memory = (e * (torch.softmax(o, 1) @ c)).norm(dim=1)
    reach = torch.cdist(f, c).min(1).values
    off = (f[:, None] - c).square().sum(2).masked_fill(torch.nn.functional.one_hot(y, K).bool(), 0)
    apart = size = 0.0
    for k in (0, 2, 5, 6):  # class 1 has one image
        of_k = f[y == k]
        noise = of_k.var(0).sum() / len(of_k)
        apart += (c[k] - of_k.mean(0)).square().sum() - noise
        size += of_k.mean(0).square().sum() - noise
    want = {
        "selector": e.abs().mean(),
        "memory_share": (memory / (f.norm(dim=1) + memory)).mean(),
        "reach_10": np.quantile(reach, 0.1),
        "reach_50": np.quantile(reach, 0.5),
        "reach_90": np.quantile(reach, 0.9),
        "hinge_active": float((10 - off.sum() / off.numel()) > 0),
        "batch_classes": 5,
        "temperature": 8,
        "memory_drift": (apart / size) ** 0.5,
    }
    if retrieval != "mean":
        want["retrieved_classes"] = len(o.argmax(1).unique())
    for got in run_ranks(ranks, measured, retrieval):
        assert got == pytest.approx({name: float(value) for name, value in want.items()}, rel=1e-4)


def within_hinge(margin: float) -> dict:
    paper = {"centroid_loss": "paper", "centroid_update": "gradient", "centroid_margin": margin}
    return measured("hallucinator", **paper, memory=False, reach=False)


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_the_share_of_images_within_the_hinge_of_equation_9(ranks):
    x = {name: t.double() if t.is_floating_point() else t for name, t in inputs().items()}
    distances = torch.cdist(x["f"], x["c"])  # without memory and reach, v_meta is the direct feature
    own = distances[torch.arange(G), x["y"]]
    margins = (distances.sum(1) - 2 * own).sort().values
    margin = float(margins[3] + margins[4]) / 2  # between the fourth and the fifth image
    for got in run_ranks(ranks, within_hinge, margin):
        assert got["hinge_active"] == pytest.approx(4 / G)
        assert not {"selector", "memory_share", "retrieved_classes"} & got.keys(), "of a memory that is not read"


def test_without_a_centroid_loss_there_is_no_hinge():
    assert "hinge_active" not in measured("hallucinator", centroid_weight=0, selector="one")
    assert "selector" not in measured("hallucinator", centroid_weight=0, selector="one"), "nothing selects"


def test_a_plain_head_has_none():
    head, x = PlainHead(FaceltConfig(embedding_size=D), Partition(K)), inputs()
    assert health.measure(head, head(Embedded(x["f"]), x["y"]).seen) == {}


@pytest.mark.parametrize(
    "values, kinds",
    [
        ({"memory_drift": 0.1, "selector": 0.5, "batch_classes": 32, "retrieved_classes": 20}, []),
        ({"memory_drift": 0.4}, ["stale"]),
        ({"selector": 0.93}, ["saturated"]),
        ({"batch_classes": 32, "retrieved_classes": 1}, ["collapsed"]),
        ({"batch_classes": 4, "retrieved_classes": 1}, []),  # too few to tell
        ({"batch_classes": 32}, []),  # the control retrieves nothing
        ({"hinge_active": 0.0}, ["inert"]),
        ({"hinge_active": 0.1}, []),
    ],
)
def test_what_is_said(values, kinds):
    said = health.warnings(values)
    assert list(said) == kinds
    assert all("try head." in text for text in said.values())
