"""One rank and two give the same losses and weights on the same global batches, under every ZeRO stage."""

import numpy as np
import pytest
import torch
from ranks import run_ranks

from facelt import comms
from facelt.config import FaceltConfig
from facelt.engine import Engine
from facelt.model import Embedder, MetaHead, PlainHead
from facelt.partition import Partition

K, G, SIZE, STEPS, LR = 7, 16, 32, 10, 0.001
SGD = {"type": "SGD", "params": {"lr": LR, "momentum": 0.9, "weight_decay": 5e-4}}


def tiny(batch_norm: str) -> FaceltConfig:
    backbone = {"name": "resnet10", "width": 8, "stem": "face", "batch_norm": batch_norm}
    return FaceltConfig.model_validate({"embedding_size": 16, "image_size": SIZE, "backbone": backbone})


def start_head(head: MetaHead, embedder: Embedder, partition: Partition) -> MetaHead:
    """Weights as after the memory's initialisation, and an attention that does something."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in (head.memory.centroids, head.memory.hallucinator_weight):
            parameter.copy_(0.3 * torch.randn(K, 16, generator=generator)[slice(*partition.bounds())])
        embedder.attention.conv_mask.weight.normal_(0, 0.1, generator=generator)
    return head


def build(stage: str, batch_norm: str, ds: dict) -> Engine:
    config = tiny(batch_norm)
    torch.manual_seed(3)
    embedder = Embedder(config, meta=stage == "meta")
    partition = Partition(K, comms.rank(), comms.world_size())
    head = PlainHead(config, partition)
    if stage == "meta":
        head = start_head(MetaHead(config, partition), embedder, partition)
    ds = {"train_batch_size": G, "optimizer": SGD, "steps_per_print": 10**9, **ds}
    return Engine(embedder, head, ds)


def batch(step: int, rank: int, ranks: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    images = torch.randn(G, 3, SIZE, SIZE, generator=generator)
    labels = torch.randint(0, K, (G,), generator=generator)
    return images[rank * G // ranks : (rank + 1) * G // ranks], labels


def train(stage: str, batch_norm: str, ds: dict) -> dict:
    engine = build(stage, batch_norm, ds)
    engine.embedder.train()
    losses = []
    for step in range(STEPS):
        images, labels = batch(step, comms.rank(), comms.world_size())
        result = engine.forward_backward(images, labels)
        engine.step(LR)
        losses.append(comms.all_sum(result.loss.detach()).item())
    return {
        "losses": losses,
        "weights": {name: t.clone() for name, t in engine.replicated_weights().items()},
        "rows": {name: t.clone() for name, t in engine.sharded_rows().items()},
    }


def assert_same(one: list[dict], two: list[dict], tolerance: float) -> None:
    np.testing.assert_allclose(two[0]["losses"], one[0]["losses"], rtol=tolerance, atol=tolerance)
    for name, want in one[0]["weights"].items():
        np.testing.assert_allclose(two[0]["weights"][name], want, rtol=tolerance, atol=tolerance, err_msg=name)
    for name in (n for n in one[0]["rows"] if not n.endswith("momentum_buffer")):
        want = np.concatenate([r["rows"][name] for r in one])
        got = np.concatenate([r["rows"][name] for r in two])
        np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("batch_norm", ["synchronised", "frozen"])
@pytest.mark.parametrize("stage", ["plain", "meta"])
def test_two_ranks_are_one(stage, batch_norm):
    one = run_ranks(1, train, stage, batch_norm, {})
    assert one[0]["losses"][-1] != one[0]["losses"][0]
    two = run_ranks(2, train, stage, batch_norm, {"zero_optimization": {"stage": 0}})
    assert_same(one, two, 1e-5)


def gradients() -> dict:
    """One backward of the whole model in float64, without DeepSpeed, which knows no float64."""
    config = tiny("synchronised")
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(3)
    embedder = Embedder(config, meta=True).train()
    partition = Partition(K, comms.rank(), comms.world_size())
    head = start_head(MetaHead(config, partition), embedder, partition)
    images, labels = batch(0, comms.rank(), comms.world_size())
    result = head(*embedder(images), labels)
    result.loss.backward()
    return {
        "loss": result.loss,
        "replicated": {name: p.grad for name, p in embedder.named_parameters()},
        "sharded": {name: p.grad for name, p in head.named_parameters()},
    }


@pytest.mark.parametrize("ranks", [2, 4])
def test_gradients_over_ranks_sum_to_those_of_one_in_float64(ranks):
    (one,) = run_ranks(1, gradients)
    many = run_ranks(ranks, gradients)
    assert sum(r["loss"] for r in many) == pytest.approx(one["loss"], rel=1e-12)
    for name, want in one["replicated"].items():
        got = sum(r["replicated"][name] for r in many)
        np.testing.assert_allclose(got, want, rtol=1e-8, atol=1e-11, err_msg=name)
    for name, want in one["sharded"].items():
        got = np.concatenate([r["sharded"][name] for r in many])
        np.testing.assert_allclose(got, want, rtol=1e-8, atol=1e-11, err_msg=name)


@pytest.mark.parametrize("zero", [1, 2])
def test_zero_stages_are_stage_zero(zero):
    one = run_ranks(1, train, "meta", "synchronised", {})
    two = run_ranks(2, train, "meta", "synchronised", {"zero_optimization": {"stage": zero}})
    assert_same(one, two, 1e-5)


@pytest.mark.parametrize(
    "ds, word",
    [
        ({"optimizer": {"type": "Lamb", "params": {"lr": 1}}}, "optimizer.type is 'Lamb'"),
        ({"optimizer": {"type": "SGD", "params": {}}}, "optimizer.params.lr is None"),
        ({"optimizer": SGD, "zero_optimization": {"stage": 3}}, "zero_optimization.stage is 3"),
        ({"optimizer": SGD, "fp16": {"enabled": True}}, "fp16"),
    ],
)
def test_refuses_what_the_halves_cannot_share(ds, word):
    with pytest.raises(ValueError, match=word):
        Engine(torch.nn.Linear(1, 1), torch.nn.Linear(1, 1), ds)
