"""What is logged, by hand; a loss that is not finite; lines of steps done again."""

import json
from pathlib import Path

import pytest
import torch
from ranks import run_ranks

from facelt.config import StageConfig
from facelt.errors import UserError
from facelt.parallel import group
from facelt.training.schedule import Schedule
from facelt.training.telemetry import Report, Telemetry


def log_one(run: str) -> None:
    """Each of two ranks gives its share: 1 and 2 of the loss, one of two and two of two images right."""
    rank = group.rank()
    telemetry = Telemetry(Path(run), "plain", Schedule(StageConfig(epochs=9), images=4, global_batch=4), start_step=4)
    telemetry.advance()
    parts = {"cross_entropy": torch.tensor(1.0 + rank)}
    telemetry.log(Report(4, parts, torch.tensor([True, rank == 1]), lr=0.5))
    telemetry.close()


def test_shares_are_summed_and_rank_0_alone_writes(tmp_path):
    run_ranks(2, log_one, str(tmp_path))
    (line,) = [json.loads(text) for text in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert (line["stage"], line["step"], line["cross_entropy"], line["accuracy"]) == ("plain", 4, 3.0, 0.75)
    assert line["lr"] == 0.5
    assert line["rate"] > 0


def test_a_warning_is_said_once_when_it_lasts(tmp_path, capsys):
    telemetry = Telemetry(tmp_path, "meta", Schedule(StageConfig(epochs=20), 4, 4), 0)
    warnings = [{"stale": "it is stale"}] * 2 + [{}] + [{"stale": "it is stale"}] * 6
    for step, now in enumerate(warnings):
        parts = {"loss": torch.tensor(1.0)}
        telemetry.log(Report(step, parts, torch.tensor([True]), 0.1, {"selector": 0.5}, now))
    telemetry.close()
    said = [line for line in capsys.readouterr().err.replace("\r", "\n").splitlines() if "stale" in line]
    assert [line[line.index("stage") :].strip() for line in said] == ["stage meta, step 5: it is stale"]
    lines = [json.loads(text) for text in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["selector"] for line in lines] == [0.5] * 9


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_null_in_the_lines(tmp_path, loss):
    telemetry = Telemetry(tmp_path, "meta", Schedule(StageConfig(epochs=9), 4, 4), 0)
    telemetry.log(Report(3, {"cross_entropy": torch.tensor(loss)}, torch.tensor([True]), 0.1))
    telemetry.close()
    (line,) = [json.loads(text) for text in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert (line["cross_entropy"], line["accuracy"]) == (None, 1)


def test_lines_of_steps_that_are_done_again_and_a_torn_one_are_dropped(tmp_path):
    lines = [{"stage": "plain", "step": step} for step in range(5)] + [
        {"stage": "meta", "step": step} for step in (0, 1)
    ]
    torn = '{"stage": "meta", "st'
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + torn)
    Telemetry(tmp_path, "meta", Schedule(StageConfig(epochs=9), 4, 4), start_step=1).close()
    kept = [json.loads(text) for text in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert kept == lines[:-1]


@pytest.mark.parametrize("content", [b"12\n{}\n", b"\xff\xfe\n{}\n", None])
def test_a_metrics_file_of_something_else_is_refused_in_one_line_and_left(tmp_path, content):
    path = tmp_path / "metrics.jsonl"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"metrics.jsonl: .* away$") as caught:
        Telemetry(tmp_path, "meta", Schedule(StageConfig(epochs=9), 4, 4), 0)
    assert "\n" not in str(caught.value)
    assert path.is_dir() if content is None else path.read_bytes() == content


def report(step: int) -> Report:
    return Report(step, {"loss": torch.tensor(1.0)}, torch.tensor([True]), 0.1)


class FullDisk:
    """A file that takes a part of a line once, and TensorBoard's writer that fails."""

    def __init__(self, lines) -> None:
        self.lines, self.full = lines, True

    def write(self, content: bytes) -> int:
        return self.lines.write(content[: 5 if self.full else None])

    def add_scalar(self, *_: object) -> None:
        raise OSError(28, "No space left on device")

    def __getattr__(self, name: str):
        return getattr(self.lines, name)


def test_what_cannot_be_written_is_one_warning_and_never_ends_a_run(tmp_path, capsys):
    telemetry = Telemetry(tmp_path, "plain", Schedule(StageConfig(epochs=9), 4, 4), 0)
    telemetry.log(report(0))
    telemetry.lines = telemetry.writer = FullDisk(telemetry.lines)
    for step in (1, 2):
        telemetry.log(report(step))
    telemetry.lines.full = False
    telemetry.log(report(3))
    telemetry.close()
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert steps == [0, 3], "no line is torn"
    said = capsys.readouterr().err
    assert said.count("metrics.jsonl cannot be written") == said.count("TensorBoard's file cannot be written") == 1


def test_where_tensorboard_cannot_begin_the_lines_go_on(tmp_path, capsys):
    (tmp_path / "tensorboard").write_text("no folder")
    telemetry = Telemetry(tmp_path, "plain", Schedule(StageConfig(epochs=9), 4, 4), 0)
    telemetry.log(report(0))
    telemetry.close()
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1
    assert capsys.readouterr().err.count("TensorBoard's file cannot be written") == 1


def test_a_torn_event_file_of_tensorboard_does_not_matter(tmp_path):
    for start in (0, 1):
        telemetry = Telemetry(tmp_path, "plain", Schedule(StageConfig(epochs=9), 4, 4), start)
        telemetry.log(report(start))
        telemetry.close()
        for path in (tmp_path / "tensorboard" / "plain").iterdir():
            path.write_bytes(path.read_bytes()[:-3])
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2


def test_validation_has_a_line_of_its_own_and_takes_nothing_from_the_rate(tmp_path, capsys):
    telemetry = Telemetry(tmp_path, "plain", Schedule(StageConfig(epochs=3), 8, 4), 0)
    assert telemetry.bar.desc.startswith("plain: step 0/6, epoch 0.0/3")
    telemetry.advance()
    since = telemetry.since
    telemetry.validated(0, {"lfw.accuracy": 0.875, "lfw.tar_1e-3": 0.5}, 100.0, "lfw.accuracy")
    assert telemetry.since == since + 100
    telemetry.log(report(0))
    assert telemetry.bar.desc.startswith("plain: step 1/6, epoch 0.5/3")
    assert "lfw.accuracy=0.875" in telemetry.bar.postfix
    assert "tar_1e-3" not in telemetry.bar.postfix
    telemetry.close()
    lines = [json.loads(text) for text in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    measured = {"lfw.accuracy": 0.875, "lfw.tar_1e-3": 0.5}
    assert lines[0] == {"stage": "plain", "step": 0, "validation": measured, "seconds": 100.0}
    assert "validation: lfw.accuracy 87.50 %, lfw.tar_1e-3 50.00 %" in capsys.readouterr().err
    Telemetry(tmp_path, "plain", Schedule(StageConfig(epochs=3), 8, 4), 0).close()
    assert not (tmp_path / "metrics.jsonl").read_text(), "done again, it is measured again"
