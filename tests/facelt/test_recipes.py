"""A recipe is found by name, a file that exists comes first; the paper's benchmarks run from training to evaluation."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from faces import write_faces
from named_nets import ArcfaceTorch, with_statistics
from torch.nn.functional import normalize

from facelt import evaluate, extract, recipes, train
from facelt.config import IMAGENET_PIXELS, load
from facelt.network import backbone
from facelt.parallel.partition import Partition
from facelt.run_folder import checkpoint
from facelt.training.optimizer import split
from recordio_tools.errors import UserError

ROOT = Path(__file__).parents[2]


def test_every_recipe_has_a_name():
    assert {recipes.find(name) for name in recipes.RECIPES} == set((ROOT / "jobs").glob("*.json"))
    assert recipes.find("ms1m.json") == recipes.find("ms1m") == ROOT / "jobs" / "ds.json"


def test_an_existing_file_comes_before_a_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("demo").write_text("{}")
    assert recipes.find("demo") == Path("demo")
    assert recipes.find("demo.json") == ROOT / "jobs" / "demo.json"


@pytest.mark.parametrize("name", [None, "x" * 300, "none.json", "demo.toml", ".json", ".", "jobs/demo"])
def test_an_unknown_recipe_is_answered_with_the_known_ones(name):
    known = "ms1m, demo, finetune, laptop, ms1m_8gpu, ms1m_64gpu, imagenet_lt, places_lt, sun_lt, ms1m_lt"
    with pytest.raises(UserError, match=rf"--deepspeed_config.*expected a DeepSpeed JSON, or a recipe: {known}$"):
        recipes.find(name)


# Table 8 of the paper: rate, and how deep the network is; and whether the network is frozen in the second stage.
TABLE_8 = {
    "imagenet_lt": (0.1, "resnet10", False),
    "places_lt": (0.01, "resnet152", True),
    "sun_lt": (0.01, "resnet152", True),
    "ms1m_lt": (0.01, "resnet50", False),
}


@pytest.mark.parametrize("name", TABLE_8)
def test_a_benchmark_has_the_schedule_of_table_8(name):
    ds, config = load(recipes.find(name))
    lr, network, frozen = TABLE_8[name]
    assert (ds["optimizer"]["params"]["lr"], config.backbone.name, config.meta.freeze_backbone) == (lr, network, frozen)
    for stage in (config.plain, config.meta):
        assert (stage.epochs, stage.decay_every, stage.decay) == (30, 10, 0.1)
    network_lr = lr * config.meta.lr_scale
    rates = (network_lr, network_lr * config.meta.classifier_lr, network_lr * config.meta.centroid_lr)
    assert rates == pytest.approx((0.01, 0.1, 0.01))  # of the authors' stage 2
    assert (config.plain.sampler, config.meta.sampler, config.meta.images_per_class) == ("uniform", "class_aware", 4)
    assert (config.resize, config.image_size, config.augment.flip, config.augment.jitter) == (256, 224, 0.5, 0.4)
    assert (config.pixel_mean, config.pixel_std) == tuple(IMAGENET_PIXELS.values())


@pytest.mark.parametrize("name, ranks", [("ms1m_8gpu", 8), ("ms1m_64gpu", 64)])
def test_a_large_batch_is_ms1m_at_a_rate_that_grows_with_it(name, ranks):
    (small, one), (large, many) = load(recipes.find("ms1m")), load(recipes.find(name))
    times = large["train_batch_size"] / small["train_batch_size"]
    assert times > 1
    assert large["optimizer"]["params"] == small["optimizer"]["params"] | {"lr": pytest.approx(0.01 * times)}
    assert large["train_batch_size"] % (ranks * many.meta.images_per_class) == 0
    split(large)  # DeepSpeed's keys are known
    same = {"epochs", "decay_every", "decay", "sampler", "images_per_class", "lr_scale"}
    for stage in ("plain", "meta"):
        assert many.stage(stage).warmup >= 1 > one.stage(stage).warmup
        assert many.stage(stage).model_dump(include=same) == one.stage(stage).model_dump(include=same)
    assert many.head == one.head
    assert many.head.reduction == "mean"  # of a sum, the gradient would grow with the batch already


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Tiny sets of the shape of a benchmark's, larger than what the network takes, and what a network starts from."""
    folder = tmp_path_factory.mktemp("recipes")
    write_faces(folder / "train", classes=4, images=5, size=40)
    write_faces(folder / "test", classes=4, images=3, size=40)
    write_faces(folder / "open", classes=2, images=3, size=40, called="stranger")
    torch.save(backbone.build("resnet10", 8, "imagenet", "local").state_dict(), folder / "init.pth")
    return folder


SMALL = {
    "ds.train_batch_size": 8,
    "backbone.name": "resnet10",
    "backbone.width": 8,
    "image_size": 32,
    "resize": 36,
    "embedding_size": 8,
    "plain.epochs": 0.8,
    "meta.epochs": 0.8,
    "loader_threads": 1,
}


def command(name: str, sets: Path, run: Path, **knobs: object) -> list[str]:
    # The released ResNet-10's own channels are the embedding in the first stage: 8 times the width.
    own = {"embedding_size": 64} if name == "imagenet_lt" else {}
    known = {} if name == "ms1m_lt" else {"validation.known": sets / "test"}
    given = {**SMALL, **own, **known, **knobs}
    settings = [word for knob, value in given.items() for word in ("--set", f"{knob}={value}")]
    start = [] if name == "imagenet_lt" else ["--init", str(sets / "init.pth")]
    return ["--deepspeed_config", name, "--data", str(sets / "train"), "--output", str(run), *start, *settings]


@pytest.mark.parametrize("name", TABLE_8)
def test_a_benchmark_runs_from_training_to_evaluation(name, sets, tmp_path):
    run = tmp_path / "run"
    assert train.main(command(name, sets, run)) == 0
    plain, meta = (checkpoint.read_weights(checkpoint.latest(run, stage)) for stage in ("plain", "meta"))
    network = [key for key in plain if key.startswith("backbone.")]
    assert any(key.endswith("running_var") for key in network)
    moved = {key: not torch.equal(plain[key], meta[key]) for key in network}
    assert not any(moved.values()) if TABLE_8[name][2] else all(moved.values())
    if name == "imagenet_lt":  # as released: no layer of its own in the first stage
        assert "neck.fc.weight" in meta.keys() - plain.keys()
    else:
        assert not torch.equal(plain["neck.fc.weight"], meta["neck.fc.weight"])
    images = ["--train", str(sets / "train"), "--data", str(sets / "test"), "--open", str(sets / "open")]
    output = ["--output", str(tmp_path / "report"), "--draws", "5"]
    assert evaluate.main(["--checkpoint", str(run), *images, *output]) == 0
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert [reading["name"] for reading in report["readings"]] == ["classifier", "memory"]
    assert report["open_images"] == 6


def test_a_benchmark_keeps_the_best_epoch_where_it_is_given_validation_images(sets, tmp_path, capsys):
    run, known = tmp_path / "run", write_faces(tmp_path / "val", classes=4, images=2, size=40)
    knobs = {"validation.known": known, "validation.share": 1, "validation.every": 0.4, "keep_last": 1}
    assert train.main(command("imagenet_lt", sets, run, **knobs)) == 0
    said = capsys.readouterr().err
    assert "val: 8 images of 4 of the training people" in said
    best, meta = checkpoint.best(run, "plain"), checkpoint.read_state(checkpoint.latest(run, "meta"))
    assert best.figure == "val.classifier.all"
    assert meta.source.step == best.step
    assert checkpoint.best(run, "meta") is not None
    images = ["--train", str(sets / "train"), "--data", str(sets / "test"), "--draws", "5"]
    assert evaluate.main(["--checkpoint", str(run / "best"), *images, "--output", str(tmp_path / "report")]) == 0
    assert json.loads((tmp_path / "report" / "report.json").read_text())["source"]["checkpoint"] == str(
        checkpoint.find(run / "best")
    )


def test_a_single_stage_begins_with_the_memory_of_a_network_from_nothing(sets, tmp_path, capsys):
    run = tmp_path / "run"
    knobs = {"plain.epochs": 0, "meta.lr_scale": 1, "meta.classifier_lr": 1, "meta.centroid_lr": 0.1}
    assert train.main(command("imagenet_lt", sets, run, **knobs)) == 0
    assert "stage plain: no epoch to train; what the next stage starts from is in" in capsys.readouterr().err
    plain, meta = (checkpoint.latest(run, stage) for stage in ("plain", "meta"))
    assert (checkpoint.read_state(plain).step, checkpoint.read_state(meta).source.step) == (0, 0)
    first, last = checkpoint.read_weights(plain), checkpoint.read_weights(meta)
    assert not torch.equal(first["backbone.conv1.weight"], last["backbone.conv1.weight"])
    assert {line["stage"] for line in map(json.loads, (run / "metrics.jsonl").read_text().splitlines())} == {"meta"}


def test_a_recogniser_of_others_gets_a_memory_in_one_pass(sets, tmp_path):
    """Class means, temperature and threshold of weights that others trained: no stage trains anything."""
    run, knobs = tmp_path / "run", {"preset": "facelt", "plain.epochs": 0, "memory.epochs": 0}
    assert train.main(command("places_lt", sets, run, **knobs)) == 0
    memory = checkpoint.latest(run, "memory")
    state, weights = checkpoint.read_state(memory), checkpoint.read_weights(memory)
    assert {"temperature", "threshold"} <= state.scalars.keys()
    given = torch.load(sets / "init.pth", weights_only=True)
    assert torch.equal(weights["backbone.conv1.weight"], given["conv1.weight"])


def refused(capsys, words: list[str]) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        train.main(words)
    assert left.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert len(lines) == 1
    return lines[0]


def test_what_does_not_fit_a_benchmark_is_refused(sets, tmp_path, capsys):
    run, short = tmp_path / "run", {"plain.epochs": 0.4}
    assert train.main([*command("places_lt", sets, run, **short), "--stage", "plain"]) == 0
    other = write_faces(tmp_path / "other", classes=5, images=4, size=40)
    words = command("places_lt", sets, run)
    words[words.index("--data") + 1] = str(other)
    assert "trained on 4 classes, the data has 5" in refused(capsys, words)
    words[words.index("--output") + 1] = str(tmp_path / "new")
    assert "trained on 4 classes, the data has 5" in refused(capsys, [*words, "--start-from", str(run)])
    smaller = command("sun_lt", sets, tmp_path / "new", resize=24)
    assert "resize 24 is smaller than image_size 32" in refused(capsys, smaller)
    without = command("imagenet_lt", sets, tmp_path / "new", **{"backbone.init": "resnet152-imagenet.pth"})
    assert "--init resnet152-imagenet.pth: no such file" in refused(capsys, without)


FINE = {
    "ds.train_batch_size": 8,
    "backbone.name": "iresnet18",
    "backbone.width": 8,
    "image_size": 32,
    "embedding_size": 16,
    "loader_threads": 1,
}


def fine_tuned(sets: Path, run: Path, *more: str, **knobs: object) -> list[str]:
    settings = [word for knob, value in {**FINE, **knobs}.items() for word in ("--set", f"{knob}={value}")]
    data = ["--data", str(sets / "train"), "--output", str(run)]
    return ["--deepspeed_config", "finetune", *data, *more, *settings]


@pytest.fixture(scope="module")
def theirs(tmp_path_factory) -> list[str]:
    """Weights as insightface's training saves them."""
    path = tmp_path_factory.mktemp("theirs") / "backbone.pth"
    torch.manual_seed(3)
    torch.save(with_statistics(ArcfaceTorch()).state_dict(), path)
    return ["--init", str(path)]


def test_fine_tuning_starts_from_class_means_of_their_features(sets, theirs, tmp_path, capsys):
    run, still = tmp_path / "run", {"plain.epochs": 0.4, "plain.lr_scale": 1e-30, "plain.warmup": 0}
    assert train.main(fine_tuned(sets, run, *theirs, "--stage", "plain", **still)) == 0
    said = capsys.readouterr().err
    assert "iresnet18 of insightface; takes RGB pixel_mean [127.5, 127.5, 127.5]" in said
    assert "187 tensors taken, 0 left" in said
    plain = checkpoint.latest(run, "plain")
    assert (
        extract.main(["--checkpoint", str(run), "--data", str(sets / "train"), "--output", str(tmp_path / "out")]) == 0
    )
    (written,) = (tmp_path / "out").rglob("features.npy")
    features = normalize(torch.from_numpy(np.load(written)).float())
    labels = torch.from_numpy(np.load(written.with_name("labels.npy")))
    means = torch.stack([features[labels == k].mean(0) for k in range(4)])
    rows = checkpoint.read_rows(plain, Partition(4), {"classifier.weight"})["classifier.weight"]
    torch.testing.assert_close(rows, means, rtol=1e-4, atol=1e-5)


def test_fine_tuning_trains_the_network_and_fills_the_memory(sets, theirs, tmp_path):
    run = tmp_path / "run"
    assert train.main(fine_tuned(sets, run, *theirs, **{"plain.epochs": 1.2, "plain.warmup": 0.2})) == 0
    weights = checkpoint.read_weights(checkpoint.latest(run, "memory"))
    begun = torch.load(theirs[1], weights_only=True)
    assert not torch.equal(weights["backbone.layer1.0.conv1.weight"], begun["layer1.0.conv1.weight"])
    assert torch.equal(weights["backbone.bn1.running_mean"], begun["bn1.running_mean"]), "frozen"
    assert not torch.equal(weights["neck.fc.weight"], begun["fc.weight"])
    assert train.main(fine_tuned(sets, run, **{"plain.epochs": 1.2, "plain.warmup": 0.2})) == 0, "without the file"


def test_what_fine_tuning_lacks_is_one_line(sets, theirs, tmp_path, capsys):
    answer = refused(capsys, fine_tuned(sets, tmp_path / "a"))
    assert 'plain_head.classifier_start "means" needs a network that was trained: give --init FILE' in answer
    answer = refused(capsys, fine_tuned(sets, tmp_path / "b", *theirs, **{"backbone.name": "iresnet50"}))
    assert "holds iresnet18 of insightface of width 8, the network here has name iresnet50" in answer


def test_a_laptops_recipe_runs(sets, tmp_path):
    small = {"ds.train_batch_size": 8, "image_size": 32, "backbone.width": 8, "plain.epochs": 0.8}
    settings = [word for knob, value in small.items() for word in ("--set", f"{knob}={value}")]
    words = ["--deepspeed_config", "laptop", "--data", str(sets / "train"), "--output", str(tmp_path / "run")]
    assert train.main([*words, *settings]) == 0
    assert checkpoint.latest(tmp_path / "run", "memory") is not None
