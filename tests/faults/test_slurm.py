"""jobs/train.sbatch under a real Slurm of two nodes: queued again by whatever may pass, and finished.

By itself the shortest way there and back; all of it with FACELT_FAULTS=whole, which `make faults` sets.
"""

import json
from pathlib import Path

import pytest
from faces import write_faces
from injector import WHOLE
from launching import ROOT
from slurm import Cluster, missing, wait_until
from tiny import TINY

from facelt.run_folder import checkpoint

WHY_NOT = missing(install=WHOLE)
pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))
whole = pytest.mark.skipif(not WHOLE, reason="with FACELT_FAULTS=whole alone: minutes")
START = 300  # seconds that two ranks may take to their first step on a loaded machine
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    made = Cluster(tmp_path_factory.mktemp("slurm"))
    yield made
    made.close()


class Job:
    """A training on both nodes that goes on until it is told its end."""

    def __init__(self, cluster: Cluster, folder: Path, *options: str) -> None:
        self.cluster, self.folder, self.run, self.log = cluster, folder, folder / "run", folder / "log"
        self.ends_after(plain=40_000)
        cluster.env["CONFIG"] = str(folder / "ds.json")
        data = write_faces(folder / "data")
        fixed = ["--nodes=2", *options, "jobs/train.sbatch", str(data), str(self.run)]
        self.number = cluster.submit(self.log, *fixed, "--set", "checkpoint_minutes=0.02")

    def ends_after(self, plain: float) -> None:
        """From the next start on: so many epochs of stage plain, then a short stage meta."""
        stages = {"plain": {"epochs": plain}, "meta": {"epochs": 1, "images_per_class": 2}}
        draft = self.folder / "ds.draft"
        draft.write_text(json.dumps({**TINY, "facelt": {**TINY["facelt"], **stages}}))
        draft.rename(self.folder / "ds.json")

    def steps(self) -> list[tuple[str, int]]:
        lines = self.run / "metrics.jsonl"
        whole = lines.read_text().splitlines() if lines.exists() else []
        return [(line["stage"], line["step"]) for line in map(json.loads, whole)]

    def until_it_trains(self, restarts: int) -> None:
        """Until new steps are done, and a checkpoint is there."""
        self.cluster.wait_for(self.number, ("RUNNING",), START, restarts)
        before = self.steps()[-1:]
        wait_until(
            lambda: self.steps()[-1:] > before and checkpoint.latest(self.run, "plain") is not None, START, self.said
        )

    def said(self) -> str:
        return (self.log.read_text() if self.log.exists() else "") + self.cluster.said()

    def finishes(self, restarts: int) -> None:
        """It is queued again, told an end soon after what is saved, and comes to it, every step done once.

        restarts: at least. When a lost node is back, Slurm may end the new tasks there by what it wanted of the old.
        """
        newest = checkpoint.latest(self.run, "plain")
        assert newest is not None
        steps = checkpoint.read_state(newest).step + 5
        self.ends_after(plain=steps * TINY["train_batch_size"] / 30)
        known = self.cluster.wait_for(self.number, ENDED, 2 * START, restarts)
        assert known["JobState"] == "COMPLETED", self.said()
        plain = [step for stage, step in self.steps() if stage == "plain"]
        assert plain == list(range(len(plain)))
        assert len(plain) >= steps
        assert self.steps()[-1][0] == "meta"


def test_asked_to_make_room_it_is_queued_again_and_finishes(cluster, tmp_path):
    job = Job(cluster, tmp_path)
    job.until_it_trains(restarts=0)
    cluster.ask("scancel", "--signal=USR1", "--batch", job.number)
    job.finishes(restarts=1)
    assert "stopped unfinished; it is queued again, to go on from" in job.said()


@whole
def test_killed_tasks_and_a_lost_node_end_no_training(cluster, tmp_path):
    job = Job(cluster, tmp_path)
    job.until_it_trains(restarts=0)
    cluster.ranks()["n2"][0].kill()
    job.until_it_trains(restarts=1)
    cluster.ranks()["n1"][0].kill()
    job.until_it_trains(restarts=2)
    cluster.lose_node("n2")
    cluster.wait_for(job.number, ("PENDING",), START, restarts=3)
    cluster.start_node("n2")
    job.finishes(restarts=3)


@whole
def test_the_node_of_the_batch_shell_is_lost(cluster, tmp_path):
    job = Job(cluster, tmp_path)
    job.until_it_trains(restarts=0)
    cluster.lose_node("n1")
    cluster.wait_for(job.number, ("PENDING",), START, restarts=1)
    cluster.start_node("n1")
    job.finishes(restarts=1)


@whole
def test_a_time_limit_five_minutes_ahead_is_queued_again(cluster, tmp_path):
    job = Job(cluster, tmp_path, "--time=7")  # Slurm may send the signal a minute too early
    job.until_it_trains(restarts=0)
    cluster.wait_for(job.number, ("PENDING",), 2 * START, restarts=1)
    assert "SIGUSR1: saving and stopping" in job.said()
    cluster.ask("scontrol", "update", f"JobId={job.number}", "TimeLimit=60")  # a loaded machine may start for a minute
    job.finishes(restarts=1)


@whole
def test_cancelled_it_is_saved_and_not_queued_again(cluster, tmp_path):
    job = Job(cluster, tmp_path)
    job.until_it_trains(restarts=0)
    cluster.ask("scancel", job.number)
    known = cluster.wait_for(job.number, ENDED, START)
    assert (known["JobState"], known["Restarts"]) == ("CANCELLED", "0")
    wait_until(lambda: not cluster.ranks(), START, job.said)
    newest = checkpoint.latest(job.run, "plain")
    assert newest is not None
    assert checkpoint.read_state(newest).step == job.steps()[-1][1] + 1


@whole
def test_a_time_limit_within_the_margin_is_refused_in_one_line(cluster, tmp_path):
    job = Job(cluster, tmp_path, "--time=5")
    known = cluster.wait_for(job.number, ENDED, START)
    assert (known["JobState"], known["ExitCode"]) == ("FAILED", "2:0")
    assert (job.log.read_text().count("\n"), "give more --time" in job.log.read_text()) == (1, True)


PYTHON_THAT_DIES = """#!/usr/bin/env bash
mkdir -p "$RUN/plain/step-00000005"
echo '{"finished": false}' > "$RUN/plain/step-00000005/state.json"
kill -9 $$
"""


@whole
def test_killed_again_and_again_without_a_new_checkpoint_it_is_given_up(cluster, tmp_path):
    (tmp_path / "jobs").symlink_to(ROOT / "jobs")
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin" / "python"
    python.write_text(PYTHON_THAT_DIES)
    python.chmod(0o755)
    run, log = tmp_path / "run", tmp_path / "log"
    path = f"PATH={python.parent}:{cluster.env['PATH']}"
    words = ["--nodes=2", f"--export=ALL,RUN={run},{path}", "jobs/train.sbatch", "data", str(run)]
    number = cluster.submit(log, *words, cwd=tmp_path)
    known = cluster.wait_for(number, ENDED, 2 * START)
    assert (known["JobState"], known["ExitCode"], known["Restarts"]) == ("FAILED", "1:0", "4"), log.read_text()
    assert "no checkpoint in" in log.read_text()
