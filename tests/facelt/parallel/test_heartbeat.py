"""A rank that hangs, is stopped or dies is named by one that lives, with what it was doing."""

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from launching import ROOT, environment

from facelt.parallel import heartbeat
from facelt.parallel.heartbeat import AGAIN, Beat, Heartbeat

# Rank RANK of WORLD_SIZE that keep a heartbeat in a folder; what follows is done then.
RANK = """
import os, sys, threading, time
from pathlib import Path
from facelt.parallel import heartbeat
heartbeat.EVERY, heartbeat.SILENT = 0.1, 0.5
beat = heartbeat.begin("facelt.train")
folder, ranks = Path(sys.argv[1]), int(os.environ["WORLD_SIZE"])
def all_here():
    (folder.parent / f"here-{beat.beat.rank}").touch()
    while len(list(folder.parent.glob("here-*"))) < ranks:
        time.sleep(0.01)
    time.sleep(0.1)
beat.keep_in(folder, ranks, all_here)
heartbeat.settle(True)
"""
WAITS = """
beat.stall_seconds = {allowed}
for step in range({steps}):
    heartbeat.mark("data", step)
    time.sleep(0.02)
def in_the_data_loader():
    time.sleep(60)
heartbeat.mark("{stage}")
in_the_data_loader()
"""


def ranks(folder: Path, *busy: str) -> list[subprocess.Popen]:
    env = {key: value for key, value in environment().items() if key != "SLURM_PROCID"}
    return [
        subprocess.Popen(
            [sys.executable, "-c", RANK + work, str(folder / "heartbeat")],
            cwd=ROOT,
            env={**env, "RANK": str(rank), "WORLD_SIZE": str(len(busy))},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, work in enumerate(busy)
    ]


def ends(processes: list[subprocess.Popen]) -> tuple[list[int], list[str]]:
    said = [process.communicate(timeout=30)[1] for process in processes]
    return [process.returncode for process in processes], said


def test_the_rank_that_is_behind_is_named_with_its_stack(tmp_path):
    """Rank 0 waits in a collective for rank 1, which hangs two steps behind."""
    statuses, said = ends(
        ranks(
            tmp_path,
            WAITS.format(allowed=1, steps=7, stage="collective"),
            WAITS.format(allowed=1, steps=5, stage="data"),
        )
    )
    assert statuses == [AGAIN, AGAIN]
    lines = [line for text in said for line in text.splitlines() if "error:" in line]
    assert len(lines) == 1
    assert "rank 1 (host " in lines[0]
    assert "in stage data of step 4, has not moved for 0.0167 minutes" in lines[0]
    assert "rank 1 stands at:" in said[1]
    assert "in in_the_data_loader" in said[1]
    assert "stands at" not in said[0]


def test_a_stopped_rank_is_named_by_the_other(tmp_path):
    processes = ranks(tmp_path, *[WAITS.format(allowed=1.5, steps=5, stage="collective")] * 2)
    while not (tmp_path / "here-1").exists():
        assert all(process.poll() is None for process in processes)
    threading.Event().wait(0.5)
    processes[1].send_signal(signal.SIGSTOP)
    said = processes[0].communicate(timeout=30)[1]
    processes[1].kill()
    processes[1].communicate()
    assert processes[0].returncode == AGAIN
    assert "rank 1 (host " in said
    assert "stopped by a signal; the run ends" in said


@pytest.mark.parametrize(
    "number, words",
    [(signal.SIGKILL, "was killed without a last word (SIGKILL"), (signal.SIGSEGV, "Segmentation fault")],
)
def test_a_rank_that_died_is_named_even_while_the_other_waits_on(tmp_path, number, words):
    """As under NCCL, whose collectives go on waiting for it."""
    dies = f"import os\nheartbeat.mark('forward', 3)\ntime.sleep(0.5)\nos.kill(os.getpid(), {int(number)})"
    statuses, said = ends(ranks(tmp_path, WAITS.format(allowed=60, steps=5, stage="collective"), dies))
    assert statuses == [AGAIN, -number]
    assert f"rank 1 (host {os.uname().nodename}, pid " in said[0]
    assert "in stage forward of step 3" in said[0]
    assert words in said[0]


WRITES = """
beat.stall_seconds = 0.6
heartbeat.mark("save", 3)
with heartbeat.writing(folder.parent / "large"), (folder.parent / "large").open("wb", 0) as file:
    for _ in range(12):
        time.sleep(0.1)
        file.write(b"0" * 4096)
    time.sleep(1.2)  # as long as a flush may take
for _ in range(12):
    time.sleep(0.1)
    heartbeat.move()
print("saved", file=sys.stderr, flush=True)
heartbeat.mark("collective")
time.sleep(60)
"""


def test_a_long_save_is_no_stall_and_what_hangs_behind_it_is(tmp_path):
    """Rank 1 waits meanwhile: six times as long as it may stand still."""
    waits = WAITS.format(allowed=0.6, steps=1, stage="collective")
    statuses, said = ends(ranks(tmp_path, WRITES, waits))
    assert statuses == [AGAIN, AGAIN]
    assert "saved" in said[0]
    assert "has not moved" in "".join(said)


FAILS = """
with heartbeat.kept("facelt.train"):
    heartbeat.mark("forward", 3)
    time.sleep(0.3)
    raise {error}
"""
INNOCENT = """
with heartbeat.kept("facelt.train"):
    heartbeat.mark("collective", 3)
    time.sleep(0.6)
    raise RuntimeError("[gloo/transport/tcp/pair.cc:1] Connection closed by peer")
"""


def test_an_exception_is_said_first_by_its_own_rank_and_the_innocent_is_silent(tmp_path):
    statuses, said = ends(ranks(tmp_path, INNOCENT, FAILS.format(error="ValueError('all is lost')")))
    assert statuses == [1, 1]
    first, *rest = [line for line in said[1].splitlines() if line]
    assert first.endswith("in stage forward of step 3, ended by ValueError: all is lost")
    assert rest[0].startswith("Traceback")
    assert said[0].strip() == ""


@pytest.mark.parametrize("victim", range(3))
def test_of_two_that_live_one_speaks_and_neither_takes_the_other_for_the_culprit(tmp_path, victim):
    dies = f"heartbeat.mark('forward', 3)\ntime.sleep(0.3)\nos.kill(os.getpid(), {int(signal.SIGKILL)})"
    busy = [INNOCENT, INNOCENT.replace("0.6", "0.9"), INNOCENT.replace("0.6", "0.9")]
    statuses, said = ends(ranks(tmp_path, *busy[:victim], dies, *busy[victim + 1 :]))
    assert statuses == [AGAIN] * victim + [-signal.SIGKILL] + [AGAIN] * (2 - victim), said
    (line,) = "".join(said).strip().splitlines()
    assert f"rank {victim} (host " in line
    assert "SIGKILL" in line


def test_the_status_of_a_mistake_is_that_of_all_three(tmp_path):
    """The third may see the second first, which ended for the first one's sake."""
    late = INNOCENT.replace("0.6", "1.5")
    assert ends(ranks(tmp_path, late, FAILS.format(error="SystemExit(2)"), INNOCENT)) == ([2, 2, 2], ["", "", ""])


def test_a_mistake_of_one_rank_keeps_its_status_on_the_other(tmp_path):
    assert ends(ranks(tmp_path, INNOCENT, FAILS.format(error="SystemExit(2)"))) == ([2, 2], ["", ""])


def test_a_failed_collective_without_a_dead_rank_keeps_its_traceback(tmp_path):
    statuses, said = ends(ranks(tmp_path, INNOCENT, "time.sleep(4)"))
    assert statuses[0] == 1
    assert "Connection closed by peer" in said[0]
    assert "Traceback" in said[0]


def test_files_go_when_all_went_well_and_a_full_disk_ends_nothing(tmp_path, monkeypatch):
    beat = Heartbeat("facelt.train")
    beat.keep_in(tmp_path / "heartbeat", 1, lambda: None)
    beat.mark("save", 7)
    beat._write()
    kept = json.loads((tmp_path / "heartbeat" / "rank-00000.json").read_bytes())
    assert (kept["stage"], kept["step"], kept["pid"]) == ("save", 7, os.getpid())

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(heartbeat.os, "pwrite", full)
    beat._write()
    beat.close()
    assert not (tmp_path / "heartbeat").exists()


def test_where_no_beat_can_be_kept_nothing_ends(tmp_path, monkeypatch):
    (tmp_path / "heartbeat").write_text("no folder")
    beat = Heartbeat("facelt.train")
    beat.keep_in(tmp_path / "heartbeat", 1, lambda: None)
    assert (tmp_path / "heartbeat" / "rank-00000.json").is_file()
    beat.close()
    (tmp_path / "run").write_text("no folder either")
    beat = Heartbeat("facelt.train")
    beat.keep_in(tmp_path / "run" / "heartbeat", 1, lambda: None)
    assert beat.folder is None
    assert beat.others() == []
    beat.close()


def test_a_torn_or_missing_file_is_no_beat(tmp_path):
    beat = Heartbeat("facelt.train")
    beat.keep_in(tmp_path / "heartbeat", 3, lambda: None)
    (tmp_path / "heartbeat" / "rank-00001.json").write_text('{"rank": 1, "ho')
    other = replace(beat.beat, rank=2)
    (tmp_path / "heartbeat" / "rank-00002.json").write_text(json.dumps(asdict(other)))
    assert beat.others() == [other]
    assert isinstance(other, Beat)
    beat.close()
