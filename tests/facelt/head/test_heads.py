"""The sharded, blocked head against the dense twin in float64: losses and every gradient at 1, 2 and 3 ranks."""

import dense
import numpy as np
import pytest
import torch
from head_cases import (
    CASES,
    HALLUCINATOR,
    PLAIN_CASES,
    SEED,
    D,
    G,
    assert_dense,
    compare,
    compare_plain,
    expected,
    head_of,
    inputs,
    plain_config,
    sharded,
)
from ranks import run_ranks
from torch.utils._python_dispatch import TorchDispatchMode

from facelt.config import FaceltConfig
from facelt.head.heads import MetaHead, PlainHead
from facelt.network.embedder import Embedded
from facelt.parallel import collectives, group
from facelt.parallel.partition import Partition


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("K, preset, near, knobs", CASES)
def test_meta_head_is_the_dense_head(ranks, K, preset, near, knobs):
    compare(ranks, K, preset, near, knobs)


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize(
    "preset, knobs",
    [
        ("released", {"centroid_gradient": True, "centroid_margin": 30}),
        ("facelt", {"centroid_update": "gradient", "centroid_gradient": True, "direct_weight": 1}),
    ],
)
def test_a_sample_of_the_classes_is_the_dense_head_over_them(ranks, preset, knobs):
    compare(ranks, 13, preset, True, knobs, rate=0.3)


def trained(K: int, preset: str, knobs: dict, accumulate: int) -> dict:
    """Two steps of SGD with momentum and weight decay over the head, each of `accumulate` equal micro-batches."""
    x = inputs(K, True)
    head = head_of(K, preset, knobs, x)
    sgd = torch.optim.SGD([p for p in head.parameters() if p.requires_grad], 0.1, 0.9, weight_decay=5e-4, fused=True)
    B = G // group.world_size()
    mine = slice(group.rank() * B, (group.rank() + 1) * B)
    for step in range(2):
        for _ in range(accumulate):
            embedded = Embedded(x["f"][mine] + step, x["e"][mine], x["t"])
            (head(embedded, x["y"], SEED).loss / accumulate).backward()
        sgd.step()
        head.after_step(True)
        sgd.zero_grad(set_to_none=False)
    return {name: p.detach() for name, p in head.named_parameters()}


def dense_trained(K: int, preset: str, knobs: dict) -> dict:
    x = inputs(K, True)
    knobs = FaceltConfig.model_validate({"preset": preset, "head": knobs}).head.model_dump()
    follows = knobs["centroid_update"] == "mean"
    leaves = {n: x[n].clone().requires_grad_(n != "c" or not follows) for n in ("c", "hw", "hb", "w")}
    sgd = torch.optim.SGD([p for p in leaves.values() if p.requires_grad], 0.1, 0.9, weight_decay=5e-4, foreach=False)
    masked = None
    if knobs["mask_own"]:
        rows = torch.rand(G, generator=torch.Generator().manual_seed(SEED)) < knobs["mask_own"]
        masked = rows[:, None] & torch.nn.functional.one_hot(x["y"], K).bool()
    for step in range(2):
        f = x["f"] + step
        sgd.zero_grad()
        parts = dense.meta_objective(leaves | {"t": x["t"]}, f, x["e"], x["y"], knobs, masked)
        sum(parts.values()).backward()
        if knobs["centroid_update"] == "released":
            weight, margin = knobs["centroid_weight"], knobs["centroid_margin"]
            leaves["c"].grad = dense.released_centroid_step(f, x["y"], leaves["c"], weight, margin)
        sgd.step()
        for k in x["y"].unique() if follows else ():
            mean = f[x["y"] == k].mean(0)
            leaves["c"][k] += (1 - knobs["centroid_momentum"]) * (mean - leaves["c"][k])
    return leaves


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize(
    "K, preset, knobs",
    [(7, "released", {}), (13, "released", {"centroid_margin": 90}), (10, "paper", {}), (10, "facelt", {})],
)
def test_whole_steps_of_the_optimizer(ranks, accumulate, K, preset, knobs):
    want = dense_trained(K, preset, knobs)
    got = run_ranks(ranks, trained, K, preset, knobs, accumulate)
    short = {"memory.centroids": "c", "classifier.weight": "w"} | {n: s for s, n in HALLUCINATOR.items()}
    for name in got[0]:
        whole = np.concatenate([r[name] for r in got])
        np.testing.assert_allclose(whole, want[short[name]].detach(), rtol=1e-9, atol=1e-10, err_msg=name)


def counted(K: int) -> list[int]:
    x = inputs(K, True)
    head = head_of(K, "released", {}, x)
    B = G // group.world_size()
    mine = slice(group.rank() * B, (group.rank() + 1) * B)
    collectives.traffic.reset()
    head(Embedded(x["f"][mine].requires_grad_(), x["e"][mine].requires_grad_()), x["y"]).loss.backward()
    return [collectives.traffic.calls, collectives.traffic.bytes]


@pytest.mark.parametrize("ranks", [2, 3])
def test_eleven_collectives_whose_bytes_grow_neither_with_classes_nor_with_ranks(ranks):
    few, many = run_ranks(ranks, counted, 7), run_ranks(ranks, counted, 1000)
    assert few == many
    gathered, scattered, to_all = 2 * D + (2 * D + 1), 2 * D + (2 * D + 1), 2 + 4
    assert few == [[11, 8 * (G // ranks * gathered + G * (scattered + to_all) + 1) + 4 * G]] * ranks


def plain(K: int) -> dict:
    torch.set_default_dtype(torch.float64)
    x = inputs(K, False)
    partition = Partition(K, group.rank(), group.world_size())
    rows = slice(*partition.bounds())
    head = PlainHead(FaceltConfig.model_validate({"embedding_size": D}), partition)
    head.classifier.block = 2
    with torch.no_grad():
        head.classifier.weight.copy_(x["w"][rows])
        head.classifier.bias.copy_(x["hb"][rows])
    B = G // group.world_size()
    f = x["f"][group.rank() * B : (group.rank() + 1) * B].clone().requires_grad_()
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


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("K, knobs", PLAIN_CASES)
def test_plain_head_is_the_dense_head(ranks, K, knobs):
    compare_plain(ranks, K, knobs)


@pytest.mark.parametrize("ranks", [1, 3])
def test_a_prior_beside_a_sample_of_the_classes(ranks):
    compare_plain(ranks, 13, {"loss": "logit_adjusted", "classifier": "cosine", "scale": 4}, rate=0.3)


def test_a_prior_is_not_saved_and_needs_an_image_of_each_class():
    config = plain_config({"loss": "balanced_softmax"})
    head = PlainHead(config, Partition(3), torch.tensor([1, 2, 5]))
    assert head.state_dict().keys() == {"classifier.weight", "classifier.bias"}
    with pytest.raises(ValueError, match="class 1 has no image, so its prior is zero"):
        PlainHead(config, Partition(3), torch.tensor([1, 0, 5]))


@pytest.mark.parametrize("products", ["float32", "bfloat16"])
@pytest.mark.parametrize("preset", ["released", "paper", "cosine"])
@pytest.mark.parametrize("classes", [1, 9])
def test_the_whole_head_is_finite_at_its_edges(products, preset, classes):
    """A feature on its centroid, a zero vector, huge features; one class alone."""
    torch.manual_seed(0)
    config = FaceltConfig.model_validate({"preset": preset, "embedding_size": D, "products": products})
    head = MetaHead(config, Partition(classes))
    for parameter in head.memory.parameters():
        torch.nn.init.normal_(parameter)
    f = torch.cat([head.memory.centroids[:1].detach(), torch.zeros(1, D), 1e4 * torch.randn(2, D)]).requires_grad_()
    e = torch.tanh(torch.randn(4, D)).requires_grad_()
    step = head(Embedded(f, e, torch.tensor([16.0], requires_grad=True)), torch.arange(4) % classes, SEED)
    step.loss.backward()
    assert step.loss.isfinite()
    for tensor in (f, e, *(p for p in head.parameters() if p.requires_grad)):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()


class Waits(TorchDispatchMode):
    """Counts what would make the host wait for a GPU, and products, in units of `size`."""

    WAITING = ("nonzero", "_local_scalar_dense", "masked_select", "unique", "_unique2", "bincount", "equal")

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size, self.waits, self.products = size, 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        indices = args[1] if name in ("index", "index_put", "index_put_") else ()
        masks = any(i is not None and i.dtype == torch.bool for i in indices)
        placed = name.startswith("index_put") and args[2].dim() == 0 and args[2].device.type == "cpu"
        self.waits += name in self.WAITING or masks or placed
        if name in ("mm", "addmm", "addmm_"):
            left, right = [a for a in args if isinstance(a, torch.Tensor)][-2:]
            self.products += left.shape[0] * left.shape[1] * right.shape[1] // self.size
        return function(*args, **(kwargs or {}))


def counted_step(preset: str, block: int, budget: float) -> Waits:
    K, G, D = 96, 8, 16
    config = {"preset": preset, "embedding_size": D, "score_budget_mb": budget}
    head = MetaHead(FaceltConfig.model_validate(config), Partition(K))
    for parameter in head.memory.parameters():
        torch.nn.init.normal_(parameter)
    head.memory.block = head.classifier.block = block
    f, e = torch.randn(G, D, requires_grad=True), torch.randn(G, D, requires_grad=True)
    waits = Waits(G * D * K)
    with waits:
        head(Embedded(f, e, torch.ones(1, requires_grad=True)), torch.arange(G), SEED).loss.backward()
    return waits


@pytest.mark.parametrize("preset", ["released", "cosine"])
@pytest.mark.parametrize("budget", [0, 1])
def test_no_loop_over_blocks_waits_for_the_device(preset, budget):
    few, many = (counted_step(preset, block, budget).waits for block in (96, 8))
    assert few == many > 0


@pytest.mark.parametrize("preset, kept, again", [("released", 9, 11), ("cosine", 10, 13)])
def test_products_of_a_step(preset, kept, again):
    """Of G x k x D, where scores are kept and where they are not; cosine's classifier has twice the rows."""
    assert counted_step(preset, 96, 1).products == kept
    assert counted_step(preset, 96, 0).products == again


@pytest.mark.parametrize("preset", ["released", "cosine"])
@pytest.mark.parametrize("ranks", [1, 3])
def test_scores_that_were_not_kept_are_computed_again(ranks, preset):
    """Every other case keeps them: they fit."""
    want = expected(10, preset, True, {"centroid_gradient": True, "centroid_update": "gradient"})
    knobs = {"centroid_gradient": True, "centroid_update": "gradient"}
    assert_dense(run_ranks(ranks, sharded, 10, preset, True, 3, knobs, 1, "cpu", 0), want)


def test_a_graph_that_is_gone_through_twice_gives_the_same_gradient_twice():
    config = FaceltConfig.model_validate({"preset": "cosine", "embedding_size": D})
    head = MetaHead(config, Partition(10))
    torch.nn.init.normal_(head.memory.centroids)
    f, e = torch.randn(4, D, requires_grad=True), torch.randn(4, D, requires_grad=True)
    loss = head(Embedded(f, e, torch.ones(1)), torch.arange(4), SEED).loss
    loss.backward(retain_graph=True)
    once, of_rows = f.grad.clone(), head.classifier.weight.grad.clone()
    loss.backward()
    torch.testing.assert_close(f.grad, 2 * once)
    torch.testing.assert_close(head.classifier.weight.grad, 2 * of_rows)
