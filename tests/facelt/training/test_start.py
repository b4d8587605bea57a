"""What a stage starts from, and what is refused before it starts."""

from types import SimpleNamespace

import pytest
import torch

from facelt.config import FaceltConfig
from facelt.errors import UserError
from facelt.head.memory import CentroidMemory
from facelt.parallel.partition import Partition
from facelt.training import start

K, D = 5, 3


def memory() -> CentroidMemory:
    torch.manual_seed(0)
    made = CentroidMemory(Partition(K), D)
    torch.nn.init.normal_(made.centroids)
    return made


def test_the_hallucinator_takes_the_linear_classifier_as_it_is():
    rows = {"classifier.weight": torch.randn(K, D), "classifier.bias": torch.randn(K)}
    made = memory()
    start.start_hallucinator(made, rows, FaceltConfig())
    torch.testing.assert_close(made.hallucinator_weight, rows["classifier.weight"])
    torch.testing.assert_close(made.hallucinator_bias, rows["classifier.bias"])


def test_a_cosine_classifier_scores_a_feature_of_typical_norm_as_it_did_before():
    config = FaceltConfig.model_validate({"plain_head": {"classifier": "cosine", "scale": 20}})
    rows, made = {"classifier.weight": torch.randn(K, D)}, memory()
    start.start_hallucinator(made, rows, config)
    typical = made.centroids.norm(dim=1).mean()
    feature = torch.nn.functional.normalize(torch.randn(2, D))
    want = 20 * feature @ torch.nn.functional.normalize(rows["classifier.weight"]).T
    torch.testing.assert_close((feature * typical) @ made.hallucinator_weight.T, want)
    assert torch.equal(made.hallucinator_bias, torch.zeros(K))


@pytest.mark.parametrize("update, every, steps", [("refresh", 3, [3, 6]), ("mean", 3, []), ("refresh", 10, [])])
def test_a_memory_is_made_anew_every_so_many_steps_and_never_at_the_first(update, every, steps):
    knobs = {"centroid_update": update} | ({"refresh_every": every} if update == "refresh" else {})
    head = FaceltConfig.model_validate({"head": knobs}).head
    assert [step for step in range(8) if start.refreshes(head, step)] == steps


@pytest.mark.parametrize(
    "ds, ranks, said",
    [
        ({"train_batch_size": True}, 1, "train_batch_size is True; expected a whole number"),
        ({"train_batch_size": 10, "gradient_accumulation_steps": 4}, 1, "10 is not made of 4 equal micro-batches"),
        ({"train_batch_size": 10}, 4, "global batch of 10 cannot be shared alike by 4 ranks"),
        ({"train_batch_size": 12, "train_micro_batch_size_per_gpu": 2}, 3, None),
        ({"train_batch_size": 12}, 3, None),
    ],
)
def test_batches_that_do_not_share_out_alike_are_refused(ds, ranks, said):
    ds = {**ds, "optimizer": {"type": "SGD", "params": {"lr": 0.1}}}
    dataset = SimpleNamespace(labels=torch.arange(20).numpy() % 5, num_classes=5)
    run = SimpleNamespace(ds=ds, config=FaceltConfig(), dataset=dataset, partition=Partition(5, 0, ranks))
    if said is None:
        start.check(run, "plain")
    else:
        with pytest.raises(UserError, match=said):
            start.check(run, "plain")


def test_attention_without_a_map_is_refused_before_stage_plain_begins():
    block = {"backbone": {"name": "timm", "timm": "vit_small_patch16_224"}}
    ds = {"train_batch_size": 8, "optimizer": {"type": "SGD", "params": {"lr": 0.1}}}
    run = SimpleNamespace(ds=ds, config=FaceltConfig.model_validate(block))
    with pytest.raises(
        UserError, match=r"head\.attention needs a map, and timm's vit_small_patch16_224 gives its pooled"
    ):
        start.check(run, "meta")
