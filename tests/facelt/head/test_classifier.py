"""The scores a rank reports, by hand; weights that do not depend on the number of ranks; finite at extremes."""

import pytest
import torch
from ranks import run_ranks

from facelt.head.blocked import BLOCK
from facelt.head.classifier import Classifier, fold
from facelt.head.losses import cross_entropy
from facelt.parallel import group
from facelt.parallel.partition import Partition


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_scores_by_hand(kind):
    torch.manual_seed(0)
    classifier = Classifier(Partition(7, 1, 2), 4, kind, block=2)  # owns classes 4, 5, 6
    x, labels = torch.randn(5, 4), torch.tensor([4, 0, 6, 4, 3])
    got = classifier(x, labels)
    weight = classifier.weight
    if kind == "cosine":
        logits = x @ (weight / weight.norm(dim=1, keepdim=True)).T
    else:
        logits = x @ weight.T + classifier.bias
    assert got.own_rows.tolist() == [0, 2, 3]
    torch.testing.assert_close(got.own, logits[[0, 2, 3], [0, 2, 0]])
    rest = logits.clone()
    rest[[0, 2, 3], [0, 2, 0]] = -torch.inf
    torch.testing.assert_close(got.top_G, rest.max(1).values)
    torch.testing.assert_close(got.sum_G.log() + got.top_G, torch.logsumexp(rest, 1))


def test_a_class_starts_the_same_at_any_number_of_ranks():
    classes = 2 * BLOCK + 5
    whole = Classifier(Partition(classes), 3, "linear", seed=4)
    parts = [Classifier(Partition(classes, rank, 3), 3, "linear", seed=4) for rank in range(3)]
    assert torch.equal(torch.cat([p.weight for p in parts]), whole.weight)
    assert torch.equal(torch.cat([p.bias for p in parts]), whole.bias)
    bound = 3**-0.5
    assert whole.weight.abs().max() <= bound
    assert whole.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)
    assert not torch.equal(Classifier(Partition(classes), 3, "linear", seed=5).weight, whole.weight)


@pytest.mark.parametrize("classes", [1, 2, 9])
@pytest.mark.parametrize("size", [0.0, 1.0, 1e4])
def test_cross_entropy_is_finite_at_extreme_logits(classes, size):
    classifier = Classifier(Partition(classes), 4, "linear", block=2)
    torch.nn.init.normal_(classifier.weight)
    x = (size * torch.randn(6, 4)).requires_grad_()
    labels = torch.arange(6) % classes
    scores = classifier(x, labels)
    losses, correct = cross_entropy(scores, scores.own)
    loss = losses.mean()
    want = torch.nn.functional.cross_entropy(x @ classifier.weight.T + classifier.bias, labels)
    torch.testing.assert_close(loss, want, rtol=1e-4, atol=1e-5)
    loss.backward()
    assert x.grad.isfinite().all()
    assert classifier.weight.grad.isfinite().all()
    if classes == 1:
        assert loss == 0
        assert correct.all()


def scaled_inputs() -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(2)
    random = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)  # noqa: E731
    x = {"x": random(6, 4), "w": random(7, 4), "b": random(7), "f": random(7), "o": random(7)}
    return {**x, "y": torch.tensor([0, 6, 2, 2, 5, 1])}


def scaled() -> dict[str, torch.Tensor]:
    torch.set_default_dtype(torch.float64)
    i, partition = scaled_inputs(), Partition(7, group.rank(), group.world_size())
    mine = slice(*partition.bounds())
    classifier = Classifier(partition, 4, "linear", block=2, learn_scales=True)
    rows = {name: i[short][mine] for name, short in {"weight": "w", "bias": "b", "factor": "f"}.items()}
    classifier.load_state_dict(rows)
    classifier.offset_k = i["o"][mine]
    x = i["x"].clone().requires_grad_()
    scores = classifier(x, i["y"])
    losses, _ = cross_entropy(scores, scores.own)
    (losses.mean() / group.world_size()).backward()
    assert classifier.weight.grad is None
    assert classifier.bias.grad is None
    folded = fold({f"classifier.{name}": tensor.detach() for name, tensor in classifier.named_parameters()})
    return {"x": x.grad, "f": classifier.factor.grad, **folded}


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_learned_scales_are_the_dense_ones(ranks):
    """LWS: of f·(x·w + b), and a prior beside it, f alone learns; folded, the rows score the same."""
    got, i = run_ranks(ranks, scaled), scaled_inputs()
    x, f = i["x"].clone().requires_grad_(), i["f"].clone().requires_grad_()
    torch.nn.functional.cross_entropy((x @ i["w"].T + i["b"]) * f + i["o"], i["y"]).backward()
    whole = lambda name: torch.cat([torch.as_tensor(one[name]) for one in got])  # noqa: E731
    torch.testing.assert_close(whole("f"), f.grad)
    torch.testing.assert_close(sum(torch.as_tensor(one["x"]) for one in got), x.grad)
    torch.testing.assert_close(
        i["x"] @ whole("classifier.weight").T + whole("classifier.bias"), (i["x"] @ i["w"].T + i["b"]) * i["f"]
    )
