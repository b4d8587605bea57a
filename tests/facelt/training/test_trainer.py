"""Two stages of the trainer against a loop in plain torch: no shards, no blocks, no DeepSpeed, the dense equations."""

import json
from dataclasses import replace
from io import BytesIO

import dense
import numpy as np
import pytest
import torch
from engines import smooth
from faces import write_faces
from PIL import Image
from tiny import TINY
from torch.nn.functional import normalize

from facelt.config import FaceltConfig
from facelt.errors import UserError
from facelt.head.classifier import CLASSIFIER_ROWS, Classifier
from facelt.images.dali import Decoding, ImagePipeline
from facelt.images.feed import RankPlan
from facelt.images.sampling import ClassAwareSampler, UniformSampler
from facelt.network.embedder import Embedder
from facelt.parallel import group
from facelt.parallel.partition import Partition
from facelt.run_folder import checkpoint
from facelt.training import start
from facelt.training.ending.stopping import StopRequest
from facelt.training.run import Run
from facelt.training.trainer import Trainer
from recordio_tools.dataset import RecordDataset

K, G = 5, 8
BLOCK = {**TINY["facelt"], "plain": {"epochs": 1.5, "decay_every": 1}}
SGD = TINY["optimizer"]["params"]
CPU = torch.device("cpu")


class SmoothEmbedder(Embedder):
    """Without kinks, at which the trainer and its twin might part ways for a rounding."""

    def __init__(self, config: FaceltConfig, meta: bool, memory: bool = False) -> None:
        super().__init__(config, meta, memory)
        smooth(self)


@pytest.fixture
def make_run(tmp_path, monkeypatch):
    """A run on a small set, whatever the block; signals are restored afterwards."""
    monkeypatch.setattr(start, "Embedder", SmoothEmbedder)
    stop = StopRequest()
    dataset = RecordDataset(write_faces(tmp_path / "data"))

    def make(block: dict = BLOCK, folder: str = "run") -> Run:
        ds = {key: value for key, value in TINY.items() if key != "facelt"}
        device = group.join()
        return Run(
            config=FaceltConfig.model_validate(block),
            ds=ds,
            dataset=dataset,
            partition=Partition(K),
            device=device,
            folder=tmp_path / folder,
            stop=stop,
        )

    yield make
    stop.close()


def batches(run: Run, sampler: UniformSampler | ClassAwareSampler, steps: int) -> list[tuple]:
    """(images, labels) of every step, as DALI gives them."""
    share = RankPlan(
        sampler=sampler,
        labels=run.dataset.labels,
        seed=run.config.seed,
        rank=0,
        ranks=1,
        micro_batches=1,
        first_step=0,
        steps=steps,
    )
    images = ImagePipeline(run.dataset, share, Decoding(32, G, CPU, threads=1), run.config.augment)
    labels = torch.from_numpy(run.dataset.labels)
    return [(batch, labels[share.indices(i)]) for i, batch in enumerate(images)]


def direct_features(embedder: Embedder, dataset: RecordDataset) -> torch.Tensor:
    decoded = [np.asarray(Image.open(BytesIO(dataset.jpeg(i).tobytes()))) for i in range(len(dataset))]
    images = (torch.from_numpy(np.stack(decoded)).permute(0, 3, 1, 2).float() - 127.5) / 127.5
    with torch.no_grad():
        return embedder.eval()(images).direct_BD


def class_means(embedder: Embedder, dataset: RecordDataset) -> torch.Tensor:
    features = direct_features(embedder, dataset)
    return torch.stack([features[torch.from_numpy(dataset.labels == k)].mean(0) for k in range(K)])


def plain_twin(run: Run) -> tuple[list[float], Embedder, dict[str, torch.Tensor]]:
    torch.manual_seed(run.config.seed)
    embedder = SmoothEmbedder(run.config, meta=False).train()
    first = Classifier(Partition(K), 16, "linear", run.config.seed)
    weight, bias = torch.nn.Parameter(first.weight.detach().clone()), torch.nn.Parameter(first.bias.detach().clone())
    optimizer = torch.optim.SGD([*embedder.parameters(), weight, bias], **SGD)
    losses = []
    for step, (images, labels) in enumerate(batches(run, UniformSampler(run.dataset.labels, G, 0), 6)):
        optimizer.param_groups[0]["lr"] = SGD["lr"] * (0.1 if step * G >= 30 else 1)
        loss = torch.nn.functional.cross_entropy(embedder(images).direct_BD @ weight.T + bias, labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses, embedder, {"hw": weight.detach(), "hb": bias.detach()}


def meta_twin(run: Run, plain: Embedder, classifier: dict[str, torch.Tensor]) -> tuple[list[dict], dict]:
    torch.manual_seed(run.config.seed)
    embedder = SmoothEmbedder(run.config, meta=True)
    embedder.load_state_dict(plain.state_dict(), strict=False)
    cosine = Classifier(Partition(K), 16, "cosine", run.config.seed).weight.detach().clone()
    start_of = {**classifier, "c": class_means(embedder, run.dataset), "w": cosine}
    p = {name: torch.nn.Parameter(tensor.clone()) for name, tensor in start_of.items()}
    knobs = run.config.head.model_dump()
    optimizer = torch.optim.SGD([*embedder.train().parameters(), *p.values()], **SGD)
    losses = []
    sampler = ClassAwareSampler(run.dataset.labels, G, 0, images_per_class=2, num_classes=K)
    for step, (images, labels) in enumerate(batches(run, sampler, 8)):
        optimizer.param_groups[0]["lr"] = SGD["lr"] * (0.1 if step * G >= 30 else 1)
        v, e, *_ = embedder(images)
        parts = dense.meta_objective(p, v, e, labels, knobs)
        sum(parts.values()).backward()
        size = (knobs["centroid_weight"], knobs["centroid_margin"])
        step_of_centroids = dense.released_centroid_step(v.detach(), labels, p["c"].detach(), *size)
        p["c"].grad = step_of_centroids + (0 if p["c"].grad is None else p["c"].grad)
        optimizer.step()
        optimizer.zero_grad()
        losses.append({name: part.item() for name, part in parts.items()})
    return losses, {**{f"embedder.{n}": t for n, t in embedder.state_dict().items()}, **p}


def test_two_stages_are_a_plain_torch_loop(make_run):
    run = make_run()
    assert Trainer(run, "plain").train()
    assert Trainer(run, "meta").train()
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    losses, embedder, classifier = plain_twin(run)
    assert [line["cross_entropy"] for line in lines[:6]] == pytest.approx(losses, rel=1e-5)
    parts, tensors = meta_twin(run, embedder, classifier)
    for line, want in zip(lines[6:], parts, strict=True):
        for name in ("cross_entropy", "centroid"):
            assert line[name] == pytest.approx(want[name], rel=2e-3, abs=1e-5)
    folder = checkpoint.latest(run.folder, "meta")
    weights, rows = checkpoint.read_weights(folder), checkpoint.read_rows(folder, run.partition)
    names = {"c": "memory.centroids", "w": "classifier.weight", "hw": "memory.hallucinator_weight"}
    names |= {"hb": "memory.hallucinator_bias"}
    got = {f"embedder.{name}": t for name, t in weights.items()} | {s: rows[name] for s, name in names.items()}
    for name, want in tensors.items():
        torch.testing.assert_close(got[name], want.detach(), rtol=1e-3, atol=1e-3, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("update", ["released", "refresh"])
@pytest.mark.parametrize("stage", ["plain", "meta"])
def test_nothing_frozen_moves_and_what_is_not_frozen_does(make_run, stage, update):
    """Parameters and statistics of the backbone; also after passes over the set, which go into evaluation mode."""
    head = {"centroid_update": update, **({"refresh_every": 2} if update == "refresh" else {})}
    knobs = {**BLOCK, "meta": {"epochs": 1, "images_per_class": 2}, "head": head, "checkpoint_every": 1}
    knobs["backbone"] = {**BLOCK["backbone"], "neck": "batch_norm"}
    knobs[stage] = {**knobs[stage], "freeze_backbone": True}
    run = make_run(knobs)
    assert Trainer(run, "plain").train()
    assert stage == "plain" or Trainer(run, "meta").train()
    folders = sorted((run.folder / stage).iterdir())
    first, last = (checkpoint.read_weights(folder) for folder in (folders[0], folders[-1]))
    frozen = {name for name in first if name.startswith("backbone.")}
    assert {name.rpartition(".")[2] for name in frozen} >= {"running_mean", "running_var", "num_batches_tracked"}
    moved = {name for name in first if not torch.equal(first[name], last[name])}
    assert not moved & frozen
    assert moved >= {"neck.fc.weight", "neck.after.running_mean"}
    assert stage == "plain" or "selector.fc.weight" in moved


@pytest.mark.parametrize("head, moves", [({"restart": True}, {"weight", "bias"}), ({"learn_scales": True}, {"factor"})])
def test_of_a_frozen_network_nothing_moves_and_the_classifier_learns(make_run, head, moves):
    """Classifier re-training and learnable weight scaling (Kang et al. 2020), and what goes on from the latter."""
    block = {**BLOCK, "backbone": {**BLOCK["backbone"], "neck": "batch_norm"}, "checkpoint_every": 1}
    first = make_run(block, "first")
    assert Trainer(first, "plain").train()
    frozen = {"plain": {**BLOCK["plain"], "freeze_network": True}, "plain_head": head}
    run = make_run({**block, **frozen}, "second")
    assert Trainer(run, "plain", start_from=str(first.folder)).train()
    before = checkpoint.latest(first.folder, "plain")
    folders = [before, *sorted((run.folder / "plain").iterdir())]
    weights, rows = ([read(folder) for folder in folders] for read in (checkpoint.read_weights, of_classes))
    for name in weights[0]:
        assert all(torch.equal(weights[0][name], later[name]) for later in weights[1:]), name
    changed = {n for n in ("weight", "bias", "factor") if differs(rows[1], rows[-1], f"classifier.{n}")}
    assert changed == moves
    if "factor" in moves:
        on = make_run({**block, "plain": {**BLOCK["plain"], "lr_scale": 1e-30}}, "third")
        assert Trainer(on, "plain", start_from=str(run.folder)).train()
        got, last = of_classes(checkpoint.latest(on.folder, "plain")), rows[-1]
        want = last["classifier.weight"] * last["classifier.factor"][:, None]
        torch.testing.assert_close(got["classifier.weight"], want)


def test_rows_of_few_shot_classes_are_generated_from_their_images(make_run, tmp_path):
    """Few-shot learning without forgetting (Gidaris and Komodakis 2018), of a network that stands still."""
    cosine = {"classifier": "cosine", "scale": 16}
    uneven = RecordDataset(write_faces(tmp_path / "uneven", images=8, fewer=5))
    first = replace(make_run({**BLOCK, "plain_head": cosine}, "first"), dataset=uneven)
    assert Trainer(first, "plain").train()
    most = 3
    knobs = {**BLOCK["plain"], "freeze_network": True, "sampler": "class_aware", "images_per_class": 2}
    block = {**BLOCK, "plain": knobs, "plain_head": {**cosine, "few_shot": most}}
    run = replace(make_run(block, "second"), dataset=uneven)
    assert Trainer(run, "plain", start_from=str(first.folder)).train()
    before, after = (checkpoint.latest(r.folder, "plain") for r in (first, run))
    old, new = checkpoint.read_weights(before), checkpoint.read_weights(after)
    assert all(torch.equal(old[name], new[name]) for name in old)
    generator = {name.removeprefix("generator."): new[name].double() for name in new.keys() - old.keys()}
    assert (generator["average"] != 1).any()
    assert (generator["attended"] != 1).any()

    embedder = SmoothEmbedder(run.config, False)
    embedder.load_state_dict(new)
    z = normalize(direct_features(embedder, uneven).double())
    rows = checkpoint.read_rows(after, run.partition)
    weight, keys = (rows[name].double() for name in ("classifier.weight", "keys"))
    counts = torch.bincount(torch.from_numpy(run.dataset.labels))
    base = counts > most
    query = normalize(z @ generator["query.weight"].T + generator["query.bias"])
    attention = torch.softmax((generator["scale"] * query @ normalize(keys[base]).T), 1)
    for k in torch.nonzero(~base).flatten():
        of_k = torch.from_numpy(run.dataset.labels == int(k))
        attended = (attention[of_k] @ normalize(weight[base])).mean(0)
        want = generator["average"] * z[of_k].mean(0) + generator["attended"] * attended
        torch.testing.assert_close(weight[k], want, rtol=1e-4, atol=1e-5)
    assert not base.all()
    assert base.any()


def of_classes(folder):
    """Every row of a checkpoint's classifier."""
    return checkpoint.read_rows(folder, Partition(K), CLASSIFIER_ROWS)


def differs(one, other, name):
    return name in one and not torch.equal(one[name], other[name])


def test_what_would_be_frozen_moves_without_it(make_run):
    ends = []
    for name, freeze in (("frozen", True), ("thawed", False)):
        run = make_run({**BLOCK, "plain": {**BLOCK["plain"], "freeze_backbone": freeze}}, name)
        assert Trainer(run, "plain").train()
        ends.append(checkpoint.read_weights(checkpoint.latest(run.folder, "plain")))
    frozen, thawed = ends
    for name in (name for name in frozen if name.startswith("backbone.")):
        assert not torch.equal(frozen[name], thawed[name]), name


def test_a_trainer_stops_as_asked_and_another_goes_on_to_the_same_end(make_run):
    straight, halves = make_run(folder="straight"), make_run({**BLOCK, "log_every": 2}, folder="halves")
    assert Trainer(straight, "plain").train()
    halves.stop.asked = True
    assert not Trainer(halves, "plain").train()
    assert [p.name for p in (halves.folder / "plain").iterdir()] == ["step-00000001"]
    halves.stop.asked = False
    assert Trainer(halves, "plain").train()
    ends = [checkpoint.read_weights(checkpoint.latest(run.folder, "plain")) for run in (straight, halves)]
    for name, want in ends[0].items():
        assert torch.equal(ends[1][name], want), name


def test_a_finished_stage_is_not_trained_again_nor_is_its_engine_built(make_run, monkeypatch, capsys):
    run = make_run()
    assert Trainer(run, "plain").train()
    monkeypatch.setattr(start, "Engine", None)
    assert Trainer(run, "plain").train()
    assert "stage plain: finished in" in capsys.readouterr().err


def test_a_save_that_fails_is_a_warning_and_the_last_one_ends_the_run(make_run, monkeypatch, capsys):
    run = make_run({**BLOCK, "checkpoint_every": 1, "keep_last": 9})
    save, broken = checkpoint.save_file, {1, 3}

    def fill(tensors, path):
        if int(path.parent.name.split("step-")[1].split(".")[0]) in broken:
            raise OSError(28, "No space left on device")
        save(tensors, path)

    monkeypatch.setattr(checkpoint, "save_file", fill)
    trainer = Trainer(run, "plain")
    assert trainer.schedule.steps > 3
    assert trainer.train()
    said = [line for line in capsys.readouterr().err.splitlines() if "no checkpoint" in line]
    assert len(said) == 2
    assert "step 1: no checkpoint" in said[0]
    assert "bytes" in said[0]
    steps = trainer.schedule.steps
    kept = [f"step-{step:08d}" for step in range(1, steps + 1) if step not in broken]
    assert sorted(p.name for p in (run.folder / "plain").iterdir()) == kept

    broken.add(steps)
    other = make_run({**BLOCK, "checkpoint_every": 2}, folder="other")
    with pytest.raises(UserError, match="cannot be written"):
        Trainer(other, "plain").train()
    assert checkpoint.latest(other.folder, "plain") is not None
