"""One rank and two give the same losses and weights on the same global batches, under every ZeRO stage."""

import numpy as np
import pytest
import torch
from engines import LR, SGD, STEPS, G, K, batch, build, halves, start_head, tiny
from ranks import run_ranks

from facelt.config import FaceltConfig, MetaHeadConfig
from facelt.head.heads import MetaHead, PlainHead
from facelt.network.backbone import switch
from facelt.network.embedder import Embedder
from facelt.parallel import collectives, group
from facelt.parallel.partition import Partition
from facelt.training.engine import Engine


def train(stage: str, batch_norm: str, ds: dict) -> dict:
    engine = build(stage, batch_norm, ds)
    engine.embedder.train()
    losses = []
    for step in range(STEPS):
        ranks, rank, loss = group.world_size(), group.rank(), 0.0
        images, labels = batch(step, 0, 1)
        for part, own in zip(images.chunk(engine.accumulation), labels.chunk(engine.accumulation), strict=True):
            result = engine.forward_backward(part.tensor_split(ranks)[rank], own)
            engine.step(LR)
            loss += collectives.all_sum(result.loss.detach()).item() / engine.accumulation
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
    partition = Partition(K, group.rank(), group.world_size())
    head = start_head(MetaHead(config, partition), embedder, partition)
    images, labels = batch(0, group.rank(), group.world_size())
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


def partitioned(zero: int) -> bool:
    return bool(build("plain", "synchronised", {"zero_optimization": {"stage": zero}}).engine.zero_optimization())


def test_one_rank_partitions_nothing():
    assert run_ranks(1, partitioned, 2) == [False]
    assert run_ranks(2, partitioned, 1) == [True, True]


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


def clipped_by_torch(accumulation: int, clipping: float) -> dict:
    """The whole model in one process without an engine: torch's own clipping of all parameters at once, then SGD."""
    embedder, head = halves("meta", "synchronised")
    parameters = [*embedder.parameters(), *head.parameters()]
    optimizer = torch.optim.SGD(parameters, **SGD["params"])
    norms = []
    for step in range(3):
        images, labels = batch(step, 0, 1)
        for part, own in zip(images.chunk(accumulation), labels.chunk(accumulation), strict=True):
            (head(embedder(part), own).loss / accumulation).backward()
        norms.append(torch.nn.utils.clip_grad_norm_(parameters, clipping).item() if clipping else 0.0)
        optimizer.step()
        optimizer.zero_grad()
    return {"norms": norms, "weights": embedder.state_dict(), "rows": dict(head.named_parameters())}


def clipped(ds: dict, checkpointing: bool = False) -> dict:
    engine = build("meta", "synchronised", ds)
    switch(engine.embedder.train().backbone, compile=False, channels_last=False, checkpointing=checkpointing)
    norms = []
    for step in range(3):
        images, labels = batch(step, 0, 1)
        for part, own in zip(images.chunk(engine.accumulation), labels.chunk(engine.accumulation), strict=True):
            engine.forward_backward(part.tensor_split(group.world_size())[group.rank()], own)
            engine.step(LR)
        norms.append(engine.gradient_norm)
    return {"norms": norms, "weights": engine.replicated_weights(), "rows": engine.sharded_rows()}


def assert_same_weights(got: list[dict], want: dict, atol: float) -> None:
    for rank in got:
        for name, tensor in want["weights"].items():
            np.testing.assert_allclose(rank["weights"][name], tensor, rtol=1e-5, atol=atol, err_msg=name)
    for name, tensor in want["rows"].items():
        rows = np.concatenate([rank["rows"][name] for rank in got])
        np.testing.assert_allclose(rows, tensor, rtol=1e-5, atol=atol, err_msg=name)


BITING = [(1, 0, 1), (1, 2, 2), (2, 0, 2), (2, 1, 2), (2, 2, 1), (2, 2, 2)]


@pytest.mark.parametrize(
    "ranks, zero, accumulation, clipping, bites",
    [*((*case, 0.5, True) for case in BITING), (2, 0, 1, 1e4, False), (2, 2, 2, 1e4, False), (2, 1, 1, 0.0, False)],
)
def test_clipping_is_torchs_over_all_parameters(ranks, zero, accumulation, clipping, bites):
    (want,) = run_ranks(1, clipped_by_torch, accumulation, clipping)
    ds = {"gradient_accumulation_steps": accumulation, "zero_optimization": {"stage": zero}}
    ds |= {"gradient_clipping": clipping} if clipping else {}
    got = run_ranks(ranks, clipped, ds)
    for rank in got:
        assert all(norm > clipping for norm in rank["norms"]) == (bites or not clipping)
        assert min(rank["norms"]) > 1  # where DeepSpeed, told nothing, would clip the network
        if clipping:
            assert rank["norms"] == pytest.approx(want["norms"], rel=1e-5)
    assert_same_weights(got, want, 1e-6 if bites else 1e-5)  # unclipped steps are the larger


@pytest.mark.parametrize("zero", [0, 2])
def test_recomputed_blocks_are_known_to_no_engine(zero):
    """DeepSpeed reduces gradients from hooks in the backward pass, where the blocks' own collectives are done again."""
    ds = {"gradient_accumulation_steps": 2, "zero_optimization": {"stage": zero}}
    for got, want in zip(run_ranks(2, clipped, ds, True), run_ranks(2, clipped, ds), strict=True):
        for kind in ("weights", "rows"):
            for name, tensor in want[kind].items():
                np.testing.assert_allclose(got[kind][name], tensor, rtol=1e-6, atol=1e-7, err_msg=name)


# Float16 by name: a loss scale, and no operation and no reduction of gradients that it would round.
HALF = {"torch_autocast": {"enabled": True, "dtype": "float16", "lower_precision_safe_modules": []}}


def plant(engine: Engine, where: str) -> None:
    """One infinite gradient: in the rows of the head that the last rank owns, or in rank 0's share of the network."""
    if where == "head" and group.rank() == group.world_size() - 1:
        next(engine.head.parameters()).grad.view(-1)[0] = float("inf")


def snapshot(engine: Engine) -> dict:
    state = {**engine.replicated_weights(), **engine.replicated_moments(), **engine.sharded_rows()}
    return {n: t.clone() for n, t in state.items() if not n.endswith(("running_mean", "running_var", "tracked"))}


def overflowing(ds: dict, where: str | None, bad: int, steps: list[int]) -> dict:
    """Steps of stage meta, the bad one of them with an infinite gradient somewhere on one rank."""
    engine = build("meta", "frozen", ds)
    engine.embedder.train()
    scales, states, figures = [engine.loss_scale], [snapshot(engine)], []
    for step in steps:
        handle = None
        if step == bad and where == "network" and group.rank() == 0:
            handle = engine.embedder.neck.fc.weight.register_hook(lambda grad: grad * float("inf"))
        engine.forward_backward(*batch(step, group.rank(), group.world_size()))
        if step == bad:
            plant(engine, where)
        engine.step(LR)
        if handle:
            handle.remove()
        scales.append(engine.loss_scale)
        states.append(snapshot(engine))
        figures.append(engine.figures())
    norm = engine.gradient_norm
    return {"scales": scales, "states": states, "figures": figures, "skipped": engine.skipped_steps, "norm": norm}


@pytest.mark.parametrize("zero", [0, 1, 2])
@pytest.mark.parametrize("where, bad", [("head", 0), ("network", 1)])
def test_an_overflow_anywhere_skips_both_halves_everywhere(zero, where, bad):
    ds = {**HALF, "zero_optimization": {"stage": zero}, "fp16": {"initial_scale_power": 8}}
    got = run_ranks(2, overflowing, ds, where, bad, [0, 1, 2])
    clean = run_ranks(2, overflowing, ds, None, -1, [step for step in (0, 1, 2) if step != bad])
    for rank, other in zip(got, clean, strict=True):
        assert rank["scales"] == [256.0] * (bad + 1) + [128.0] * (3 - bad)
        assert (rank["skipped"], other["skipped"]) == (1, 0)
        assert rank["figures"][bad] == {
            "skipped_steps": 1,
            "loss_scale": 128.0,
        }  # and no norm, which JSON has no word for
        assert rank["figures"][2] == {"skipped_steps": 1, "loss_scale": 128.0, "gradient_norm": rank["norm"]}
        for name, before in rank["states"][bad].items():
            np.testing.assert_array_equal(rank["states"][bad + 1][name], before, err_msg=name)
            want = other["states"][-1][name]  # of the run that never saw that batch
            np.testing.assert_allclose(rank["states"][-1][name], want, rtol=1e-6, atol=1e-7, err_msg=name)
        moved = [n for n, t in rank["states"][bad + 1].items() if not np.array_equal(rank["states"][bad + 2][n], t)]
        assert {"neck.fc.weight", "classifier.weight", "classifier.weight.momentum_buffer"} <= set(moved)


def test_float16_keeps_float32_weights_and_is_near_the_float32_run():
    ds = {"zero_optimization": {"stage": 1}, "torch_autocast": {"enabled": True, "dtype": "float16"}}
    got = run_ranks(2, overflowing, ds | {"fp16": {"initial_scale_power": 8}}, None, -1, [0, 1])
    want = run_ranks(2, overflowing, {}, None, -1, [0, 1])
    assert got[0]["skipped"] == 0
    assert got[0]["norm"] == pytest.approx(want[0]["norm"], rel=0.05)
    assert got[0]["norm"] != want[0]["norm"]
    for name, tensor in want[0]["states"][-1].items():
        assert got[0]["states"][-1][name].dtype == np.float32
        np.testing.assert_allclose(got[0]["states"][-1][name], tensor, rtol=0, atol=0.1 * np.abs(tensor).max())


@pytest.mark.parametrize("zero", [0, 1])
def test_a_loss_scale_changes_nothing_where_nothing_overflows_and_grows(zero):
    scaled = {**HALF, "zero_optimization": {"stage": zero}}
    unscaled = {"zero_optimization": {"stage": zero}}
    grows = scaled | {"fp16": {"initial_scale_power": 6, "loss_scale_window": 2}}
    got = run_ranks(2, overflowing, grows, None, -1, [0, 1, 2, 3, 4])
    want = run_ranks(2, overflowing, unscaled, None, -1, [0, 1, 2, 3, 4])
    assert got[0]["scales"] == got[1]["scales"] == [64.0, 64.0, 64.0, 128.0, 128.0, 256.0]
    assert want[0]["scales"] == [1.0] * 6
    assert got[0]["norm"] == pytest.approx(want[0]["norm"], rel=1e-6)
    for name, tensor in want[1]["states"][-1].items():
        np.testing.assert_allclose(got[1]["states"][-1][name], tensor, rtol=1e-6, atol=1e-7, err_msg=name)


def scale_at_its_end() -> dict:
    engine = build("meta", "frozen", {**HALF, "fp16": {"initial_scale_power": 1, "min_loss_scale": 1}})
    said = None
    try:
        for step in range(3):
            engine.forward_backward(*batch(step, group.rank(), group.world_size()))
            plant(engine, "head")
            engine.step(LR)
    except ValueError as error:
        said = str(error)
    return {"steps": step, "said": said}


def test_gradients_that_overflow_at_any_scale_are_an_error_on_all_ranks():
    for rank in run_ranks(2, scale_at_its_end):
        assert rank["steps"] == 1
        assert "smallest loss scale, 1:" in rank["said"]


def scale_taken_up() -> dict:
    ds = {**HALF, "fp16": {"initial_scale_power": 4, "loss_scale_window": 2}}
    first = build("meta", "frozen", ds)
    for step in range(2):
        first.forward_backward(*batch(step, 0, 1))
        first.step(LR)
    second = build("meta", "frozen", ds)
    second.load_scalars(first.scalars())
    scales = []
    for engine in (first, second):
        engine.forward_backward(*batch(2, 0, 1))
        engine.step(LR)
        scales.append(engine.loss_scale)
    exact = build("meta", "frozen", {})
    exact.load_scalars(first.scalars())
    return {"scales": scales, "state": first.scalars(), "exact": [exact.loss_scale, sorted(exact.scalars())]}


def test_the_loss_scale_is_part_of_what_a_run_goes_on_with():
    (got,) = run_ranks(1, scale_taken_up)
    assert got["scales"] == [32.0, 32.0]  # the third good step doubles it, counted over both engines
    want = {"cur_scale": 32.0, "cur_iter": 3, "last_overflow_iter": -1, "cur_hysteresis": 1}
    assert got["state"].items() >= want.items()
    assert got["exact"] == [1.0, ["norm_deviation", "norm_mean"]]


def decayed(decay: float | None) -> dict:
    """One step without a gradient of the loss's own: the weights move by their decay alone."""
    knobs = {} if decay is None else {"memory_weight_decay": decay}
    config = tiny("frozen").model_copy(update={"head": MetaHeadConfig(**knobs)})
    head = MetaHead(config, Partition(K)).double()  # float32 would round such small steps
    for parameter in head.parameters():
        torch.nn.init.ones_(parameter)
        parameter.grad = torch.zeros_like(parameter)
    ds = {"train_batch_size": G, "optimizer": SGD, "steps_per_print": 10**9}
    engine = Engine(Embedder(config, True), head, ds)
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
    partition = Partition(K, group.rank(), group.world_size())
    ds = {"train_batch_size": G, "optimizer": SGD, "steps_per_print": 10**9}
    engine = Engine(embedder, PlainHead(config, partition), ds)
    embedder.train()
    embedder.backbone.eval()
    for step in range(3):
        engine.forward_backward(*batch(step, group.rank(), group.world_size()))
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
        ({"optimizer": SGD, "fp16": True}, "fp16 is True; expected a block"),
        ({"optimizer": SGD, "zero_optimization": {"stage": 1, "offload_optimizer": {"device": "cpu"}}}, "offload"),
        ({"optimizer": SGD, "gradient_clipping": -1}, "gradient_clipping is -1; expected the largest norm"),
        ({"optimizer": SGD, "gradient_clipping": "1"}, "gradient_clipping is '1'"),
    ],
)
def test_refuses_what_the_halves_cannot_share(ds, word):
    with pytest.raises(ValueError, match=word):
        Engine(torch.nn.Linear(1, 1), torch.nn.Linear(1, 1), ds)


RATES = {"classifier_lr": 10, "centroid_lr": 0.5}


def halves_with_rates(stage: str) -> tuple:
    block = {"plain": {"classifier_lr": 10}, "meta": RATES}
    config = tiny("synchronised")
    return halves(stage, "synchronised", config=FaceltConfig.model_validate({**config.model_dump(), **block}))


def rated(stage: str, ds: dict) -> dict:
    engine = Engine(
        *halves_with_rates(stage), {"train_batch_size": G, "optimizer": SGD, "steps_per_print": 10**9, **ds}
    )
    engine.embedder.train()
    for step in range(3):
        engine.forward_backward(*batch(step, group.rank(), group.world_size()))
        engine.step(LR)
    return {"weights": engine.replicated_weights(), "rows": engine.sharded_rows()}


def rated_by_torch(stage: str) -> dict:
    """The same three steps in one process without an engine, each parameter at the rate that its name asks for."""
    embedder, head = halves_with_rates(stage)
    rates = {"memory.centroids": 0.5, "memory": 10, "classifier": 10}
    named = [*embedder.train().named_parameters(), *head.named_parameters()]
    groups = []
    for name, parameter in named:
        scale = next((rate for prefix, rate in rates.items() if name.startswith(prefix)), 1)
        groups.append({"params": [parameter], "lr": LR * scale})
    optimizer = torch.optim.SGD(groups, **SGD["params"])
    for step in range(3):
        head(embedder(batch(step, 0, 1)[0]), batch(step, 0, 1)[1]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return {"weights": embedder.state_dict(), "rows": dict(head.named_parameters())}


@pytest.mark.parametrize("ranks, zero", [(1, 0), (2, 0), (2, 1), (2, 2)])
@pytest.mark.parametrize("stage", ["plain", "meta"])
def test_groups_learn_at_rates_of_their_own(stage, ranks, zero):
    (want,) = run_ranks(1, rated_by_torch, stage)
    assert_same_weights(run_ranks(ranks, rated, stage, {"zero_optimization": {"stage": zero}}), want, 1e-6)
