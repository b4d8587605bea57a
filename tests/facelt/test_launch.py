"""facelt-train --num_gpus: signals reach the ranks, the status is theirs."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from faces import write_faces
from launching import ROOT, command, environment
from tiny import TINY

from facelt import launch
from facelt.parallel.heartbeat import AGAIN
from facelt.run_folder import checkpoint

# A launcher as thin as can be: two ranks; it dies of a signal, and leaves with the status of the first that fails.
STAND_IN = """
import os, subprocess, sys
does = [sys.executable, "-c", os.environ["RANK_DOES"]]
ranks = [subprocess.Popen(does, env=dict(os.environ, RANK=str(i))) for i in range(2)]
sys.exit(next((code for code in [rank.wait() for rank in ranks] if code), 0))
"""
SAVES = """
import os, signal, sys, time
def save(number, _):
    time.sleep(0.5)
    open(f"{signal.Signals(number).name}-{os.environ['RANK']}", "w").close()
    sys.exit(0)
for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGINT):
    signal.signal(number, save)
open(f"ready-{os.environ['RANK']}", "w").close()
time.sleep(60)
"""


def started(folder, does: str, launcher: str = STAND_IN) -> subprocess.Popen:
    (folder / "stand_in.py").write_text(launcher)
    work = "import sys; from facelt import launch; launch.LAUNCHER = 'stand_in'; sys.exit(launch.main(sys.argv[1:]))"
    paths = os.pathsep.join([str(ROOT), str(folder)])
    return subprocess.Popen(
        [sys.executable, "-c", work, "--num_gpus", "2", "--output", "run"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": paths, "RANK_DOES": does},
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("number", launch.SIGNALS)
def test_a_signal_reaches_every_rank_and_is_waited_for(tmp_path, number):
    process = started(tmp_path, SAVES)
    while process.poll() is None and len(list(tmp_path.glob("ready-*"))) < 2:
        time.sleep(0.02)
    process.send_signal(number)
    said = process.communicate(timeout=120)[1]
    assert (process.returncode, said) == (0, "")
    assert len(list(tmp_path.glob(f"{number.name}-*"))) == 2


@pytest.mark.parametrize(
    "does, status, words",
    [
        ("import sys; sys.exit(0)", 0, ""),
        ("import sys; sys.exit(2)", 2, ""),
        ("import os; os.kill(os.getpid(), 9)", AGAIN, "SIGKILL ended a rank; run the same command"),
        (
            "import os; os.kill(os.getpid(), 7)",
            AGAIN,
            "SIGBUS ended a rank (rank-00000: Fatal Python error: Bus error)",
        ),
    ],
)
def test_the_status_is_that_of_the_ranks(tmp_path, does, status, words):
    (tmp_path / "run" / "heartbeat").mkdir(parents=True)
    (tmp_path / "run" / "heartbeat" / "rank-00000.fatal").write_text(
        "Fatal Python error: Bus error\n\nmore\n" if "7" in does else ""
    )
    process = started(tmp_path, does)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == status
    assert words in said
    assert said.count("\n") == bool(words)


def test_asked_before_there_is_a_rank_it_ends_at_once(tmp_path):
    process = started(tmp_path, SAVES, "import time; open('ready-0', 'w').close(); time.sleep(60)")
    while process.poll() is None and not list(tmp_path.glob("ready-*")):
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=120) == AGAIN


def test_under_deepspeeds_launcher_training_is_saved(tmp_path):
    (tmp_path / "ds.json").write_text(json.dumps(TINY))
    data, run = write_faces(tmp_path / "data"), tmp_path / "run"
    arguments = command(tmp_path / "ds.json", data, run, "--set", "plain.epochs=4000")[1:]
    full = [sys.executable, "-m", "facelt.launch", "--num_gpus", "2", *arguments]
    process = subprocess.Popen(full, cwd=ROOT, env=environment(), stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not ((run / "metrics.jsonl").exists() and (run / "metrics.jsonl").read_text()):
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=300)[1]
    assert process.returncode == 0, said
    assert "run the same command to resume" in said
    newest = checkpoint.latest(run, "plain")
    assert newest is not None
    assert not checkpoint.read_state(newest).finished


@pytest.mark.parametrize(
    "words", [["--num_gpus", "many"], ["--num_gpus=0"], ["--num_gpus"], ["--num_gpus", "2", "--master_port", "x"]]
)
def test_what_is_no_number_is_answered_in_one_line(words, capsys):
    assert launch.main([*words, "--data", "d"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
