"""How far a run is, from its files alone."""

import json
import os
import socket
from pathlib import Path

import pytest
import torch

from facelt import status
from facelt.config import FaceltConfig
from facelt.images.fingerprint import Fingerprint
from facelt.run_folder import checkpoint
from facelt.run_folder.checkpoint import CheckpointState

DATA = Fingerprint(images=80, classes=5, labels="", records="", sample="")
CONFIG = FaceltConfig.model_validate({"plain": {"epochs": 10}, "meta": {"epochs": 5}})


def save(run: Path, stage: str, step: int, finished: bool = False) -> None:
    state = CheckpointState(
        stage=stage, step=step, finished=finished, global_batch=8, config=CONFIG, num_classes=5, starts=[0], data=DATA
    )
    checkpoint.save(run, state, weights={"w": torch.ones(1)}, moments={}, rows={"r": torch.ones(5, 1)})


def write_metrics(run: Path, stage: str, step: int) -> None:
    line = {"stage": stage, "step": step, "lr": 0.1, "rate": 40.0, "cross_entropy": 2.5, "skipped_steps": 3}
    (run / "metrics.jsonl").write_text(json.dumps({**line, "step": 1}) + "\n" + json.dumps(line) + "\n" + '{"sta')


def test_a_running_run(tmp_path, capsys):
    save(tmp_path, "plain", 20)
    write_metrics(tmp_path, "plain", 39)
    holder = {"host": socket.gethostname(), "pid": os.getpid(), "started": "2026-01-02 03:04:05"}
    (tmp_path / "lock").write_text(json.dumps(holder))
    (tmp_path / "quarantine.jsonl").write_text("{}\n{}\n")
    (tmp_path / "plain" / "step-00000030.damaged").mkdir()
    assert status.main([str(tmp_path), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["state"], said["stage"], said["step"], said["steps"]) == ("running", "plain", 40, 100)
    assert said["seconds_left"] == 60 * 8 / 40.0
    assert (said["skipped_steps"], said["quarantined"], said["damaged"]) == (3, 2, 1)
    assert said["checkpoint"].endswith("plain/step-00000020")
    assert 0 <= said["checkpoint_age"] < 60
    assert status.main([str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert f"running (process {os.getpid()} on {socket.gethostname()}" in text
    assert "40 of 100" in text
    assert "0:00:12 (this stage)" in text


@pytest.mark.parametrize(
    "stage, finished, holder, state",
    [
        ("meta", True, False, "finished"),
        ("plain", True, False, "stopped"),
        ("meta", False, False, "stopped"),
        ("meta", False, True, "died"),
    ],
)
def test_a_run_that_does_not_run(tmp_path, stage, finished, holder, state):
    save(tmp_path, stage, 20, finished)
    if holder:
        gone = {"host": socket.gethostname(), "pid": 2**22 + 1, "started": "x"}  # above Linux's largest
        (tmp_path / "lock").write_text(json.dumps(gone))
    found = status.read_status(tmp_path)
    assert (found.state, found.step, found.images_per_second) == (state, 20, None)


def test_before_the_first_checkpoint_and_with_a_damaged_one(tmp_path):
    write_metrics(tmp_path, "plain", 4)
    found = status.read_status(tmp_path)
    assert (found.step, found.steps, found.checkpoint) == (5, None, None)
    (tmp_path / "plain" / "step-00000002").mkdir(parents=True)
    assert status.read_status(tmp_path).steps is None


def test_the_best_validation_and_a_line_of_it_that_says_nothing_of_training(tmp_path, capsys):
    config = FaceltConfig.model_validate({**CONFIG.model_dump(), "validation": {"packs": "lfw.bin"}})
    for step, value in ((10, 0.875), (20, 0.5)):
        state = CheckpointState(
            stage="plain", step=step, finished=False, global_batch=8, config=config, num_classes=5, starts=[0],
            data=DATA, figures={"lfw.accuracy": value},
        )  # fmt: skip
        checkpoint.save(tmp_path, state, weights={"w": torch.ones(1)}, moments={}, rows={"r": torch.ones(5, 1)})
    write_metrics(tmp_path, "plain", 39)
    measured = {"stage": "plain", "step": 39, "validation": {"lfw.accuracy": 0.5}, "seconds": 1.0}
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text().removesuffix('{"sta') + json.dumps(measured) + "\n")
    found = status.read_status(tmp_path)
    assert (found.best_step, found.best_figure, found.best_value) == (10, "lfw.accuracy", 0.875)
    assert found.best == str(tmp_path / "plain" / "step-00000010")
    assert (found.loss, found.images_per_second, found.step) == (2.5, 40.0, 40)
    assert status.main([str(tmp_path)]) == 0
    assert "lfw.accuracy 87.50 % at step 10" in capsys.readouterr().out


def test_no_run_is_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as left:
        status.main([str(tmp_path)])
    assert left.value.code == 2
    assert "no run there" in capsys.readouterr().err


def test_watching_ends_with_ctrl_c(tmp_path, monkeypatch, capsys):
    save(tmp_path, "plain", 20)

    def interrupt(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 2:
            raise KeyboardInterrupt

    naps: list[float] = []
    monkeypatch.setattr(status.time, "sleep", interrupt)
    assert status.main([str(tmp_path), "--watch", "3"]) == 0
    assert naps == [3, 3]
    assert capsys.readouterr().out.count("20 of 100") == 2
