"""Killed at a seam of a save or at any moment, a run goes on to the weights of an unkilled one, bit for bit.

A few cases by themselves; all of them with FACELT_FAULTS=whole, which `make faults` sets.
"""

import json
import random
import signal
from pathlib import Path

import pytest
from faces import write_faces
from injector import WHOLE, Fault, Outcome, run, spread
from safetensors.torch import load_file
from tiny import TINY

from facelt.parallel.heartbeat import AGAIN
from facelt.run_folder import checkpoint

BATCH = 12  # of three ranks too, in whole pairs of images of a class
MOMENTS = 20
CASES = [(ranks, victim) for ranks in (1, 2, 3) for victim in range(ranks)] if WHOLE else [(1, 0), (2, 1)]
PARTS = 4 if WHOLE else 1  # of a case, each minutes long: `-k "seam and 3-1-0"` runs the first of rank 1 of three


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("faults")
    write_faces(folder / "data")
    block = {
        **TINY["facelt"],
        "plain": {"epochs": 1.6},
        "meta": {"epochs": 0.8, "images_per_class": 2, "lr_scale": 0.1},
    }
    (folder / "ds.json").write_text(json.dumps({**TINY, "train_batch_size": BATCH, "facelt": block}))
    return folder


def arguments(work: Path, name: str, *more: str) -> list[str]:
    paths = ["--deepspeed_config", str(work / "ds.json"), "--data", str(work / "data"), "--output", str(work / name)]
    return [*paths, "--set", "checkpoint_every=1", *more]


def weights(folder: Path) -> dict[str, dict]:
    """Every tensor of the last checkpoint of both stages."""
    ends = [checkpoint.latest(folder, stage) for stage in ("plain", "meta")]
    assert all(end is not None and checkpoint.read_state(end).finished for end in ends)
    return {f"{end.parent.name}/{file.name}": load_file(file) for end in ends for file in end.glob("*.safetensors")}


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(
        one[file].keys() == other[file].keys() and all(one[file][name].equal(other[file][name]) for name in one[file])
        for file in one
    )


@pytest.fixture(scope="module")
def straight(work):
    """For a number of ranks: how an unkilled run went, and what it came to; each is run once."""
    known: dict[int, tuple[Outcome, dict]] = {}

    def of(ranks: int) -> tuple[Outcome, dict]:
        if ranks not in known:
            done = run(arguments(work, f"straight-{ranks}"), ranks, work / "log")
            assert done.statuses == [0] * ranks, done.said
            known[ranks] = done, weights(work / f"straight-{ranks}")
        return known[ranks]

    return of


def killed_and_gone_on(work: Path, ranks: int, fault: Fault, want: dict, where: str) -> None:
    name = f"killed-{ranks}-{fault.rank}-{fault.seam if fault.seam is not None else fault.seconds}"
    ended = run(arguments(work, name), ranks, work / "log", fault)
    assert fault.seam is None or ended.statuses[fault.rank] == -signal.SIGKILL, f"{where}: it was not met: {ended}"
    others = [status for rank, status in enumerate(ended.statuses) if rank != fault.rank]
    # A moment may come after the end, also after that of training, while the process still leaves.
    if ended.statuses[fault.rank] == -signal.SIGKILL and (fault.seam is not None or others != [0] * (ranks - 1)):
        assert others == [AGAIN] * (ranks - 1), f"{where}: {ended.statuses} {ended.said}"
        spoken = [line for said in ended.said for line in said.splitlines() if "error:" in line]
        assert len(spoken) == (ranks > 1), f"{where}: {ended.said}"
        assert all(f"rank {fault.rank} (host " in line and "SIGKILL" in line for line in spoken)
        assert "Traceback" not in "".join(ended.said)
    again = run(arguments(work, name), ranks, work / "log")
    assert again.statuses == [0] * ranks, f"{where}: {again.said}"
    assert same(weights(work / name), want), f"{where}: other weights than those of an unkilled run"
    steps = [(line["stage"], line["step"]) for line in map(json.loads, (work / name / "metrics.jsonl").open())]
    assert steps == [("plain", i) for i in range(4)] + [("meta", i) for i in range(2)], where


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("ranks, victim", CASES)
def test_killed_at_a_seam_of_a_save(work, straight, ranks, victim, part):
    done, want = straight(ranks)
    seams = done.seams[victim]
    assert seams, "the save has other seams than those that are watched"
    for number in range(part, len(seams), PARTS) if WHOLE else spread(len(seams), 3):
        killed_and_gone_on(work, ranks, Fault(victim, seam=number), want, f"seam {number}, {seams[number]}")


@pytest.mark.parametrize("ranks", (1, 2, 3) if WHOLE else (2,))
def test_killed_at_any_moment(work, straight, ranks):
    _, want = straight(ranks)
    draw = random.Random(ranks)
    for _ in range(MOMENTS if WHOLE else 1):
        fault = Fault(draw.randrange(ranks), seconds=draw.uniform(0, 1.0))
        killed_and_gone_on(work, ranks, fault, want, f"{fault.seconds:.3f} s after the first step")
