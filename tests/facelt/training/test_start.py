"""What a stage starts from, and what is refused before it starts."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from facelt.config import FaceltConfig
from facelt.errors import UserError
from facelt.head.memory import CentroidMemory
from facelt.parallel.partition import Partition
from facelt.run_folder import checkpoint
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


def plain_run(folder: Path, **validation) -> SimpleNamespace:
    """Two checkpoints of stage plain, of which the first did better, and what a stage is told of its run."""
    config = FaceltConfig.model_validate({"validation": {"packs": "lfw.bin", **validation}})
    for step, value in ((1, 0.9), (2, 0.8)):
        state = checkpoint.CheckpointState(
            stage="plain", step=step, finished=False, global_batch=8, config=config, num_classes=K, starts=[0],
            figures={"lfw.accuracy": value},
        )  # fmt: skip
        checkpoint.save(folder, state, weights={"a": torch.ones(1)}, moments={}, rows={"w": torch.ones(K, 1)})
    return SimpleNamespace(folder=folder, config=config)


def test_what_follows_stage_plain_starts_from_its_newest_or_as_asked_its_best(tmp_path):
    newest, best = (tmp_path / "plain" / f"step-0000000{step}" for step in (2, 1))
    assert start.find_start(plain_run(tmp_path), "meta", None) == newest
    asked = plain_run(tmp_path, from_best=True)
    assert start.find_start(asked, "meta", None) == best
    assert start.find_start(asked, "plain", None) is None
    other = SimpleNamespace(folder=tmp_path / "other", config=asked.config)
    assert start.find_start(other, "meta", None) is None
    assert start.find_start(other, "meta", str(tmp_path)) == newest
    assert start.find_start(other, "meta", str(tmp_path / "best")) == best
    assert start.find_start(other, "plain", str(tmp_path / "plain" / "best")) == best
    (best / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="is damaged"):
        start.find_start(asked, "meta", None)
