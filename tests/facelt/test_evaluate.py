"""The whole command: against scores made by hand from the checkpoint, at any number of ranks; mistakes in one line."""

import json
import shutil
from io import BytesIO

import numpy as np
import pytest
import torch
from faces import write_faces
from launching import launch
from PIL import Image
from runs import write_random_run
from safetensors.torch import save_file
from torch.nn.functional import normalize

from facelt import evaluate, extract
from facelt.network.embedder import Embedder
from facelt.open_world.report.schema import Report
from facelt.parallel.partition import Partition
from facelt.run_folder import checkpoint
from recordio_tools.dataset import DatasetWriter, RecordDataset

K, EACH = 5, 6
# With attention of random weights, features are so long that the softmax of ncm is 1 but for rounding.
NO_ATTENTION = {"attention": False}


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Training, test and open images; the open ones are of other people with the same labels."""
    folder = tmp_path_factory.mktemp("evaluate")
    write_faces(folder / "train", classes=K, images=EACH)
    write_faces(folder / "test", classes=K, images=4)
    write_faces(folder / "open", classes=3, images=7, called="stranger")
    return folder


@pytest.fixture(scope="module", params=["linear", "cosine"])
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def run(tmp_path_factory, kind):
    folder = tmp_path_factory.mktemp("evaluate") / f"run-{kind}"
    write_random_run(folder, K, head=NO_ATTENTION, plain_head={"classifier": kind})
    return folder


def arguments(run, sets, output, *more: str) -> list[str]:
    named = {"--checkpoint": run, "--train": sets / "train", "--data": sets / "test", "--output": output}
    return [*(str(word) for pair in named.items() for word in pair), *more]


def embedded(run, stage: str, data):
    """Direct feature, e, and the class rows, from the checkpoint's tensors."""
    folder = checkpoint.latest(run, stage)
    state = checkpoint.read_state(folder)
    embedder = Embedder(state.config, stage == "meta", stage == "memory").eval()
    embedder.load_state_dict(checkpoint.read_weights(folder))
    with torch.no_grad():
        v, e, *_ = embedder(pictures(data))
    return v, e, checkpoint.read_rows(folder, Partition(K)), state.config, RecordDataset(data).labels


def pictures(data) -> torch.Tensor:
    """All images of a data folder, as the network takes them."""
    dataset = RecordDataset(data)
    decoded = [np.asarray(Image.open(BytesIO(dataset.jpeg(i).tobytes()))) for i in range(len(dataset))]
    return (torch.from_numpy(np.stack(decoded)).permute(0, 3, 1, 2).float() - 127.5) / 127.5


def logits_by_hand(run, stage: str, data) -> tuple[torch.Tensor, torch.Tensor]:
    """N x K logits of the classifier by the equations, and γ."""
    v, e, rows, config, _ = embedded(run, stage, data)
    if stage == "plain" and config.plain_head.classifier == "linear":
        return v @ rows["classifier.weight"].T + rows["classifier.bias"], v.new_zeros(len(v))
    weight = normalize(rows["classifier.weight"])
    if stage == "plain":
        return config.plain_head.scale * normalize(v) @ weight.T, v.new_zeros(len(v))
    o = torch.softmax(v @ rows["memory.hallucinator_weight"].T + rows["memory.hallucinator_bias"], 1)
    gamma = torch.cdist(v, rows["memory.centroids"], compute_mode="donot_use_mm_for_euclid_dist").min(1).values
    meta = (v + e * (o @ rows["memory.centroids"])) * (10 / gamma)[:, None]
    return 16 * (meta / (1 + meta.norm(dim=1, keepdim=True))) @ weight.T, gamma


def cosines_by_hand(run, stage: str, train, data) -> torch.Tensor:
    """N x K cosines of direct features to the means of unit direct features."""
    v, _, _, _, labels = embedded(run, stage, train)
    centroids = torch.stack([normalize(v[labels == k]).mean(0) for k in range(K)])
    return normalize(embedded(run, stage, data)[0]) @ normalize(centroids).T


@pytest.mark.parametrize("stage", ["plain", "meta"])
def test_both_readings_of_both_stages_by_hand(run, sets, tmp_path, capsys, stage):
    out = tmp_path / "report"
    more = ["--open", str(sets / "open"), "--thresholds", "0.3", "0.1", "--many", "7", "--few", "6", "--draws", "20"]
    assert evaluate.main(arguments(run / stage, sets, out, *more, "--batch", "7")) == 0
    said = capsys.readouterr().out
    assert said.splitlines()[-1] == f"wrote {out}: report.html, report.json, table.md, per_class.csv"
    assert (out / "table.md").read_text().strip() in said
    assert sorted(path.name for path in out.iterdir()) == ["per_class.csv", "report.html", "report.json", "table.md"]
    report = Report.model_validate_json((out / "report.json").read_text())
    labels = torch.from_numpy(RecordDataset(sets / "test").labels)
    paths = [sets / "test", sets / "open"]
    classifier = [logits_by_hand(run, stage, path)[0] for path in paths]
    memory = [16 * cosines_by_hand(run, stage, sets / "train", path) for path in paths]
    assert [reading.name for reading in report.readings] == ["classifier", "memory"]
    for reading, (known, opened) in zip(report.readings, (classifier, memory), strict=True):
        right = known.argmax(1) == labels
        assert reading.closed.all.value == pytest.approx(right.float().mean().item())
        assert reading.closed.few.value == pytest.approx(right.float().mean().item())
        assert reading.closed.many.value is None
        assert [at.threshold for at in reading.open] == [0.1, 0.3]
        for at in reading.open:
            accepted = torch.softmax(known, 1).amax(1) >= at.threshold
            taken = (torch.softmax(opened, 1).amax(1) >= at.threshold).sum().item()
            hits = (right & accepted).sum().item()
            assert at.f_measure.value == pytest.approx(2 * hits / (2 * hits + len(labels) - hits + taken))
            assert at.accepted_strangers == pytest.approx(taken / 21)
    signals = {one.signal: one for one in report.detection}
    pairs = {
        "max softmax by classifier": [torch.softmax(x, 1).amax(1) for x in classifier],
        "max softmax by memory": [torch.softmax(x, 1).amax(1) for x in memory],
        "cosine to the nearest centroid": [x.amax(1) for x in memory],
    }
    if stage == "meta":
        pairs["reachability γ"] = [-logits_by_hand(run, stage, path)[1] for path in paths]
    assert signals.keys() == pairs.keys() | ({"‖v_meta‖"} if stage == "meta" else set())
    for name, (known, opened) in pairs.items():
        want = (known[:, None] > opened[None]).float().mean().item()
        assert signals[name].auroc.value == pytest.approx(want, abs=0.02), name


def test_what_is_not_asked_for_is_not_there(run, sets, tmp_path):
    assert evaluate.main(arguments(run / "plain", sets, tmp_path / "r", "--read", "classifier", "--draws", "5")) == 0
    report = json.loads((tmp_path / "r" / "report.json").read_text())
    assert [reading["name"] for reading in report["readings"]] == ["classifier"]
    assert [one["signal"] for one in report["detection"]] == ["max softmax by classifier"]
    assert report["readings"][0]["open"][0]["f_measure"]["value"] is None
    assert (report["open_images"], report["source"]["open"]) == (0, None)
    assert "NaN" not in (tmp_path / "r" / "report.json").read_text()


@pytest.mark.parametrize("ranks, stage", [(2, "meta"), (3, "plain")])
def test_ranks_are_one(sets, tmp_path, ranks, stage):
    write_random_run(tmp_path / "run", K, head=NO_ATTENTION)
    # By plda people of a random network are all alike, and signals are rounding.
    names = [name for name in evaluate.READINGS if name != "plda" and (name != "tau" or stage == "plain")]
    more = ["--open", str(sets / "open"), "--draws", "20", "--batch", "4", "--read", *names, "--odin"]
    run = tmp_path / "run" / stage
    assert evaluate.main(arguments(run, sets, tmp_path / "one", *more)) == 0
    done = launch("--module", "facelt.evaluate", *arguments(run, sets, tmp_path / "more", *more), ranks=ranks)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("wrote ") == 1
    one, several = (json.loads((tmp_path / name / "report.json").read_text()) for name in ("one", "more"))
    assert flat(several) == pytest.approx(flat(one), abs=1e-6)


def test_every_reading_is_reported_and_a_report_can_be_compared_with(linear, sets, tmp_path, capsys):
    more = ["--open", str(sets / "open"), "--draws", "5", "--read", *evaluate.READINGS, "--odin", "--tau", "0.5"]
    assert evaluate.main(arguments(linear / "plain", sets, tmp_path / "a", *more)) == 0
    report = Report.model_validate_json((tmp_path / "a" / "report.json").read_text())
    assert tuple(reading.name for reading in report.readings) == evaluate.READINGS
    signals = [one.signal for one in report.detection]
    assert signals == [
        *(f"max softmax by {name}" for name in evaluate.READINGS[:-1]),
        *("OpenMax", "ODIN", "cosine to the nearest centroid", "likelihood ratio by plda"),
    ]
    source = report.source
    assert (source.tau, source.temperature, source.openmax_tail, source.openmax_alpha) == (0.5, 16, 20, 10)
    assert (source.odin_temperature, source.odin_epsilon) == (1000, 0.0014)
    ncm = next(reading for reading in report.readings if reading.name == "ncm")
    v, _, _, _, labels = embedded(linear, "plain", sets / "train")
    means = torch.stack([v[labels == k].mean(0) for k in range(K)])
    tested, _, _, _, truth = embedded(linear, "plain", sets / "test")
    right = torch.cdist(tested, means).argmin(1) == torch.from_numpy(truth)
    assert ncm.closed.all.value == pytest.approx(right.float().mean().item())
    again = [*more[: more.index("--read")], "--read", "memory", "--compare", str(tmp_path / "a")]
    assert evaluate.main(arguments(linear / "plain", sets, tmp_path / "b", *again)) == 0
    comparison = Report.model_validate_json((tmp_path / "b" / "report.json").read_text()).comparison
    assert [(gain.name, gain.by_class.value, gain.strangers) for gain in comparison.gains] == [("memory", 0, 0)]
    other = arguments(linear / "plain", sets, tmp_path / "c", "--compare", str(tmp_path / "a"))
    assert "of another test, its open images differ" in refused(capsys, other)
    assert "no readable report.json in it" in refused(capsys, [*other[:-1], str(sets)])


def test_odin_by_hand_in_stage_meta(linear, sets, tmp_path):
    """The gradient runs through memory, reach and meta-embedding."""
    more = ["--open", str(sets / "open"), "--draws", "5", "--read", "classifier", "--odin", "--odin-epsilon", "0.02"]
    assert evaluate.main(arguments(linear / "meta", sets, tmp_path / "a", *more, "--odin-temperature", "10")) == 0
    report = Report.model_validate_json((tmp_path / "a" / "report.json").read_text())
    got = next(one for one in report.detection if one.signal == "ODIN").auroc.value
    known, opened = (odin_by_hand(linear, sets / name) for name in ("test", "open"))
    want = (known[:, None] > opened[None]).float().mean().item()
    assert got == pytest.approx(want, abs=0.02)


def odin_by_hand(run, data) -> torch.Tensor:
    folder = checkpoint.latest(run, "meta")
    config, rows = checkpoint.read_state(folder).config, checkpoint.read_rows(folder, Partition(K))
    embedder = Embedder(config, True).eval()
    embedder.load_state_dict(checkpoint.read_weights(folder))

    def softmax(images: torch.Tensor) -> torch.Tensor:
        v, e, *_ = embedder(images)
        o = torch.softmax(v @ rows["memory.hallucinator_weight"].T + rows["memory.hallucinator_bias"], 1)
        gamma = (v[:, None] - rows["memory.centroids"]).norm(dim=2).amin(1)
        meta = (v + e * (o @ rows["memory.centroids"])) * (10 / gamma)[:, None]
        logits = 16 * (meta / (1 + meta.norm(dim=1, keepdim=True))) @ normalize(rows["classifier.weight"]).T
        return torch.softmax(logits / 10, 1).amax(1)

    x = pictures(data).requires_grad_()
    (slope,) = torch.autograd.grad(softmax(x).log().sum(), x)
    with torch.no_grad():
        return softmax(x + 0.02 * 255 / 127.5 * slope.sign())


@pytest.fixture(scope="module")
def features(linear, sets):
    """Feature sets of all three, beside a run."""
    for name in ("train", "test", "open"):
        words = ["--checkpoint", str(linear / "plain"), "--data", str(sets / name)]
        assert extract.main([*words, "--output", str(sets / f"{name}-features")]) == 0
    return sets


def feature_arguments(sets, output, *more: str) -> list[str]:
    names = {"--train-features": "train", "--features": "test", "--open-features": "open"}
    words = [word for option, name in names.items() for word in (option, str(sets / f"{name}-features"))]
    return [*words, "--output", str(output), *more]


def test_features_are_read_as_their_run_is(linear, features, tmp_path):
    same = ["--draws", "5", "--read", "memory", "ncm", "--temperature", "9", "--batch", "7"]
    assert evaluate.main(feature_arguments(features, tmp_path / "features", *same)) == 0
    run = arguments(linear / "plain", features, tmp_path / "run", "--open", str(features / "open"), *same)
    assert evaluate.main(run) == 0
    from_features, from_run = (
        json.loads((tmp_path / name / "report.json").read_text()) for name in ("features", "run")
    )
    assert from_features.pop("source")["checkpoint"] is None
    assert from_run.pop("source")["temperature"] == 9
    assert flat(from_features) == pytest.approx(flat(from_run), abs=1e-6)


def test_features_at_three_ranks(features, tmp_path):
    more = ["--draws", "5", "--read", "memory", "ncm", "--batch", "5"]
    assert evaluate.main(feature_arguments(features, tmp_path / "one", *more)) == 0
    done = launch("--module", "facelt.evaluate", *feature_arguments(features, tmp_path / "three", *more), ranks=3)
    assert done.returncode == 0, done.stderr
    one, three = (json.loads((tmp_path / name / "report.json").read_text()) for name in ("one", "three"))
    assert flat(three) == pytest.approx(flat(one), abs=1e-6)


def test_features_that_do_not_fit_are_refused(features, tmp_path, capsys):
    out = tmp_path / "out"
    good = feature_arguments(features, out)
    for more, said in (
        (["--read", "classifier"], "--read classifier needs a network"),
        (["--odin"], "--odin needs a network"),
        (["--tau", "2"], "--tau 2 does nothing without --read tau or logit_adjusted"),
        (["--data", "x"], "--checkpoint is missing"),
        (["--checkpoint", "x"], "--checkpoint takes images"),
    ):
        assert said in refused(capsys, [*good, *more])
    assert "--features is missing" in refused(capsys, good[:2] + good[4:])
    assert "is --train-features too" in refused(capsys, [*good[:5], good[1], *good[6:]])
    wider = shutil.copytree(features / "test-features", tmp_path / "wider")
    np.save(wider / "features.npy", np.ones((20, 17), np.float32))
    assert "features of 17 numbers, those of --train-features" in refused(capsys, [*good[:3], str(wider), *good[4:]])
    np.save(wider / "features.npy", np.full((20, 16), np.nan, np.float32))
    assert "is not finite" in refused(capsys, [*good[:3], str(wider), *good[4:]])
    np.save(wider / "labels.npy", np.full(20, K))
    (wider / "names.txt").unlink()
    assert f"label {K} has no image in --train-features" in refused(capsys, [*good[:3], str(wider), *good[4:]])
    assert not out.exists()


def without_names(folder, into, keep=None, listed=None):
    """A feature set without names and, where given, of some classes, relabelled as a list of its own would be."""
    shutil.copytree(folder, into)
    (into / "names.txt").unlink()
    labels = np.load(into / "labels.npy")
    if keep is not None:
        rows = np.isin(labels, keep)
        np.save(into / "features.npy", np.load(into / "features.npy")[rows])
        np.save(into / "labels.npy", np.searchsorted(keep, labels[rows]))
    if listed is not None:
        np.save(into / "list_labels.npy", np.array(listed))
    return into


def test_a_test_list_with_a_gap_is_refused(features, tmp_path, capsys):
    """Labels 0 and 2 of five, made contiguous by a list of its own: label 1 is another class than in training."""
    train = without_names(features / "train-features", tmp_path / "train", listed=range(K))
    test = without_names(features / "test-features", tmp_path / "test", [0, 2], [0, 2])
    words = ["--train-features", str(train), "--features", str(test), "--output", str(tmp_path / "out")]
    line = refused(capsys, words)
    assert "test: label 1 is label 2 of the list, in --train-features" in line
    assert "it is label 1 of the list" in line
    assert "--labels-of TRAIN makes it" in line
    known = without_names(features / "open-features", tmp_path / "open", [0, 1], [-1, 3])
    words[3] = str(without_names(features / "test-features", tmp_path / "whole", listed=range(K)))
    assert "label 1 is label 3 of the list, whom" in refused(capsys, [*words, "--open-features", str(known)])
    assert not (tmp_path / "out").exists()
    np.save(known / "list_labels.npy", np.array([-1]))
    assert "list_labels.npy is int64 of shape (1,)" in refused(capsys, [*words, "--open-features", str(known)])
    assert evaluate.main([*words, "--draws", "5"]) == 0


def test_the_training_set_as_test_set_is_a_warning(features, tmp_path, capsys):
    copied = shutil.copytree(features / "train-features", tmp_path / "copied")
    words = ["--train-features", str(features / "train-features"), "--features", str(copied), "--draws", "5"]
    assert evaluate.main([*words, "--output", str(tmp_path / "out")]) == 0
    assert f"warning: --features {copied}: is --train-features too" in capsys.readouterr().err
    assert "is --train-features too; give people whom" in refused(
        capsys, [*words, "--open-features", str(copied), "--output", "x"]
    )


def test_what_a_run_lacks_is_refused(linear, sets, tmp_path, capsys):
    out = tmp_path / "out"
    assert "classifier is cosine" in refused(capsys, arguments(linear / "meta", sets, out, "--read", "tau"))
    for more, said in (
        (["--odin-epsilon", "0.1"], "--odin-epsilon 0.1 does nothing without --odin"),
        (["--openmax-tail", "9"], "--openmax-tail 9 does nothing without --read openmax"),
        (["--read", "classifier", "--temperature", "4"], "--temperature 4 does nothing without --read memory"),
        (["--temperature", "0"], "expected a number above 0"),
        (["--odin", "--odin-epsilon", "-1"], "expected a number from 0"),
    ):
        assert said in refused(capsys, arguments(linear, sets, out, *more))
    assert "--train is missing" in refused(capsys, ["--checkpoint", str(linear), "--data", "x", "--output", str(out)])
    assert "--train-features is missing" in refused(capsys, ["--output", str(out)])


def test_strangers_with_the_names_of_known_people_are_refused(linear, sets, tmp_path, capsys):
    known = write_faces(tmp_path / "known", classes=2)
    words = arguments(linear, sets, tmp_path / "out", "--open", str(known))
    assert "label 0 is person-0, whom --train" in refused(capsys, words)


def flat(value: object, at: str = "") -> dict[str, object]:
    """Every leaf of a report by its path."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if items is None:
        return {at: value}
    return {path: leaf for key, item in items for path, leaf in flat(item, f"{at}.{key}").items()}


def refused(capsys, words: list[str]) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        evaluate.main(words)
    assert left.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert len(lines) == 1
    return lines[0]


@pytest.fixture(scope="module")
def linear(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluate") / "run"
    write_random_run(folder, K, head=NO_ATTENTION)
    return folder


def test_sets_that_do_not_fit_the_run_are_refused(linear, sets, tmp_path, capsys):
    out = tmp_path / "out"
    other = write_faces(tmp_path / "other", classes=K + 1)
    wrong_train = arguments(linear, sets, out)
    wrong_train[wrong_train.index("--train") + 1] = str(other)
    assert f"has 6 classes, the run was trained on {K}" in refused(capsys, wrong_train)
    wrong_test = arguments(linear, sets, out)
    wrong_test[wrong_test.index("--data") + 1] = str(other)
    assert f"label {K} has no image in --train" in refused(capsys, wrong_test)
    renamed = shutil.copytree(sets / "test", tmp_path / "renamed")
    (renamed / "names.txt").write_text("".join(f"person-{K - 1 - k}\n" for k in range(K)))
    wrong_test[wrong_test.index("--data") + 1] = str(renamed)
    assert "label 0 is person-4, in --train" in refused(capsys, wrong_test)
    assert "is --data too" in refused(capsys, arguments(linear, sets, out, "--open", str(sets / "test")))
    assert "no such folder" in refused(capsys, arguments(linear, sets, out, "--open", str(tmp_path / "none")))
    assert not out.exists()


def with_an_empty_class(sets, tmp_path):
    """The training set without the images of the last class, which it still counts as one of its own."""
    whole = RecordDataset(sets / "train")
    with DatasetWriter(tmp_path / "thin", K, (32, 32), whole.names) as writer:
        for i in np.flatnonzero(whole.labels < K - 1):
            writer.add(whole.jpeg(i).tobytes(), int(whole.labels[i]))
    return tmp_path / "thin"


def test_a_class_without_training_images_has_no_centroid_and_no_count(linear, sets, tmp_path, capsys):
    words = arguments(linear, sets, tmp_path / "out", "--draws", "5")
    words[words.index("--train") + 1] = str(with_an_empty_class(sets, tmp_path))
    assert f"label {K - 1} has no image in --train" in refused(capsys, words)
    words[words.index("--data") + 1] = words[words.index("--train") + 1]  # a test set without that class
    assert evaluate.main([*words, "--read", "classifier"]) == 0
    words[words.index("--output") + 1] = str(tmp_path / "memory")
    assert f"class {K - 1} has no image, so the memory has no centroid" in refused(capsys, words)
    done = launch("--module", "facelt.evaluate", *words)
    assert done.returncode == 2, done.stderr
    assert sum("facelt.evaluate: error:" in line for line in done.stderr.splitlines()) == 1
    assert not (tmp_path / "memory").exists()


def test_numbers_that_are_none(linear, sets, tmp_path, capsys):
    for words in (
        ["--threshold", "1.1"],
        ["--thresholds", "0.1", "-0.1"],
        ["--threshold", "nan"],
        ["--threshold", "x"],
    ):
        assert "expected a softmax probability from 0 to 1" in refused(
            capsys, arguments(linear, sets, tmp_path / "o", *words)
        )
    assert "expected few below many" in refused(capsys, arguments(linear, sets, tmp_path / "o", "--many", "5"))
    assert "whole number from 1" in refused(capsys, arguments(linear, sets, tmp_path / "o", "--draws", "0"))
    both = ["--threshold", "0.1", "--thresholds", "0.2"]
    assert "not allowed with" in refused(capsys, arguments(linear, sets, tmp_path / "o", *both))


def test_an_existing_report_and_a_missing_run_are_refused(linear, sets, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    assert "exists already" in refused(capsys, arguments(linear, sets, tmp_path / "out"))
    assert "no checkpoint there" in refused(capsys, arguments(tmp_path, sets, tmp_path / "new"))
    assert evaluate.main(arguments(linear, sets, tmp_path / "out", "--force", "--draws", "5")) == 0


def test_an_image_that_does_not_decode_leaves_nothing_behind(linear, sets, tmp_path, capsys):
    broken = shutil.copytree(sets / "open", tmp_path / "broken")
    content = (broken / "train.rec").read_bytes()
    at = content.rindex(b"\xff\xd8\xff")
    (broken / "train.rec").write_bytes(content[:at] + bytes(40) + content[at + 40 :])
    assert "does not decode" in refused(capsys, arguments(linear, sets, tmp_path / "out", "--open", str(broken)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken"]


def test_a_run_that_has_diverged_is_refused(linear, sets, tmp_path, capsys):
    run = shutil.copytree(linear, tmp_path / "run")
    folder = checkpoint.find(run)
    shard = next(folder.glob("classes-*"))
    rows = checkpoint.read_rows(folder, Partition(K))
    save_file({name: torch.full_like(rows[name], torch.nan) for name in rows}, shard)
    state = json.loads((folder / "state.json").read_text())
    state = {key: value for key, value in state.items() if key not in ("files", "seal")}  # as before they were hashed
    (folder / "state.json").write_text(json.dumps(state))
    assert "is not finite: the run has diverged" in refused(capsys, arguments(run, sets, tmp_path / "out"))


def test_help_has_an_example(capsys):
    with pytest.raises(SystemExit) as left:
        evaluate.main(["--help"])
    assert left.value.code == 0
    assert "python -m facelt.evaluate --checkpoint RUN" in capsys.readouterr().out
