"""One, two and three processes give one report."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from megaface_eval.errors import InputError
from megaface_eval.features.feature_set import write_features
from megaface_eval.processes import Processes, join

ROOT = Path(__file__).resolve().parents[2]


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


def run_together(size, arguments, slurm=False):
    """Run the command in `size` processes; their exit codes and what they wrote to stderr."""
    common = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": free_port(),
    }
    names = ("SLURM_PROCID", "SLURM_NTASKS") if slurm else ("RANK", "WORLD_SIZE")
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "megaface_eval.run", *arguments],
            env={**common, names[0]: str(rank), names[1]: str(size)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(size)
    ]  # fmt: skip
    said = [process.communicate(timeout=180) for process in started]
    return [process.returncode for process in started], said


@pytest.fixture
def sets(tmp_path):
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(10), 4)
    centres = rng.standard_normal((10, 24))
    rows = (centres[labels] + 0.9 * rng.standard_normal((40, 24))).astype(np.float32)
    distractors = rng.standard_normal((1000, 24)).astype(np.float32)
    distractors[100:104] = rows[1:5]  # mates' twins among the distractors: ties
    for name, values, of in (
        ("p", rows, labels),
        ("d", distractors, np.zeros(1000, int)),
        ("t", distractors[:300] + 0.1, np.zeros(300, int)),
    ):
        write_features(tmp_path / name, values, of)
    return tmp_path


def strip(contents):
    for key in ("made", "command", "versions", "settings"):
        contents.pop(key)
    return contents


def test_any_number_of_processes_gives_the_same_report(sets, monkeypatch):
    reports = []
    for size, slurm in ((1, False), (2, True), (3, False)):
        output = sets / f"out{size}"
        arguments = ["--gallery", "1K", "--probes", f"{sets}/p", "--distractors", f"{sets}/d", "--train", f"{sets}/t"]
        arguments += ["--similarity", "0.3", "--cohort", f"{sets}/t", "--ties", "pessimistic", "--output", str(output)]
        codes, said = run_together(size, arguments, slurm)
        assert codes == [0] * size, said
        assert sum("report:" in out for out, _ in said) == 1
        reports.append(strip(json.loads((output / "report.json").read_text())))
    assert reports[0] == reports[1] == reports[2]


def test_a_row_that_one_process_cannot_read_stops_all_with_one_line(sets):
    rows = np.load(sets / "d/features.npy")
    rows[999] = np.nan
    np.save(sets / "d/features.npy", rows)
    arguments = ["--gallery", "1K", "--probes", f"{sets}/p", "--distractors", f"{sets}/d", "--output", f"{sets}/out"]
    codes, said = run_together(2, arguments)
    assert codes == [2, 2]
    errors = [line for _, error in said for line in error.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert "row 999" in errors[0]
    assert not (sets / "out").exists()


def test_a_port_that_is_taken_is_told_in_one_line(sets):
    arguments = ["--gallery", "1K", "--probes", f"{sets}/p", "--distractors", f"{sets}/d", "--output", f"{sets}/out"]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(taken.getsockname()[1])}
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "RANK": "0", "WORLD_SIZE": "2", **meeting}
        command = [sys.executable, "-m", "megaface_eval.run", *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert (done.returncode, len(errors)) == (2, 1)
    assert "choose another MASTER_PORT" in errors[0]


def test_shares_cover_every_item_once():
    items = list(range(17))
    shares = [Processes(rank, 3).share(items) for rank in range(3)]
    assert sorted(item for share in shares for item in share) == items


def test_one_process_needs_no_group(monkeypatch):
    for name in ("WORLD_SIZE", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    assert join() == Processes(0, 1)
    assert Processes().gather("x") == ["x"]


def test_processes_that_cannot_find_each_other_are_told(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("SLURM_PROCID", raising=False)
    with pytest.raises(InputError, match="2 processes"):
        join()
