"""Steps of heads and engines on the device that is not there and on the CPU: what they give, what they cost."""

from typing import Any, NamedTuple

import torch
from engines import LR, SGD, batch, halves
from engines import G as IMAGES
from engines import K as PEOPLE
from fake_cuda import OnDevice, counted, fake_cuda, on_host

from facelt.config import FaceltConfig
from facelt.head import health
from facelt.head.heads import Head, MetaHead, PlainHead
from facelt.head.prototype_head import PrototypeHead
from facelt.network.embedder import Embedded
from facelt.parallel import group
from facelt.parallel.partition import Partition
from facelt.training.class_means import ClassMeans
from facelt.training.engine import Engine

K, D, G, BLOCK = 64, 16, 12, 16


class Cost(NamedTuple):
    """Of one step. in_blocks: how often the host waits more in four blocks of classes than in one, by three."""

    kernels: int
    waits: int
    in_blocks: float
    products: float
    megabytes: float


CONFIGS: dict[str, dict[str, Any]] = {
    "released": {},
    "paper": {"preset": "paper", "head": {"centroid_margin": 400}},
    "cosine": {"preset": "cosine"},
    "released, arcface": {"head": {"margin": "arcface", "margin_size": 0.4, "centroid_update": "refresh"}},
    "cosine, adaface": {"preset": "cosine", "head": {"margin": "adaface", "margin_size": 0.4}},
    "released, bfloat16 products": {"products": "bfloat16"},
    "released, half of the classes": {"meta": {"sample_rate": 0.5}},
    "plain": {},
    "plain, cosface": {"plain_head": {"classifier": "cosine", "margin": "cosface", "margin_size": 0.35}},
    "plain, focal": {"plain_head": {"loss": "focal"}},
    "plain, balanced softmax": {"plain_head": {"loss": "balanced_softmax"}},
    "plain, lifted": {"plain_head": {"metric": "lifted"}},
    "plain, range": {"plain_head": {"metric": "range"}},
    "plain, half of the classes": {"plain": {"sample_rate": 0.5}},
    "memory": {},
    "memory, prior": {"memory_head": {"prior": 1}},
}


def head_of(name: str) -> Head:
    config = FaceltConfig.model_validate({"embedding_size": D, **CONFIGS[name]})
    partition = Partition(K, group.rank(), group.world_size())
    torch.manual_seed(4)
    counts_K = torch.arange(1, K + 1)
    if name.startswith("plain"):
        return PlainHead(config, partition, counts_K)
    head = PrototypeHead(config, partition, counts_K) if name.startswith("memory") else MetaHead(config, partition)
    with torch.no_grad():
        for _, rows in sorted(head.memory.named_parameters()):
            rows.copy_(0.3 * torch.randn(K, *rows.shape[1:])[slice(*partition.bounds())])
    return head


def head_step(name: str, device: str, block: int = BLOCK) -> tuple[dict[str, Any], Any]:
    """What a step of a head gives on one rank's share of a batch, its gradients, its health; and its tally."""
    head = head_of(name).to(device)
    for part in (head.classifier, getattr(head, "memory", None)):
        if part is not None:
            part.block = block
    generator = torch.Generator().manual_seed(7)
    mine = slice(group.rank() * G // group.world_size(), (group.rank() + 1) * G // group.world_size())
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    f, e = (part[mine].to(device).requires_grad_() for part in (draw(G, D), torch.tanh(draw(G, D))))
    t = torch.tensor([3.0]).to(device).requires_grad_()
    labels_G = torch.randint(0, K // 2, (G,), generator=generator).repeat_interleave(2)[:G]
    labels_G = head.partition.place(labels_G, torch.device(device))
    embedded = Embedded(f, e, t) if isinstance(head, MetaHead) else Embedded(f)
    with counted() as tally:
        out = head(embedded, labels_G, 3)
        out.loss.backward()
        head.after_step(True)
    got = {"loss": out.loss, **out.parts, "correct": out.correct_B, "f": f.grad}
    got |= {name: p.grad for name, p in head.named_parameters() if p.grad is not None}
    got |= {f"{name}, after": p for name, p in head.named_parameters()}
    if device == "cuda":
        strangers = [name for name, x in got.items() if not isinstance(x, OnDevice)]
        assert not strangers, f"left the device: {strangers}"
    got["health"] = health.measure(head, out.seen)
    return {name: on_host(x) for name, x in got.items()}, tally


def faked_head(name: str) -> dict[str, Any]:
    with fake_cuda():
        got, tally = head_step(name, "cuda")
        _, whole = head_step(name, "cuda", K)
    k = Partition(K, group.rank(), group.world_size()).size
    blocks = -(-k // BLOCK) - 1
    in_blocks = (tally.waits() - whole.waits()) / blocks
    cost = Cost(whole.launched(), whole.waits(), in_blocks, whole.products(G, k, D), whole.bytes / 2**20)
    return {"got": got, "want": head_step(name, "cpu")[0], "cost": cost._asdict(), "places": tally.places()}


def engine_steps(ds: dict[str, Any], stage: str, device: str, steps: int = 2) -> dict[str, Any]:
    """What a few steps of an engine leave, and how often the host waited in the last of them."""
    embedder, head = halves(stage, "synchronised")
    ds = {"train_batch_size": IMAGES, "optimizer": SGD, "steps_per_print": 10**9, **ds}
    engine = Engine(embedder.to(device), head.to(device), ds)
    engine.embedder.train()
    partition = Partition(PEOPLE, group.rank(), group.world_size())
    for step in range(steps):
        images, labels = batch(step, group.rank(), group.world_size())
        images, labels = images.to(device), partition.place(labels, torch.device(device))
        with counted() as tally:
            engine.forward_backward(images, labels)
            engine.step(LR)
    return {
        "weights": on_host(engine.replicated_weights()),
        "rows": on_host(engine.sharded_rows()),
        "said": [engine.gradient_norm, engine.loss, engine.skipped_steps],
        "cost": {"waits": tally.waits(), "outside": tally.waits() - tally.waits("facelt/head")},
        "places": tally.places(),
    }


def faked_engine(ds: dict[str, Any], stage: str) -> dict[str, Any]:
    with fake_cuda():
        got = engine_steps(ds, stage, "cuda")
    return {"got": got, "want": engine_steps(ds, stage, "cpu")}


def means(device: str) -> torch.Tensor:
    made = ClassMeans(Partition(3, group.rank(), group.world_size()), 2, torch.zeros(1, device=device))
    features = torch.arange(8.0).view(4, 2).to(device)
    labels_G = torch.tensor([0, 1, 2, 0]).repeat(group.world_size()).to(device)
    made.add(features, labels_G, torch.ones(len(labels_G), dtype=torch.bool).to(device))
    return on_host(made.result())


def faked_means() -> dict[str, Any]:
    with fake_cuda():
        got = means("cuda")
    return {"got": got, "want": means("cpu")}
