"""The command: the whole recipe under the launcher, stopping and going on, and every mistake in one line."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from faces import write_faces
from launching import LAUNCHER, ROOT, command, environment, free_port, launch
from PIL import Image
from safetensors.torch import load_file
from tiny import TINY

from facelt import evaluate, extract, train
from facelt.config import FaceltConfig
from facelt.features.card import CARD
from facelt.head.classifier import Classifier
from facelt.network import backbone
from facelt.network.embedder import Embedder
from facelt.parallel.partition import Partition
from facelt.run_folder import checkpoint
from facelt.run_folder.lock import Lock
from facelt.status import read_status
from facelt.training.trainer import Trainer
from recordio_tools.__main__ import main as recordio
from recordio_tools.check.unreadable import read_unreadable
from recordio_tools.dataset import RecordDataset


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_faces(tmp_path_factory.mktemp("train") / "data")


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "ds.json"
    path.write_text(json.dumps(TINY))
    return path


def metrics(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_the_whole_recipe_on_two_ranks_and_once_more(config, data, tmp_path):
    run = tmp_path / "run"
    done = launch(*command(config, data, run))
    assert done.returncode == 0, done.stderr
    lines = metrics(run)
    assert [line["stage"] for line in lines] == ["plain"] * 15 + ["meta"] * 8  # 4 · 30 / 8 and 2 · 30 / 8 steps
    losses = [line["cross_entropy"] for line in lines[:15]]
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])
    assert {"cross_entropy", "centroid", "accuracy", "lr", "rate"} <= set(lines[-1])
    assert [line["lr"] for line in lines[:15]] == pytest.approx([0.05] * 12 + [0.005] * 3)
    for stage, steps in (("plain", 15), ("meta", 8)):
        folder = checkpoint.latest(run, stage)
        state = checkpoint.read_state(folder)
        assert (folder.name, state.finished, state.starts) == (f"step-{steps:08d}", True, [0, 3])
    weights = load_file(checkpoint.latest(run, "meta") / "model.safetensors")
    assert "backbone.layer4.0.conv1.weight" in weights
    assert list((run / "tensorboard" / "meta").glob("events*"))
    again = launch(*command(config, data, run))
    assert again.returncode == 0, again.stderr
    assert "stage meta: finished" in again.stderr
    assert metrics(run) == lines


def test_memory_starts_at_the_class_means_and_the_hallucinator_at_the_plain_classifier(config, data, tmp_path):
    run = tmp_path / "run"
    assert train.main([*command(config, data, run, "--stage", "plain")[1:]]) == 0
    still = ["--set", "meta.lr_scale=1e-30", "--set", "ds.optimizer.params.weight_decay=0"]
    assert train.main([*command(config, data, run, "--stage", "meta", *still)[1:]]) == 0
    plain = load_file(checkpoint.latest(run, "plain") / "classes-00000-of-00001.safetensors")
    memory = load_file(checkpoint.latest(run, "meta") / "classes-00000-of-00001.safetensors")
    torch.testing.assert_close(memory["memory.hallucinator_weight"], plain["classifier.weight"])
    torch.testing.assert_close(memory["memory.hallucinator_bias"], plain["classifier.bias"])

    arguments = ["--checkpoint", str(run / "plain"), "--data", str(data), "--output", str(tmp_path / "features")]
    assert extract.main(arguments) == 0
    features = np.load(tmp_path / "features" / "features.npy")
    labels = np.load(tmp_path / "features" / "labels.npy")
    means = np.stack([features[labels == k].mean(0) for k in range(5)])
    np.testing.assert_allclose(memory["memory.centroids"], means, rtol=1e-4, atol=1e-5)


def test_a_prior_a_metric_loss_and_a_late_sampler_then_a_head_with_its_parts_off(config, data, tmp_path):
    run = tmp_path / "run"
    knobs = {"plain_head.loss": "logit_adjusted", "plain_head.metric": "range", "plain.epochs": 1}
    knobs |= {"plain.sampler": "class_aware", "plain.images_per_class": 2, "plain.class_aware_from": 0.5}
    knobs |= {"head.memory": "false", "head.reach": "false", "head.classify": "meta", "head.attention_on": "features"}
    assert train.main([*command(config, data, run, *(f"--set={k}={v}" for k, v in knobs.items()))[1:]]) == 0
    plain, meta = ([line for line in metrics(run) if line["stage"] == stage] for stage in ("plain", "meta"))
    assert {"logit_adjusted", "range", "accuracy"} <= set(plain[-1])
    assert {"cross_entropy", "centroid", "hinge_active", "reach_50"} <= set(meta[-1])
    assert not {"selector", "memory_share", "retrieved_classes"} & set(meta[-1])
    rows = load_file(checkpoint.latest(run, "meta") / "classes-00000-of-00001.safetensors")
    assert not [name for name in rows if "hallucinator" in name]

    sets = ["--checkpoint", str(run), "--data", str(data), "--output"]
    assert evaluate.main([*sets, str(tmp_path / "read"), "--train", str(data), "--draws", "20"]) == 0
    with pytest.raises(SystemExit) as left:
        extract.main([*sets, str(tmp_path / "control"), "--embedding", "meta", "--memory", "mean"])
    assert left.value.code == 2


def test_the_preset_cosine_starts_at_the_centroids_and_they_follow(config, data, tmp_path):
    run = tmp_path / "run"
    gently = ["--set", "preset=cosine", "--set", "meta.lr_scale=0.1"]
    assert train.main([*command(config, data, run, *gently)[1:]]) == 0
    lines = [line for line in metrics(run) if line["stage"] == "meta"]
    figures = {"memory_drift", "selector", "retrieved_classes", "temperature", "memory_share", "reach_50"}
    assert figures | {"gradient_norm"} <= set(lines[-1])
    assert lines[0]["selector"] == 0
    assert lines[0]["accuracy"] >= 0.5, "the classifier starts where the plain stage ended"
    rows = load_file(checkpoint.latest(run, "meta") / "classes-00000-of-00001.safetensors")
    assert set(rows) == {"memory.centroids", "classifier.weight", "classifier.weight.momentum_buffer"}
    still = tmp_path / "still"
    arguments = ["--start-from", str(run), "--stage", "meta", "--set", "preset=cosine", "--set", "meta.epochs=0.1"]
    arguments += ["--set", "meta.lr_scale=1e-30", "--set", "head.centroid_momentum=1"]
    assert train.main([*command(config, data, still, *arguments)[1:]]) == 0
    start = load_file(checkpoint.latest(still, "meta") / "classes-00000-of-00001.safetensors")
    torch.testing.assert_close(start["memory.centroids"], start["classifier.weight"])
    assert not torch.allclose(rows["memory.centroids"], start["memory.centroids"]), "they were to follow"


@pytest.mark.parametrize("epochs", [0, 1])
def test_the_memory_of_prototypes_is_the_class_means_and_is_calibrated(config, data, tmp_path, epochs):
    run, settings = tmp_path / "run", ("preset=facelt", "plain.epochs=1", f"memory.epochs={epochs}")
    changes = [part for knob in settings for part in ("--set", knob)]
    done = launch(*command(config, data, run), *changes)
    assert done.returncode == 0, done.stderr
    folder = checkpoint.latest(run, "memory")
    state = checkpoint.read_state(folder)
    assert (state.step, state.finished, state.stage) == (4 * epochs, True, "memory")
    assert [line["stage"] for line in metrics(run)] == ["plain"] * 4 + ["memory"] * 4 * epochs
    assert {"cross_entropy", "memory"} <= set(metrics(run)[-1]) or not epochs
    features = tmp_path / "features"
    assert extract.main(["--checkpoint", str(run), "--data", str(data), "--output", str(features)]) == 0
    rows, labels = np.load(features / "features.npy"), np.load(features / "labels.npy")
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    # Before they are whitened; the memory by the same map.
    map_DD = load_file(folder / "model.safetensors")["projection"].numpy().astype(float)
    np.testing.assert_allclose(map_DD.trace(), 16, rtol=1e-5)
    assert abs(map_DD - np.eye(16)).max() > 0.01
    before = rows @ np.linalg.inv(map_DD)
    before /= np.linalg.norm(before, axis=1, keepdims=True)
    means = np.stack([before[labels == k].mean(0) for k in range(5)]) @ map_DD
    centroids = np.concatenate([load_file(path)["memory.centroids"] for path in sorted(folder.glob("classes-*"))])
    np.testing.assert_allclose(centroids, means, rtol=1e-3, atol=1e-5)
    cosines = unit @ (means / np.linalg.norm(means, axis=1, keepdims=True)).T
    np.testing.assert_allclose(np.load(features / "cosine.npy"), cosines.max(1), atol=1e-5)
    assert 4 <= state.scalars["temperature"] <= 256
    assert -1 <= state.scalars["threshold"] <= 1
    again = launch(*command(config, data, run), *changes)
    assert again.returncode == 0, again.stderr
    assert "stage memory: finished" in again.stderr
    if not epochs:  # by its classifier it is the plain run
        told = {name: tmp_path / name for name in ("memory", "plain")}
        for name, report in told.items():
            arguments = [
                "--checkpoint",
                str(run / name),
                "--train",
                str(data),
                "--data",
                str(data),
                "--read",
                "classifier",
            ]
            assert evaluate.main([*arguments, "--output", str(report)]) == 0
        memory, plain = (json.loads((report / "report.json").read_text()) for report in told.values())
        assert [r["closed"] for r in memory["readings"]] == [r["closed"] for r in plain["readings"]]


def test_centroids_may_be_refreshed_from_the_whole_set(config, data, tmp_path):
    run = tmp_path / "run"
    refresh = [
        "--set",
        "head.centroid_update=refresh",
        "--set",
        "head.refresh_every=7",
        "--set",
        "head.attention=false",
    ]
    assert train.main([*command(config, data, run, *refresh)[1:]]) == 0
    rows = load_file(checkpoint.latest(run, "meta") / "classes-00000-of-00001.safetensors")
    # Step 7, the last of the eight, began with a refresh. Without a rate the network of its end is that of its start.
    again = [*command(config, data, tmp_path / "again", "--start-from", str(run), *refresh)[1:], "--stage", "meta"]
    assert train.main([*again, "--set", "meta.lr_scale=1e-30"]) == 0
    still = load_file(checkpoint.latest(tmp_path / "again", "meta") / "classes-00000-of-00001.safetensors")
    assert not torch.allclose(rows["memory.centroids"], still["memory.centroids"])
    arguments = ["--checkpoint", str(run / "plain"), "--data", str(data), "--output", str(tmp_path / "features")]
    assert extract.main(arguments) == 0
    features = np.load(tmp_path / "features" / "features.npy")
    means = np.stack([features[np.load(tmp_path / "features" / "labels.npy") == k].mean(0) for k in range(5)])
    # Batch normalisation has seen other images since, so the refreshed means are near the old ones, not at them.
    assert not np.allclose(still["memory.centroids"], means, atol=1e-7)
    similar = torch.nn.functional.cosine_similarity(still["memory.centroids"], torch.from_numpy(means))
    assert similar.min() > 0.8


def test_margins_samples_and_what_adaface_remembers_survive_a_stop(config, data, tmp_path):
    adaface = ["plain_head.classifier=cosine", "plain_head.scale=16", "plain_head.margin=adaface"]
    adaface += [
        "plain_head.margin_size=0.4",
        "plain.sample_rate=0.5",
        "meta.sample_rate=0.5",
        "preset=cosine",
        "meta.lr_scale=0.01",
    ]
    knobs = [word for knob in adaface for word in ("--set", knob)]
    straight, halves = tmp_path / "straight", tmp_path / "halves"
    assert train.main([*command(config, data, straight, *knobs)[1:]]) == 0
    # Saved after step 8 of 15, as if killed there: the later checkpoint is taken away.
    assert (
        train.main([*command(config, data, halves, *knobs, "--set", "checkpoint_every=8", "--stage", "plain")[1:]]) == 0
    )
    shutil.rmtree(halves / "plain" / "step-00000015")
    state = checkpoint.read_state(halves / "plain" / "step-00000008")
    assert state.scalars["norm_mean"] != 20
    assert train.main([*command(config, data, halves, *knobs)[1:]]) == 0
    for one, other in zip(metrics(straight), metrics(halves), strict=True):
        assert one["cross_entropy"] == pytest.approx(other["cross_entropy"], rel=1e-4)
    ends = [checkpoint.read_state(checkpoint.latest(run, "plain")).scalars for run in (straight, halves)]
    assert [end.pop("restarts") for end in ends] == [0, 1]
    assert ends[0] == pytest.approx(ends[1], rel=1e-5)


def test_stopped_in_the_middle_it_goes_on_as_if_it_had_not(config, data, tmp_path):
    straight, halves = tmp_path / "straight", tmp_path / "halves"
    assert train.main(command(config, data, straight)[1:]) == 0
    longer = [sys.executable, *command(config, data, halves)]
    process = subprocess.Popen(longer, cwd=ROOT, env=environment(), stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not (halves / "metrics.jsonl").exists():
        time.sleep(0.005)
    while process.poll() is None and not (halves / "metrics.jsonl").read_text():
        time.sleep(0.002)
    process.send_signal(signal.SIGUSR1)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 0, said
    assert "run the same command to resume" in said
    state = checkpoint.read_state(checkpoint.find(halves))
    assert not state.finished
    assert train.main(command(config, data, halves)[1:]) == 0
    for file in ("model.safetensors", "moments.safetensors", "classes-00000-of-00001.safetensors"):
        want = load_file(checkpoint.latest(straight, "meta") / file)
        got = load_file(checkpoint.latest(halves, "meta") / file)
        for name in want:
            torch.testing.assert_close(got[name], want[name], rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_sigterm_to_the_launcher_saves_on_all_ranks(config, data, tmp_path):
    """The front command dies at once; its ranks notice."""
    run, long = tmp_path / "run", ["--set", "plain.epochs=400", "--set", "log_every=100000"]
    full = [str(LAUNCHER), "--num_gpus", "2", "--master_port", str(free_port()), *command(config, data, run, *long)]
    process = subprocess.Popen(full, cwd=ROOT, env=environment(), stderr=subprocess.PIPE, text=True)
    lines = run / "metrics.jsonl"
    while process.poll() is None and not (lines.exists() and lines.read_text()):
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=120)[1]  # to the end of the ranks, which write there too
    assert process.returncode == -signal.SIGTERM
    assert "run the same command to resume" in said
    assert not checkpoint.read_state(checkpoint.latest(run, "plain")).finished


def test_a_stage_starts_from_the_plain_stage_of_another_run_and_meta_from_its_own(config, data, tmp_path):
    """--start-from names a whole run, with a meta stage too; then meta goes on from the plain stage just trained."""
    first, second = tmp_path / "first", tmp_path / "second"
    assert train.main(command(config, data, first)[1:]) == 0
    still = ["--set", "ds.optimizer.params.lr=1e-30", "--set", "ds.optimizer.params.weight_decay=0"]
    assert train.main(command(config, data, second, "--start-from", str(first), *still)[1:]) == 0
    for stage in ("plain", "meta"):
        old = load_file(checkpoint.latest(first, "plain") / "model.safetensors")
        new = load_file(checkpoint.latest(second, stage) / "model.safetensors")
        torch.testing.assert_close(new["backbone.conv1.weight"], old["backbone.conv1.weight"])
    plain, meta = (load_file(checkpoint.latest(second, s) / "model.safetensors") for s in ("plain", "meta"))
    name = "backbone.bn1.num_batches_tracked"
    assert meta[name] == plain[name] + 8 == old[name] + 15 + 8  # the batches of second's plain stage are behind meta


def test_a_classifier_is_trained_again_on_a_frozen_network(config, data, tmp_path, capsys):
    first, again = tmp_path / "first", tmp_path / "again"
    knobs = ["plain.epochs=1", "plain_head.restart=true", "plain.freeze_backbone=true", "plain.sampler=class_aware"]
    knobs = ["--stage", "plain", *(f"--set={knob}" for knob in (*knobs, "plain.images_per_class=2"))]
    answer = refused(capsys, *command(config, data, tmp_path / "none", *knobs))
    assert "plain_head.restart needs" in answer
    assert "--start-from" in answer
    assert train.main(command(config, data, first, "--stage", "plain", "--set", "plain.epochs=1")[1:]) == 0
    still = ["--set", "plain.lr_scale=1e-30", "--start-from", str(first)]
    assert train.main(command(config, data, again, *knobs, *still)[1:]) == 0
    old, new = (load_file(checkpoint.latest(run, "plain") / "model.safetensors") for run in (first, again))
    for name in old:
        if name.startswith("backbone."):
            assert torch.equal(old[name], new[name]), name
    rows = load_file(checkpoint.latest(again, "plain") / "classes-00000-of-00001.safetensors")
    torch.testing.assert_close(rows["classifier.weight"], Classifier(Partition(5), 16, "linear").weight.detach())


def assert_alike(one: Path, other: Path) -> None:
    """Two checkpoints hold the same tensors, bit for bit."""
    for file in ("model.safetensors", "moments.safetensors", "classes-00000-of-00001.safetensors"):
        want, got = load_file(one / file), load_file(other / file)
        assert want.keys() == got.keys()
        assert not [name for name in want if not torch.equal(want[name], got[name])], file


def validation(data: Path, strangers: Path) -> list[str]:
    return ["--set", f"validation.known={data}", "--set", f"validation.strangers={strangers}", "--set=keep_last=1"]


def test_validation_changes_no_bit_of_a_run_and_its_best_is_kept_also_by_one_that_resumes(
    config, data, tmp_path, capsys
):
    plain, seen = tmp_path / "without", tmp_path / "with"
    knobs = ["--set", "backbone.neck=batch_norm", "--set", "plain.epochs=3"]
    assert train.main(command(config, data, plain, *knobs)[1:]) == 0
    assert "next: python -m facelt.extract" in capsys.readouterr().err.splitlines()[-1]
    strangers = write_faces(tmp_path / "held", classes=6, images=3, called="stranger")
    knobs += validation(data, strangers)
    only = ["--stage", "plain", "--set", "checkpoint_every=5"]
    assert train.main(command(config, data, seen, *knobs, *only, "--set=validation.share=1")[1:]) == 0
    said = capsys.readouterr().err
    assert "validation.known" in said
    assert "is the training set itself" in said
    last = said.splitlines()[-1]
    assert last.startswith(f"trained: {seen / 'plain' / 'step-00000012'}")
    assert last.endswith("next: the same command with --stage meta")
    measured = {line["step"] + 1: line["validation"] for line in metrics(seen) if "validation" in line}
    assert list(measured) == [4, 8, 12]
    name = "held.rank_1"
    best = max(measured, key=lambda step: measured[step][name])
    assert checkpoint.best(seen, "plain")[1:] == (best, name, measured[best][name])
    assert checkpoint.read_state(checkpoint.find(seen / "best")).figures == measured[best]
    assert len(list((seen / "plain").glob("step-*"))) == len({best, 12})
    card = (seen / "plain" / CARD).read_text(encoding="utf-8")
    assert f"step {12}" in card
    assert f"`{name}` {100 * measured[12][name]:.2f} %" in card
    assert f"labels `{checkpoint.read_state(checkpoint.find(seen)).data.labels}`" in card
    assert "None were given. Measure before use" in card
    assert_alike(plain / "plain" / "step-00000012", seen / "plain" / "step-00000012")

    # As if killed after a step without validation: what is left is that step's and the best.
    halves = tmp_path / "halves"
    assert (
        train.main(command(config, data, halves, *knobs, *only, "--set=validation.share=1", "--set=keep_last=9")[1:])
        == 0
    )
    for step in (8, 12):
        shutil.rmtree(halves / "plain" / f"step-{step:08d}", ignore_errors=True)
    kept = sorted(int(path.name[5:]) for path in (halves / "plain").glob("step-*"))
    assert kept[-1] == 10
    assert train.main(command(config, data, halves, *knobs, "--set=validation.share=1")[1:]) == 0
    assert_alike(plain / "plain" / "step-00000012", halves / "plain" / "step-00000012")
    assert_alike(checkpoint.latest(plain, "meta"), checkpoint.latest(halves, "meta"))
    left = {step: measured[step][name] for step in (4, 12)}
    assert checkpoint.best(halves, "plain").step == max(left, key=lambda step: left[step])
    last = capsys.readouterr().err.splitlines()[-1]
    assert f"next: python -m facelt.evaluate --checkpoint {halves}" in last
    features = tmp_path / "features"
    asked = ["--checkpoint", str(halves / "best"), "--data", str(strangers), "--output", str(features)]
    assert extract.main(asked) == 0
    assert json.loads((features / "meta.json").read_text())["step"] == checkpoint.best(halves, "meta").step


def test_validation_is_spaced_out_and_its_mistakes_are_answered_before_the_first_step(config, data, tmp_path, capsys):
    run = tmp_path / "run"
    less = ["--stage", "plain", "--set", f"validation.known={data}", "--set", "validation.share=1e-6"]
    assert train.main(command(config, data, run, *less)[1:]) == 0
    said = capsys.readouterr().err
    assert said.count("to keep to 0% of the time it is made about every") == 1
    assert said.count("the end is validated in any case") == 1
    assert [line["step"] for line in metrics(run) if "validation" in line] == [14]

    def mistake(*knobs: str) -> str:
        words = [word for knob in knobs for word in ("--set", knob)]
        answer = refused(capsys, *command(config, data, tmp_path / "none", *words))
        assert not (tmp_path / "none").exists()
        return answer

    assert "no such file" in mistake("validation.packs=lfw.bin")
    (tmp_path / "empty").mkdir()
    assert "train.rec" in mistake(f"validation.strangers={tmp_path / 'empty'}")
    more = write_faces(tmp_path / "more", classes=6)
    assert "label 5 has no image in the training set" in mistake(f"validation.known={more}")
    assert "expected one of: data.classifier.all" in mistake(f"validation.known={data}", "validation.keep_best=best")


def test_help_knobs_lists_every_knob(capsys):
    with pytest.raises(SystemExit) as left:
        train.main(["--help-knobs"])
    assert not left.value.code
    lines = capsys.readouterr().out.splitlines()
    assert "plain.epochs 30 (number ≥ 0): length of the stage; an epoch is as many images as the set holds; " in str(
        lines
    )
    flat = set(flattened(FaceltConfig().model_dump()))
    assert {line.split(" ")[0] for line in lines[1:] if line} == flat


def flattened(block: dict, prefix: str = "") -> list[str]:
    parts = [flattened(v, f"{prefix}{k}.") if isinstance(v, dict) else [prefix + k] for k, v in block.items()]
    return [name for part in parts for name in part]


def refused(capsys, *arguments: str) -> str:
    """The one line that the command answers with, having left with status 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        train.main(list(arguments)[1:])
    assert left.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert len(lines) == 1
    return lines[0]


def test_missing_and_empty_data(config, tmp_path, capsys):
    assert "no-such" in refused(capsys, *command(config, tmp_path / "no-such", tmp_path / "run"))
    (tmp_path / "empty").mkdir()
    assert "train.rec" in refused(capsys, *command(config, tmp_path / "empty", tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_an_output_that_cannot_be_is_refused_before_anything_is_trained(config, data, tmp_path, capsys):
    (tmp_path / "file").write_text("kept")
    assert "is a file" in refused(capsys, *command(config, data, tmp_path / "file"))
    assert "cannot be written" in refused(capsys, *command(config, data, tmp_path / "file" / "run"))
    assert (tmp_path / "file").read_text() == "kept"


def test_data_and_output_may_stand_in_the_configuration(data, tmp_path, capsys):
    config = tmp_path / "ds.json"
    block = {**TINY["facelt"], "data": str(tmp_path / "nowhere")}
    config.write_text(json.dumps({**TINY, "facelt": block}))
    assert "no --output given" in refused(capsys, "", "--deepspeed_config", str(config))
    arguments = ["", "--deepspeed_config", str(config), "--set", f"output={tmp_path / 'run'}"]
    assert "nowhere" in refused(capsys, *arguments)


def test_an_index_of_another_file(config, data, tmp_path, capsys):
    broken = shutil.copytree(data, tmp_path / "broken")
    lines = (broken / "train.idx").read_text().splitlines()
    key, offset = lines[3].split("\t")
    lines[3] = f"{key}\t{int(offset) + 4}"
    (broken / "train.idx").write_text("\n".join(lines) + "\n")
    answer = refused(capsys, *command(config, broken, tmp_path / "run"))
    assert "train.idx" in answer or "train.rec" in answer
    assert not (tmp_path / "run").exists()


def test_a_label_outside_the_classes(config, data, tmp_path, capsys):
    broken = shutil.copytree(data, tmp_path / "broken")
    (broken / "property").write_text("3,32,32\n")
    (broken / "names.txt").unlink()
    assert "label 3" in refused(capsys, *command(config, broken, tmp_path / "run"))


def test_a_truncated_record(config, data, tmp_path, capsys):
    broken = shutil.copytree(data, tmp_path / "broken")
    rec = broken / "train.rec"
    rec.write_bytes(rec.read_bytes()[:-600])
    assert "train.rec" in refused(capsys, *command(config, broken, tmp_path / "run"))


def test_images_that_do_not_decode_are_stood_in_for_listed_and_mended(config, data, tmp_path, capsys):
    """Of 30 images three: more than the share allows; allowed, both stages train to their end, and again."""
    broken, run, mended = shutil.copytree(data, tmp_path / "broken"), tmp_path / "run", tmp_path / "mended"
    content, whole = bytearray((broken / "train.rec").read_bytes()), RecordDataset(broken)
    for row in (4, 13, 22):
        at = content.index(whole.jpeg(row).tobytes())
        content[at + 3 : at + 43] = bytes(1) + content[at + 4 : at + 43] if row == 4 else bytes(40)  # Pillow takes that
    (broken / "train.rec").write_bytes(content)
    arguments = command(config, broken, run)
    assert "more than max_unreadable 0.001 of 30 images" in refused(capsys, *arguments)
    for _ in range(2):
        assert train.main([*arguments[1:], "--set", "max_unreadable=0.1"]) == 0
        listed = read_unreadable(run / "quarantine.jsonl")
        assert sorted(one.key for one in listed) == sorted(whole.keys[[4, 13, 22]])
    assert checkpoint.read_state(checkpoint.latest(run, "meta")).finished
    assert {line["unreadable"] for line in metrics(run) if line["stage"] == "meta"} == {3}
    assert read_status(run).quarantined == 3
    repair = ["--unreadable", str(run / "quarantine.jsonl"), "--repair", str(mended)]
    assert recordio(["verify", "--decode", str(broken), *repair]) == 1
    assert len(RecordDataset(mended)) == 27
    assert extract.main(["--checkpoint", str(run), "--data", str(mended), "--output", str(tmp_path / "f")]) == 0
    # Extraction leaves none out in silence: it says which, and writes nothing.
    with pytest.raises(SystemExit) as left:
        extract.main(["--checkpoint", str(run), "--data", str(broken), "--output", str(tmp_path / "g")])
    assert left.value.code == 2
    assert "does not decode" in capsys.readouterr().err
    assert not (tmp_path / "g").exists()


def test_records_cut_short_in_the_middle_of_a_run_end_it_in_one_line(config, data, tmp_path, capsys, monkeypatch):
    broken = shutil.copytree(data, tmp_path / "broken")
    train_step = Trainer.train_step

    def cut_at_step_2(self, engine, feed, step):
        if step == 2:
            os.truncate(broken / "train.rec", 4096)
        return train_step(self, engine, feed, step)

    monkeypatch.setattr(Trainer, "train_step", cut_at_step_2)
    answer = refused(capsys, *command(config, broken, tmp_path / "run"))
    assert "train.rec: has 4,096 bytes" in answer
    assert "cut short" in answer


@pytest.mark.parametrize(
    "override, word",
    [
        ("head=3", "facelt.head is 3"),
        ("meta=null", "facelt.meta is None"),
        ("preset=[1]", "facelt.preset is [1]"),
        ("seed=-1", "facelt.seed is -1"),
        ("plain.epochs=Infinity", "facelt.plain.epochs is inf"),
        ("ds.train_batch_size=0", "train_batch_size is 0"),
        ("ds.train_micro_batch_size_per_gpu=0", "train_micro_batch_size_per_gpu is 0"),
        ("ds.train_micro_batch_size_per_gpu=auto", "train_micro_batch_size_per_gpu is 'auto'"),
        ("ds.optimizer.params.lr=-1", "optimizer.params.lr is -1"),
        ("ds.optimizer.params.momentum=much", "optimizer.params.momentum is 'much'"),
        ("ds.train_batch=8", "did you mean train_batch_size?"),
        ("ds.train_batch_size=many", "train_batch_size is 'many'"),
        ("ds.gradient_accumulation_steps=3", "not made of 3 equal micro-batches"),
        ("meta.images_per_class=3", "whole groups of 3"),
        ("ds.optimizer=SGD", "expected SGD with its params"),
    ],
)
def test_a_value_that_cannot_be_is_refused_before_anything_is_trained(config, data, tmp_path, capsys, override, word):
    assert word in refused(capsys, *command(config, data, tmp_path / "run", "--set", override))
    assert not (tmp_path / "run").exists()


def test_a_misspelt_knob_and_another_seed(config, data, tmp_path, capsys):
    answer = refused(capsys, *command(config, data, tmp_path / "run", "--set", "plain.epocs=1"))
    assert "facelt.plain.epocs is not a known key" in answer
    assert "no plain stage" in refused(capsys, *command(config, data, tmp_path / "run", "--stage", "meta"))
    assert "no plain stage" in refused(capsys, *command(config, data, tmp_path / "run", "--stage", "memory"))
    assert "no checkpoint" in refused(capsys, *command(config, data, tmp_path / "run", "--start-from", str(tmp_path)))
    assert "no such file" in refused(capsys, *command(config, data, tmp_path / "run", "--init", "imagenet.pth"))


def test_a_run_is_not_taken_up_in_another_order(config, data, tmp_path, capsys):
    run = tmp_path / "run"
    assert train.main(command(config, data, run, "--stage", "plain", "--set", "plain.epochs=1")[1:]) == 0
    assert "seed 0, given 1" in refused(capsys, *command(config, data, run, "--set", "seed=1"))
    answer = refused(capsys, *command(config, data, run, "--set", "ds.train_batch_size=16"))
    assert "train_batch_size 8, given 16" in answer
    assert "embedding_size 16, given 8" in refused(capsys, *command(config, data, run, "--set", "embedding_size=8"))
    assert "backbone.neck linear, given relu" in refused(
        capsys, *command(config, data, run, "--set", "backbone.neck=relu")
    )
    assert "resize None, given 40" in refused(capsys, *command(config, data, run, "--set", "resize=40"))
    more = write_faces(tmp_path / "more", classes=6)
    assert "trained on 5 classes, the data has 6" in refused(capsys, *command(config, more, run))


def test_what_changes_the_images_is_refused_unless_allowed_and_what_changes_the_rates_is_said(
    config, data, tmp_path, capsys
):
    run = tmp_path / "run"

    def resumed(*more: str, folder: Path = data) -> list[str]:
        return command(config, folder, run, "--stage", "plain", *more)

    assert train.main(resumed("--set", "plain.epochs=1")[1:]) == 0
    other = shutil.copytree(data, tmp_path / "other")
    content = (other / "train.rec").read_bytes()
    at = content.index(b"\xff\xd8\xff") + 20
    (other / "train.rec").write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    assert "on another set" in refused(capsys, *resumed(folder=other))
    sampler = ["--set", "plain.sampler=class_aware"]
    assert "--allow-change sampler" in refused(capsys, *resumed(*sampler))
    assert "augment.flip 0.5, given 0.0" in refused(capsys, *resumed("--set", "augment.flip=0"))
    changed = ["--set", "plain.epochs=1.5", "--set", "ds.optimizer.params.lr=0.01", *sampler, "--set", "seed=1"]
    allowed = ["--allow-change", "sampler", "--allow-change", "seed"]
    assert "--allow-change seed" in refused(capsys, *resumed(*changed, *allowed[:2]))
    assert train.main(resumed(*changed, *allowed)[1:]) == 0
    said = capsys.readouterr().err
    for line in ("plain.epochs was 1", "ds.optimizer.params.lr was 0.05, is now 0.01", "seed was 0, is now 1"):
        assert f"stage plain: {line}" in said
    assert "meta." not in said


def test_a_meta_stage_whose_plain_stage_has_moved_on_is_refused(config, data, tmp_path, capsys):
    run = tmp_path / "run"
    short = ["--set", "plain.epochs=0.5", "--set", "meta.epochs=0.5"]
    assert train.main(command(config, data, run, *short)[1:]) == 0
    assert train.main(command(config, data, run, *short)[1:]) == 0
    assert train.main(command(config, data, run, "--stage", "plain", "--set", "plain.epochs=1")[1:]) == 0
    more = command(config, data, run, "--set", "plain.epochs=1", "--set", "meta.epochs=1")
    assert "has moved on" in refused(capsys, *more)
    assert train.main([*more, "--allow-change", "plain"][1:]) == 0


def test_a_damaged_run_goes_on_from_the_checkpoint_before(config, data, tmp_path, capsys):
    run, often = tmp_path / "run", ["--set", "checkpoint_every=4", "--stage", "plain", "--set", "plain.epochs=2"]
    assert train.main(command(config, data, run, *often)[1:]) == 0
    newest = checkpoint.latest(run, "plain")
    want = load_file(newest / "model.safetensors")
    (newest / "state.json").write_bytes(b"\x00" * 100)
    assert train.main(command(config, data, run, *often)[1:]) == 0
    assert f"warning: {newest} is damaged: unreadable state.json" in capsys.readouterr().err
    got = load_file(newest / "model.safetensors")
    assert all(torch.equal(got[name], tensor) for name, tensor in want.items())
    assert newest.with_name(f"{newest.name}.damaged").is_dir()


def test_a_plain_stage_is_not_begun_anew_under_its_meta_stage(config, data, tmp_path, capsys):
    run, short = tmp_path / "run", ["--set", "plain.epochs=0.5", "--set", "meta.epochs=0.5"]
    assert train.main(command(config, data, run, *short)[1:]) == 0
    for path in (run / "plain").glob("*/model.safetensors"):
        path.unlink()
    for _ in range(2):
        assert "no whole checkpoint is left" in refused(capsys, *command(config, data, run, *short))
    assert train.main(command(config, data, run, *short, "--stage", "meta")[1:]) == 0


def test_a_second_run_on_one_output_is_refused(config, data, tmp_path, capsys):
    first = Lock(tmp_path / "run")
    try:
        assert f"another run trains here, process {os.getpid()} on" in refused(
            capsys, *command(config, data, tmp_path / "run")
        )
    finally:
        first.release()


def test_a_run_is_not_resumed_with_a_momentum_that_it_never_had(config, data, tmp_path, capsys):
    still = ["--stage", "plain", "--set", "plain.epochs=1", "--set", "ds.optimizer.params.momentum=0"]
    assert train.main(command(config, data, tmp_path / "run", *still)[1:]) == 0
    more = command(config, data, tmp_path / "run", "--stage", "plain")
    assert "trained with other optimizer.params.momentum" in refused(capsys, *more)


def test_other_pixels_than_those_of_the_plain_stage_are_refused(config, data, tmp_path, capsys):
    run, black = tmp_path / "run", ["--set", "pixel_mean=[0, 0, 0]"]
    assert train.main(command(config, data, run, "--stage", "plain", "--set", "plain.epochs=0.5")[1:]) == 0
    assert "pixel_mean (127.5, 127.5, 127.5), given (0.0, 0.0, 0.0)" in refused(
        capsys, *command(config, data, run, *black)
    )
    other = command(config, data, tmp_path / "other", "--stage", "meta", "--start-from", str(run), *black)
    assert "set pixel_mean as there" in refused(capsys, *other)


def test_a_run_begun_before_there_was_a_choice_of_pixels_resumes_with_its_own(config, data, tmp_path, capsys):
    net = backbone.build("resnet10", 8, "imagenet", "local")
    torch.save(net.state_dict(), tmp_path / "init.pth")
    run, init = tmp_path / "run", ["--init", str(tmp_path / "init.pth"), "--stage", "plain"]
    face = ["--set", "pixel_mean=[127.5,127.5,127.5]", "--set", "pixel_std=[127.5,127.5,127.5]"]
    assert train.main(command(config, data, run, *init, *face, "--set", "checkpoint_every=8")[1:]) == 0
    shutil.rmtree(run / "plain" / "step-00000015")
    path = run / "plain" / "step-00000008" / "state.json"
    state = json.loads(path.read_text())
    del state["config"]["pixel_mean"], state["config"]["pixel_std"], state["seal"]
    path.write_text(json.dumps(state))
    assert train.main(command(config, data, run, *init)[1:]) == 0
    assert f"pixel_mean [127.5, 127.5, 127.5], as in {path.parent}" in capsys.readouterr().err
    assert checkpoint.read_state(checkpoint.latest(run, "plain")).config.pixel_mean == (127.5,) * 3


def test_the_pixels_of_a_run_are_those_of_its_features(config, data, tmp_path):
    run = tmp_path / "run"
    quick = ["--stage", "plain", "--set", "plain.epochs=0.5", "--set", "plain.lr_scale=1e-30"]
    usual, other = quick, [*quick, "--set", "pixel_mean=[0, 0, 0]", "--set", "pixel_std=[255, 255, 255]"]
    features = []
    for name, options in (("usual", usual), ("other", other)):
        assert train.main(command(config, data, run / name, *options)[1:]) == 0
        arguments = ["--checkpoint", str(run / name), "--data", str(data), "--output", str(tmp_path / name)]
        assert extract.main(arguments) == 0
        features.append(np.load(tmp_path / name / "features.npy"))
    assert not np.allclose(features[0], features[1], atol=1e-3)


def test_memory_and_features_see_the_same_centre_of_the_resized_images(config, data, tmp_path):
    run, side, size = tmp_path / "run", 64, 32
    knobs = {"resize": side, "augment.crop_kind": "fixed", "backbone.batch_norm": "frozen"}
    knobs |= {"plain.epochs": 0.5, "meta.epochs": 0.2, "plain.lr_scale": 1e-30, "meta.lr_scale": 1e-30}
    options = [word for name, value in knobs.items() for word in ("--set", f"{name}={value}")]
    assert train.main(command(config, data, run, *options)[1:]) == 0
    assert extract.main(["--checkpoint", str(run), "--data", str(data), "--output", str(tmp_path / "out")]) == 0
    folder, dataset = checkpoint.latest(run, "meta"), RecordDataset(data)
    embedder = Embedder(checkpoint.read_state(folder).config, meta=True).eval()
    embedder.load_state_dict(checkpoint.read_weights(folder))
    first = (side - size) // 2
    pictures = [Image.open(BytesIO(dataset.jpeg(i).tobytes())) for i in range(len(dataset))]
    resized = np.stack([np.asarray(picture.resize((side, side), Image.BILINEAR)) for picture in pictures])
    images = torch.from_numpy(resized[:, first : first + size, first : first + size]).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        v = embedder((images - 127.5) / 127.5).direct_BD
        whole = embedder((torch.from_numpy(resized[:, ::2, ::2]).permute(0, 3, 1, 2) - 127.5) / 127.5).direct_BD
    tolerance = 0.1 * float(v.std())  # Pillow rounds to whole levels
    np.testing.assert_allclose(np.load(tmp_path / "out" / "features.npy"), v, atol=tolerance)
    assert (whole - v).abs().max() > 10 * tolerance
    means = torch.stack([v[torch.from_numpy(dataset.labels == k)].mean(0) for k in range(dataset.num_classes)])
    rows = checkpoint.read_rows(folder, Partition(dataset.num_classes), {"memory.centroids"})
    np.testing.assert_allclose(rows["memory.centroids"], means, atol=tolerance)


def test_more_ranks_than_classes_leaves_the_launcher_with_status_2(config, tmp_path):
    lonely = write_faces(tmp_path / "lonely", classes=1)
    done = launch(*command(config, lonely, tmp_path / "run"))
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if "error:" in line]
    assert lines == [
        "facelt.train: error: 1 classes cannot be shared by 2 ranks: every rank needs at least one; "
        "start at most 1 ranks"
    ]
    assert not (tmp_path / "run").exists()
