"""What is told to Weights & Biases, by a stand-in of its library and, where it is installed, by the library itself."""

import json
import subprocess
import sys
from importlib.util import find_spec
from types import ModuleType

import pytest
import torch
from faces import write_faces
from launching import ROOT, command, environment

from facelt.config import StageConfig
from facelt.errors import UserError
from facelt.training import wandb_log
from facelt.training.schedule import Schedule
from facelt.training.telemetry import Report, Telemetry


class StandIn(ModuleType):
    """The part of the library that is used."""

    def __init__(self, failure: Exception | None = None) -> None:
        super().__init__("wandb")
        self.failure, self.told, self.begun, self.finished = failure, [], {}, 0

    def init(self, **settings: str) -> "StandIn":
        if self.failure:
            raise self.failure
        self.begun = settings
        return self

    def log(self, figures: dict[str, float], step: int) -> None:
        self.told.append((step, figures))

    def finish(self) -> None:
        self.finished += 1


def test_reports_and_validation_are_told_and_a_failure_ends_nothing(tmp_path, monkeypatch, capsys):
    library = StandIn()
    monkeypatch.setitem(sys.modules, "wandb", library)
    telemetry = Telemetry(tmp_path, "plain", Schedule(StageConfig(epochs=9), 4, 4), 0, wandb=True)
    report = Report(0, {"loss": torch.tensor(1.5)}, torch.tensor([True]), 0.1)
    telemetry.log(report)
    telemetry.validated(0, {"lfw.accuracy": 0.5}, 1.0, None)
    monkeypatch.setattr(library, "log", None)
    telemetry.log(report)
    telemetry.close()
    name = tmp_path.name
    assert library.begun == {"project": "facelt", "group": name, "name": f"{name}-plain", "dir": str(tmp_path)}
    assert [step for step, _ in library.told] == [0, 0]
    assert (library.told[0][1]["loss"], library.told[0][1]["lr"]) == (1.5, 0.1)
    assert library.told[1][1] == {"validation/lfw.accuracy": 0.5}
    assert library.finished == 1
    assert capsys.readouterr().err.count("the log of Weights & Biases cannot be written") == 1


def test_without_the_library_or_an_account_it_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"pip install 'facelt\[wandb\]'"):
        wandb_log.need_library()
    monkeypatch.setitem(sys.modules, "wandb", StandIn(RuntimeError("no API key\nconfigured")))
    with pytest.raises(UserError, match="no API key configured; run wandb login, or set WANDB_MODE=offline"):
        wandb_log.WandbLog(tmp_path, "plain")


@pytest.mark.skipif(find_spec("wandb") is None, reason="the library of Weights & Biases is not installed")
def test_the_library_itself_offline_gets_every_report_of_both_stages(tmp_path, tiny_recipe):
    (tmp_path / "ds.json").write_text(json.dumps(tiny_recipe))
    arguments = command(tmp_path / "ds.json", write_faces(tmp_path / "data"), tmp_path / "run")
    full = [sys.executable, *arguments, "--set", "telemetry.wandb=true"]
    offline = environment() | {"WANDB_MODE": "offline"}
    done = subprocess.run(full, cwd=ROOT, env=offline, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    files = sorted(tmp_path.glob("run/wandb/offline-run-*/run-*.wandb"))
    told = [file.read_bytes() for file in files]  # records of text as it is, uncompressed
    for stage in ("plain", "meta"):
        mine = [content for content in told if f"run-{stage}".encode() in content]
        assert len(mine) == 1, (stage, files)
        norms = [line["gradient_norm"] for line in lines if line["stage"] == stage]
        assert norms
        assert all(repr(norm).encode() in mine[0] for norm in norms), stage
