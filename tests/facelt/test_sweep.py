"""Both sweeps: curves of existing runs, and trainings that go on where they stopped; mistakes in one line."""

import json
from pathlib import Path

import pytest
from faces import write_faces
from runs import write_random_run
from tiny import TINY

from facelt import sweep
from facelt.run_folder import checkpoint

K = 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    write_faces(folder / "train", classes=K, images=6)
    write_faces(folder / "test", classes=K, images=4)
    write_faces(folder / "open", classes=3, images=7, called="stranger")
    write_random_run(folder / "run", K)
    short = {"epochs": 0.25, "decay_every": 1}
    block = {**TINY["facelt"], "plain": short, "meta": {**short, "images_per_class": 2}}
    (folder / "tiny.json").write_text(json.dumps({**TINY, "facelt": block}))
    return folder


@pytest.fixture(autouse=True)
def inside(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", str(Path(sweep.__file__).parents[1]))
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")


def opened(output, *more):
    sets = ["--train", "train", "--data", "test", "--open", "open", "--output", str(output)]
    return ["open", *sets, "--draws", "9", *more]


def trained(output, *more):
    sets = ["--train", "train", "--data", "test", "--deepspeed_config", "tiny.json", "--output", str(output)]
    return ["train", *sets, "--draws", "9", *more]


def test_runs_that_are_there(tmp_path, capsys):
    more = ["--run", "ours=run", "run/plain", "--thresholds", "0.3", "0"]
    assert sweep.main(opened(tmp_path / "out", *more)) == 0
    names = ["open-classes.json", "open-classes.png", "threshold.json", "threshold.png"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    found = json.loads((tmp_path / "out" / "threshold.json").read_text())
    assert list(dict.fromkeys(curve["of"] for curve in found["curves"])) == ["ours", "run/plain"]
    assert [point["at"] for point in found["curves"][0]["points"]] == ["0", "0.3"]
    found = json.loads((tmp_path / "out" / "open-classes.json").read_text())
    assert [point["at"] for point in found["curves"][0]["points"]] == ["1", "2", "3"]


def test_trainings_are_made_once_and_drawn_again(tmp_path, capfd):
    words = trained(tmp_path, "--values", "true", "false", "--set", "meta.freeze_backbone={value}", "--open", "open")
    assert sweep.main(words) == 0
    frozen = [checkpoint.read_state(checkpoint.find(tmp_path / "runs" / v)).config.meta for v in ("true", "false")]
    assert [knobs.freeze_backbone for knobs in frozen] == [True, False]
    found = json.loads((tmp_path / "influence.json").read_text())
    assert [point["at"] for point in found["curves"][0]["points"]] == ["true", "false"]
    assert next(curve["measure"] for curve in found["curves"]) == "f_measure"
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/*/step-*/*.safetensors")}
    (tmp_path / "influence.json").unlink()
    assert sweep.main(words) == 0
    assert json.loads((tmp_path / "influence.json").read_text()) == found
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/*/step-*/*.safetensors")} == before


def test_a_training_that_fails_ends_the_sweep(tmp_path, capfd):
    words = trained(tmp_path, "--values", "-1", "--set", "meta.epochs={value}", "--called", "epochs")
    line = refused(capfd, [*words[:-6], "--values=-1", *words[-4:]])
    assert "epochs -1: the training of" in line
    assert "ended with status 2" in line
    assert not (tmp_path / "influence.json").exists()


def refused(captured, words) -> str:
    captured.readouterr()
    with pytest.raises(SystemExit) as left:
        sweep.main(words)
    assert left.value.code == 2
    (line,) = [line for line in captured.readouterr().err.splitlines() if "facelt.sweep" in line and "error:" in line]
    return line


@pytest.mark.parametrize(
    "words, said",
    [
        (opened("out", "--run", "run", "--open-classes", "4"), "--open-classes 4: open has 3; give fewer"),
        (opened("out", "--run", "a=run", "a=run/plain"), "a name is there twice"),
        (opened("out", "--run", "train"), "no checkpoint there"),
        (opened("out", "--run", "run", "--threshold", "2"), "expected a softmax probability"),
        (opened("test", "--run", "run"), "exists already"),
        (opened("out", "--run", "run", "--few", "100"), "expected few below many"),
        (trained("out", "--values", "1", "2"), "nothing varies"),
        (trained("out", "--values", "1", "1", "--set", "meta.epochs={value}"), "expected different ones"),
        (trained("out", "--values", "..", "--set", "meta.epochs={value}"), "that can name a folder"),
    ],
)
def test_mistakes(folder, capsys, words, said):
    assert said in refused(capsys, words)
    assert not (folder / "out").exists()
