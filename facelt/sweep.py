"""Sweep: how results change with the threshold, the number of open classes, and a knob of training (figure 8).

    python -m facelt.sweep open --run ours=RUN plain=RUN/plain --train TRAIN --data TEST --open OPEN --output SWEEP
    python -m facelt.sweep train --values 0.8 1 1.4 --called "the tail's exponent" --deepspeed_config demo \\
        --train data/zipf-{value} --data TEST --set meta.freeze_backbone=true --output SWEEP
    python -m facelt.sweep train --values false true --called "a frozen backbone" --deepspeed_config demo \\
        --train TRAIN --data TEST --set meta.freeze_backbone={value} --output SWEEP

open looks at runs that are there, and trains nothing. train makes a run for each value, in SWEEP/runs/VALUE, with
{value} put into --train and --set; the same command again goes on where it stopped. SWEEP is a folder: influence.json
and a figure, of each of the two that open varies.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from facelt.errors import UserError, one_line
from facelt.evaluate import probability
from facelt.figures.answers import Answers, answers
from facelt.figures.influence import Curve, Influence, Tried, by_open_classes, by_threshold, curves, draw
from facelt.figures.opened import OpenedRun
from facelt.open_world.figures import DRAWS, DRAWS_HELP
from facelt.open_world.sets import Given, Sets
from facelt.open_world.shots import Bounds
from facelt.parallel import group
from facelt.run_folder import checkpoint
from recordio_tools.atomic import check_usable, check_writable, output_file, output_folder
from recordio_tools.cli.arguments import natural, positive
from recordio_tools.command_line import Parser
from recordio_tools.dataset import RecordDataset

THRESHOLDS = [round(0.1 * i, 1) for i in range(10)]
SHARES = (0.2, 0.4, 0.6, 0.8, 1)  # of the strangers, for the number of open classes
VALUE = "{value}"


def main(argv: list[str] | None = None) -> int:
    """Sweep as the command line says; 0 done. Leaves with 2 for a user's mistake."""
    args = arguments().parse_args(argv)
    with one_line("facelt.sweep"):
        args.bounds = Bounds(args.many, args.few)
        args.sweep(args)
    return 0


def sweep_open(args: argparse.Namespace) -> None:
    """Figures 8b and 8c of one or several runs, from one pass over the images of each."""
    check_writable(args.output, force=args.force, folder=True)
    numbers = open_classes(args, RecordDataset(args.open))
    thresholds = sorted(set(args.thresholds))
    device = group.join()
    found: dict[str, list[Curve]] = {"threshold": [], "open-classes": []}
    for name, path in named_runs(args.run):
        tried = trial(args, path, args.train, device)
        found["threshold"] += by_threshold(name, tried, thresholds, args.draws, args.seed)
        found["open-classes"] += by_open_classes(name, tried, numbers, args.threshold, args.draws, args.seed)
    titles = {"threshold": "the probability threshold", "open-classes": "the number of open classes"}
    with output_folder(args.output, force=args.force) as draft:
        for kind, title in titles.items():
            write(Influence(varied=title, curves=found[kind]), draft / f"{kind}.json", draft / f"{kind}.png")
    print(f"wrote {args.output}: {', '.join(f'{kind}.json, {kind}.png' for kind in titles)}")


def sweep_train(args: argparse.Namespace) -> None:
    """Figure 8a: a training for each value, then its results on the same test set."""
    check_usable(args.output)
    named = all(value.strip(".") and "/" not in value for value in args.values)
    if len(set(args.values)) < len(args.values) or not named:
        raise UserError(f"--values {' '.join(args.values)}: expected different ones that can name a folder")
    if not any(VALUE in text for text in (args.train, *args.set)):
        raise UserError(f"nothing varies: expected {VALUE} in --train or in a --set, as in --set meta.epochs={VALUE}")
    runs = {value: args.output / "runs" / value for value in args.values}
    for value, run in runs.items():
        train(args, value, run)
    device, points = group.join(), []
    for value, run in runs.items():
        tried = trial(args, str(run), args.train.replace(VALUE, value), device)
        # Without strangers nothing is to be rejected: the closed set.
        threshold = 0.0 if args.open is None else args.threshold
        points.append(tried.points(value, threshold, np.unique(tried.identities_M), args.draws, args.seed))
    found = Influence(varied=args.called, curves=curves("meta", points))
    numbers, picture = (output_file(args.output / f"influence.{suffix}", force=True) for suffix in ("json", "png"))
    with numbers as numbers_path, picture as picture_path:
        write(found, numbers_path, picture_path)
    print(f"wrote {args.output}: influence.json, influence.png")


def train(args: argparse.Namespace, value: str, run: Path) -> None:
    """Train or resume the run of one value. Raises UserError where that did not end well, or was stopped."""
    group.say(f"{args.called} {value}: training {run}")
    given = ["--deepspeed_config", args.deepspeed_config, "--data", args.train.replace(VALUE, value)]
    given += ["--output", str(run)]
    for text in args.set:
        given += ["--set", text.replace(VALUE, value)]
    command = [sys.executable, "-m", "facelt.train"]
    if args.ranks > 1:
        launcher = Path(sys.executable).with_name("deepspeed")
        command = [str(launcher), "--num_gpus", str(args.ranks), "--module", "facelt.train"]
    status = subprocess.run([*command, *given], check=False).returncode
    again = "mend what it says and give the same command again"
    if status:
        raise UserError(f"{args.called} {value}: the training of {run} ended with status {status}; {again}")
    if not checkpoint.read_state(checkpoint.find(run)).finished:
        raise UserError(f"{args.called} {value}: the training of {run} was stopped; give the same command to go on")


def trial(args: argparse.Namespace, path: str, train_path: str, device: torch.device) -> Tried:
    """A run's answers to the test images, and to strangers where there are any."""
    run = OpenedRun.of(path, device)
    training, test = RecordDataset(train_path), RecordDataset(args.data)
    strangers = None if args.open is None else RecordDataset(args.open)
    given = None if strangers is None else Given("--open", str(args.open), strangers)
    sets = Sets(Given("--train", train_path, training), Given("--data", args.data, test), given)
    sets.check_classes(run.state.num_classes)
    sets.check()
    opened, identities_M = Answers(np.empty(0, np.int64), np.empty(0)), np.empty(0, np.int64)
    if strangers is not None:
        opened, identities_M = answers(run, strangers, args.batch, "open images"), strangers.labels
    return Tried(
        known=answers(run, test, args.batch, "test images"),
        labels_N=test.labels,
        opened=opened,
        identities_M=identities_M,
        counts_K=np.bincount(training.labels, minlength=training.num_classes),
        bounds=args.bounds,
    )


def open_classes(args: argparse.Namespace, strangers: RecordDataset) -> list[int]:
    """The numbers of open classes that are tried: those given, or fifths of all. Raises UserError for too many."""
    S = len(np.unique(strangers.labels))
    numbers = sorted(set(args.open_classes or [max(1, round(part * S)) for part in SHARES]))
    if numbers[-1] > S:
        raise UserError(f"--open-classes {numbers[-1]}: {args.open} has {S}; give fewer")
    return numbers


def named_runs(given: list[str]) -> list[tuple[str, str]]:
    """NAME=RUN, or RUN, which is its own name. Raises UserError for a name twice."""
    pairs = [(name, path) if found else (name, name) for name, found, path in (text.partition("=") for text in given)]
    if len({name for name, _ in pairs}) < len(pairs):
        raise UserError(f"--run {' '.join(given)}: a name is there twice; give each run another: NAME=RUN")
    return pairs


def write(found: Influence, numbers: Path, picture: Path) -> None:
    """The curves as JSON and as PNG."""
    numbers.write_text(found.model_dump_json(indent=1) + "\n", encoding="utf-8")
    draw(found).savefig(picture, format="png", dpi=160)


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(prog="facelt.sweep", description=__doc__)
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    opened = kinds.add_parser("open", help="threshold and number of open classes, of runs that are there")
    opened.set_defaults(sweep=sweep_open)
    opened.add_argument("--run", nargs="+", required=True, metavar="[NAME=]RUN", help="runs, their stages or steps")
    opened.add_argument("--open", required=True, help="data folder of strangers; whatever their labels")
    opened.add_argument("--thresholds", type=probability, nargs="+", default=THRESHOLDS, help="default: 0 0.1 … 0.9")
    opened.add_argument("--open-classes", type=positive, nargs="+", metavar="N", help="default: fifths of all")
    opened.add_argument("--force", action="store_true", help="replace an existing output")

    trained = kinds.add_parser("train", help="a training for each value of a knob, or for each of several sets")
    trained.set_defaults(sweep=sweep_train)
    trained.add_argument("--values", nargs="+", required=True, metavar="VALUE", help="what {value} stands for")
    trained.add_argument("--called", default="value", metavar="TEXT", help="what is varied, for the figure")
    trained.add_argument("--deepspeed_config", required=True, metavar="JSON", help="as for facelt/train.py")
    trained.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as for facelt/train.py")
    trained.add_argument("--ranks", type=positive, default=1, metavar="N", help="of each training (default: 1)")
    trained.add_argument("--open", help="data folder of strangers; without it the closed set")
    for kind in (opened, trained):
        kind.add_argument("--train", required=True, help="data folder of training images")
        kind.add_argument("--data", required=True, metavar="TEST", help="data folder of test images")
        kind.add_argument("--output", type=Path, required=True, metavar="SWEEP", help="folder to write")
        kind.add_argument("--threshold", type=probability, default=0.1, help="of the highest softmax; default: 0.1")
        kind.add_argument("--many", type=natural, default=100, metavar="N", help="training images; default: 100")
        kind.add_argument("--few", type=natural, default=20, metavar="N", help="training images; default: 20")
        kind.add_argument("--draws", type=positive, default=DRAWS, help=DRAWS_HELP)
        kind.add_argument("--seed", type=natural, default=0, help="of bootstrap and open classes (default: 0)")
        kind.add_argument("--batch", type=positive, default=64, help="images at a time (default: 64)")
    return parser


def command() -> int:
    """What the console command runs."""
    return group.as_process(main)


if __name__ == "__main__":
    sys.exit(command())
