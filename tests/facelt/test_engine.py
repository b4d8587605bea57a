"""One rank and two give the same losses and weights on the same global batches, under every ZeRO stage."""

import numpy as np
import pytest
import torch
from ranks import run_ranks

from facelt import comms
from facelt.config import FaceltConfig
from facelt.embedder import Embedder
from facelt.engine import Engine
from facelt.model import MetaHead, PlainHead
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
        ranks, rank, loss = comms.world_size(), comms.rank(), 0.0
        images, labels = batch(step, 0, 1)
        for part, own in zip(images.chunk(engine.accumulation), labels.chunk(engine.accumulation), strict=True):
            result = engine.forward_backward(part.tensor_split(ranks)[rank], own)
            engine.step(LR)
            loss += comms.all_sum(result.loss.detach()).item() / engine.accumulation
        losses.append(loss)
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
    result = head(embedder(images), labels)
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


@pytest.mark.parametrize("ranks, zero", [(1, 0), (2, 0), (2, 2)])
def test_accumulated_micro_batches_are_the_mean_of_their_gradients(ranks, zero):
    """Two micro-batches of a step: frozen statistics and cross-entropy alone, so that the batch is their mean."""
    whole = run_ranks(1, train, "plain", "frozen", {})
    parts = {"gradient_accumulation_steps": 2, "zero_optimization": {"stage": zero}}
    assert_same(whole, run_ranks(ranks, train, "plain", "frozen", parts), 1e-5)


def test_autocast_keeps_float32_weights_and_embeddings():
    """jobs/ds.json's precision: bfloat16 convolutions under ZeRO 1, near the float32 run and not equal to it."""
    ds = {"zero_optimization": {"stage": 1}, "torch_autocast": {"enabled": True, "dtype": "bfloat16"}}
    exact = run_ranks(1, train, "meta", "frozen", {})
    rounded = run_ranks(2, train, "meta", "frozen", ds)
    for name, want in exact[0]["weights"].items():
        assert rounded[0]["weights"][name].dtype == want.dtype
    np.testing.assert_allclose(rounded[0]["losses"], exact[0]["losses"], rtol=0.05)
    assert rounded[0]["losses"] != exact[0]["losses"]


def decayed(decay: float | None) -> dict:
    """One step without a gradient of the loss's own: the weights move by their decay alone."""
    config = tiny("frozen")
    head = MetaHead(config, Partition(K)).double()  # float32 would round such small steps
    for parameter in head.parameters():
        torch.nn.init.ones_(parameter)
        parameter.grad = torch.zeros_like(parameter)
    ds = {"train_batch_size": G, "optimizer": SGD, "steps_per_print": 10**9}
    engine = Engine(Embedder(config, True), head, ds, memory_weight_decay=decay)
    engine.head_optimizer.step()
    return {"centroids": head.memory.centroids.mean().item(), "classifier": head.classifier.weight.mean().item()}


@pytest.mark.parametrize("decay, of_centroids", [(None, 5e-4), (0.0, 0.0), (0.1, 0.1)])
def test_the_memory_may_have_a_weight_decay_of_its_own(decay, of_centroids):
    (after,) = run_ranks(1, decayed, decay)
    assert after["centroids"] == pytest.approx(1 - LR * of_centroids, abs=1e-12)
    assert after["classifier"] == pytest.approx(1 - LR * 5e-4, abs=1e-12)


def train_frozen() -> dict:
    config = tiny("synchronised")
    embedder = Embedder(config, meta=False)
    for parameter in embedder.backbone.parameters():
        parameter.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in embedder.state_dict().items()}
    partition = Partition(K, comms.rank(), comms.world_size())
    ds = {"train_batch_size": G, "optimizer": SGD, "steps_per_print": 10**9}
    engine = Engine(embedder, PlainHead(config, partition), ds)
    embedder.train()
    embedder.backbone.eval()
    for step in range(3):
        engine.forward_backward(*batch(step, comms.rank(), comms.world_size()))
        engine.step(LR)
    after = engine.replicated_weights()
    return {"moved": sorted(name for name in before if not torch.equal(before[name], after[name]))}


def test_a_frozen_backbone_does_not_move_nor_do_its_statistics():
    assert run_ranks(2, train_frozen) == [{"moved": ["neck.fc.bias", "neck.fc.weight"]}] * 2


@pytest.mark.parametrize(
    "ds, word",
    [
        ({"optimizer": {"type": "Lamb", "params": {"lr": 1}}}, "optimizer.type is 'Lamb'"),
        ({"optimizer": "SGD"}, "optimizer.type is 'SGD'; expected SGD with its params"),
        ({"optimizer": {"type": "SGD", "params": {}}}, "optimizer.params.lr is None"),
        ({"optimizer": {"type": "SGD", "params": {"lr": 1, "momentun": 1}}}, "optimizer.params.momentun is not known"),
        ({"optimizer": SGD, "zero_optimization": {"stage": 3}}, "zero_optimization.stage is 3"),
        ({"optimizer": SGD, "zero_optimization": 1}, "zero_optimization.stage is 1"),
        ({"optimizer": SGD, "fp16": {"enabled": True}}, "torch_autocast"),
        ({"optimizer": SGD, "torch_autocast": {"enabled": True, "dtype": "float16"}}, "torch_autocast"),
        ({"optimizer": SGD, "gradient_clipping": 1.0}, "gradient_clipping"),
    ],
)
def test_refuses_what_the_halves_cannot_share(ds, word):
    with pytest.raises(ValueError, match=word):
        Engine(torch.nn.Linear(1, 1), torch.nn.Linear(1, 1), ds)
