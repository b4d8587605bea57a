"""Status: how far a run is, from its files alone; it may run on another machine, and nothing is changed.

python -m facelt.status RUN
python -m facelt.status RUN --watch 10     (again every ten seconds)
python -m facelt.status RUN --json
"""

import json
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from facelt.config import STAGES
from facelt.errors import UserError, one_line
from facelt.run_folder import checkpoint, lock
from facelt.run_folder.checkpoint import CheckpointState
from facelt.training.schedule import Schedule
from recordio_tools.cli.arguments import positive
from recordio_tools.command_line import Parser

TAIL = 1 << 16  # bytes of metrics.jsonl that hold its last lines


class Status(BaseModel):
    """What is known of a run; None where its files do not say.

    state: "running"; "died": its process is gone and did not end by itself; "stopped": no process, more to do;
    "finished": stage meta is at its end. step, steps: done, of how many, in this stage. images_per_second: at the last
    report. seconds_left: of this stage, at that rate. checkpoint_age: seconds. best, best_step: the checkpoint of the
    last validated stage that did best, and its steps done; best_figure, best_value: by what. skipped_steps: since the
    last start. restarts: of this stage from a checkpoint. quarantined, damaged: images and checkpoints that were set
    aside.
    """

    state: Literal["running", "died", "stopped", "finished"]
    holder: lock.Holder | None
    stage: str | None
    step: int | None
    steps: int | None
    images_per_second: float | None
    seconds_left: float | None
    loss: float | None
    checkpoint: str | None
    checkpoint_age: float | None
    best: str | None
    best_step: int | None
    best_figure: str | None
    best_value: float | None
    skipped_steps: int | None
    restarts: int | None
    quarantined: int
    damaged: int


def read_status(run: Path) -> Status:
    """That of a run. Raises UserError where there is none."""
    metrics = run / "metrics.jsonl"
    newest = next((found for stage in reversed(STAGES) if (found := checkpoint.latest(run, stage))), None)
    best = next((found for stage in reversed(STAGES) if (found := checkpoint.best(run, stage))), None)
    holder = lock.read_holder(run)
    if newest is None and holder is None and not metrics.is_file():
        raise UserError(f"{run}: no run there; expected a folder that facelt/train.py writes")
    last, saved = _last_line(metrics), _state_of(newest)
    stage = last.get("stage", saved.stage if saved else None)
    steps = rate = left = None
    step = last["step"] + 1 if "step" in last else saved.step if saved else None
    if saved is not None and saved.data is not None and stage in STAGES:
        steps = Schedule(saved.config.stage(stage), saved.data.images, saved.global_batch).steps
        rate = last.get("rate")
        if rate and step is not None:
            left = max(0, steps - step) * saved.global_batch / rate
    alive = holder is not None and lock.is_alive(run, holder)
    finished = saved is not None and saved.stage != "plain" and saved.finished
    return Status(
        state="running" if alive else "finished" if finished else "died" if holder else "stopped",
        holder=holder,
        stage=stage,
        step=step,
        steps=steps,
        images_per_second=last.get("rate"),
        seconds_left=left,
        loss=last.get("loss", last.get("cross_entropy")),
        checkpoint=None if newest is None else str(newest),
        checkpoint_age=None if newest is None else max(0.0, time.time() - newest.stat().st_mtime),
        best=None if best is None else str(best.folder),
        best_step=None if best is None else best.step,
        best_figure=None if best is None else best.figure,
        best_value=None if best is None else best.value,
        skipped_steps=last.get("skipped_steps"),
        restarts=last.get("restarts"),
        quarantined=_lines(run / "quarantine.jsonl"),
        damaged=sum(len(list((run / stage).glob("step-*.damaged*"))) for stage in STAGES),
    )


def _state_of(folder: Path | None) -> CheckpointState | None:
    """None where it cannot be read: the next start of the run will see to that."""
    try:
        return None if folder is None else checkpoint.read_state(folder)
    except UserError:
        return None


def _last_line(path: Path) -> dict[str, Any]:
    """The last whole line of metrics.jsonl that is of training; empty where there is none yet. The file may be written
    meanwhile."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL))
            lines = file.read().splitlines()
    except OSError:
        return {}
    for line in reversed(lines):
        try:
            found = json.loads(line)
        except ValueError:
            continue  # torn
        if isinstance(found, dict) and "validation" not in found:
            return found
    return {}


def _lines(path: Path) -> int:
    return len(path.read_bytes().splitlines()) if path.is_file() else 0


def describe(status: Status) -> str:
    """For people: a line for each thing that is known."""
    who = status.holder and f"process {status.holder.pid} on {status.holder.host}, since {status.holder.started}"
    of = f" of {status.steps:,}" if status.steps is not None else ""
    lines = {"state": status.state + (f" ({who})" if who else ""), "stage": status.stage}
    lines["step"] = None if status.step is None else f"{status.step:,}{of}"
    lines["rate"] = None if status.images_per_second is None else f"{status.images_per_second:,.1f} images/s"
    lines["time left"] = None if status.seconds_left is None else f"{_duration(status.seconds_left)} (this stage)"
    lines["loss"] = None if status.loss is None else f"{status.loss:.4g}"
    if status.checkpoint is not None and status.checkpoint_age is not None:
        lines["checkpoint"] = f"{status.checkpoint}, {_duration(status.checkpoint_age)} old"
    else:
        lines["checkpoint"] = "none yet"
    if status.best_value is not None:
        lines["best validation"] = f"{status.best_figure} {100 * status.best_value:.2f} % at step {status.best_step:,}"
        lines["best checkpoint"] = status.best
    lines["skipped steps"] = None if status.skipped_steps is None else f"{status.skipped_steps:,}"
    lines["restarts"] = None if status.restarts is None else f"{status.restarts:,} (this stage)"
    lines["quarantined images"] = f"{status.quarantined:,}"
    lines["damaged checkpoints"] = f"{status.damaged}"
    return "\n".join(f"{name:<20}{value}" for name, value in lines.items() if value is not None)


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def main(argv: list[str] | None = None) -> int:
    """Print the status of a run; 0. Leaves with 2 for a user's mistake."""
    args = arguments().parse_args(argv)
    with one_line("facelt.status"):
        while True:
            status = read_status(args.run)
            print(status.model_dump_json() if args.json else describe(status), flush=True)
            if args.watch is None:
                return 0
            try:
                time.sleep(args.watch)
            except KeyboardInterrupt:
                return 0
            if not args.json:
                print()


def arguments() -> Parser:
    """The command line."""
    parser = Parser(prog="facelt.status", description=__doc__)
    parser.add_argument("run", metavar="RUN", type=Path, help="folder of the run")
    parser.add_argument("--json", action="store_true", help="one JSON object, on one line")
    parser.add_argument(
        "--watch", type=positive, nargs="?", const=10, metavar="SECONDS", help="again and again, until Ctrl-C (10)"
    )
    return parser


def command() -> int:
    """What the console command runs."""
    return main()


if __name__ == "__main__":
    sys.exit(command())
