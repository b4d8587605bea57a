"""Few-shot learning without forgetting against the whole of it in plain float64 torch, at any number of ranks."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from ranks import run_ranks

from facelt.config import FaceltConfig
from facelt.errors import UserError
from facelt.head.few_shot import FewShotHead
from facelt.network.embedder import Embedded
from facelt.network.weight_generator import Generation, WeightGenerator
from facelt.parallel import group
from facelt.parallel.partition import Partition

D, G, K, FEW, SCALE = 5, 12, 10, 3, 8.0
COUNTS = torch.tensor([9, 4, 3, 2, 2, 7, 2, 30, 5, 2])
BASE = COUNTS > FEW
LABELS = {
    "two and three of a class": torch.tensor([0, 0, 7, 3, 3, 3, 5, 5, 8, 6, 1, 1]),
    "each alone": torch.tensor([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 5]),
    "few-shot classes alone": torch.tensor([2, 2, 3, 3, 4, 4, 6, 6, 9, 9, 2, 3]),
}


def inputs() -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    random = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)  # noqa: E731
    x = {"f": 2 * random(G, D), "w": random(K, D), "k": random(K, D), "q": 10 * F.normalize(random(G, D))}
    return x | {"average": random(D), "attended": random(D)}


def head_of(x: dict[str, torch.Tensor]) -> FewShotHead:
    torch.set_default_dtype(torch.float64)
    partition = Partition(K, group.rank(), group.world_size())
    mine = slice(*partition.bounds())
    knobs = {"classifier": "cosine", "scale": SCALE, "few_shot": FEW}
    head = FewShotHead(FaceltConfig.model_validate({"embedding_size": D, "plain_head": knobs}), partition, COUNTS)
    head.load_state_dict({"classifier.weight": x["w"][mine], "keys": x["k"][mine]})
    head.classifier.block = 2
    return head


def sharded(y: torch.Tensor, seed: int) -> dict:
    x = inputs()
    head = head_of(x)
    B = G // group.world_size()
    f, q = (x[name][group.rank() * B :][:B].clone().requires_grad_() for name in ("f", "q"))
    average, attended = (x[name].clone().requires_grad_() for name in ("average", "attended"))
    output = head(Embedded(f, generation=Generation(q, average, attended)), y, seed)
    output.loss.backward()
    gradients = {"f": f, "q": q, "average": average, "attended": attended, "w": head.classifier.weight, "k": head.keys}
    got = {name: torch.zeros_like(t) if t.grad is None else t.grad for name, t in gradients.items()}
    return got | {"parts": output.parts, "correct": output.correct_B}


def dense(y: torch.Tensor, seed: int) -> dict:
    x = {name: value.clone().requires_grad_() for name, value in inputs().items()}
    z, w = F.normalize(x["f"]), F.normalize(x["w"])
    drawn = torch.rand(K, generator=torch.Generator().manual_seed(seed), dtype=torch.float32) < 0.5
    images = {k: torch.nonzero(y == k).flatten().tolist() for k in range(K)}
    new = {k for k in range(K) if len(images[k]) > 1 and (drawn[k] or not BASE[k])}
    support = {i for k in new for i in images[k][: len(images[k]) // 2]}
    base = [k for k in range(K) if BASE[k] and k not in new]
    read = (x["q"] @ F.normalize(x["k"])[base].T).softmax(1) @ w.detach()[base]
    rows = {k: w[k] for k in base}
    for k in new:
        of_k = [i for i in images[k] if i in support]
        rows[k] = F.normalize(x["average"] * z[of_k].mean(0) + x["attended"] * read[of_k].mean(0), dim=0)
    asked = [i for i in range(G) if i not in support and int(y[i]) in rows]
    logits = SCALE * z[asked] @ torch.stack(list(rows.values())).T
    own = torch.tensor([list(rows).index(int(y[i])) for i in asked])
    loss = F.cross_entropy(logits, own)
    loss.backward()
    correct = torch.zeros(G, dtype=torch.bool).index_copy(0, torch.tensor(asked), logits.argmax(1) == own)
    got = {name: torch.zeros_like(t) if t.grad is None else t.grad for name, t in x.items()}
    return got | {"parts": {"cross_entropy": loss.item()}, "correct": correct}


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("case", LABELS)
def test_the_sharded_head_is_the_dense_one(ranks, seed, case):
    got, want = run_ranks(ranks, sharded, LABELS[case], seed), dense(LABELS[case], seed)
    for name, value in want["parts"].items():
        assert sum(r["parts"][name] for r in got).item() == pytest.approx(value, rel=1e-12)
    for name in ("average", "attended"):
        np.testing.assert_allclose(sum(r[name] for r in got), want[name], rtol=1e-10, atol=1e-12, err_msg=name)
    for name in ("correct", "f", "q", "w", "k"):
        whole = np.concatenate([r[name] for r in got])
        np.testing.assert_allclose(whole, want[name], rtol=1e-10, atol=1e-12, err_msg=name)


def rows_put() -> torch.Tensor:
    x, head = inputs(), head_of(inputs())
    mine = slice(*head.partition.bounds())
    generator = WeightGenerator(D).double()
    generator.average.data.copy_(x["average"])
    generator.attended.data.copy_(x["attended"])
    head.put_rows(generator, x["f"][:K][mine], x["q"][:K][mine])
    return head.classifier.weight.detach()


@pytest.mark.parametrize("ranks", [1, 3])
def test_rows_of_few_shot_classes_are_made_and_the_others_stay(ranks):
    x = inputs()
    made = x["average"] * x["f"][:K] + x["attended"] * x["q"][:K]
    np.testing.assert_allclose(np.concatenate(run_ranks(ranks, rows_put)), made.where(~BASE[:, None], x["w"]))


def test_the_generator_starts_as_published():
    generator = WeightGenerator(D)
    f = torch.randn(4, D)
    query_BD, average_D, attended_D = generator(f)
    torch.testing.assert_close(query_BD, 10 * F.normalize(f), atol=0.1, rtol=0)
    assert (average_D == 1).all()
    assert (attended_D == 1).all()


@pytest.mark.parametrize(("most", "words"), [(1, "no class has at most 1"), (30, "every class has at most 30")])
def test_a_bound_that_parts_nothing_is_refused(most, words):
    knobs = {"classifier": "cosine", "few_shot": most}
    with pytest.raises(UserError, match=words):
        FewShotHead(FaceltConfig.model_validate({"embedding_size": D, "plain_head": knobs}), Partition(K), COUNTS)
