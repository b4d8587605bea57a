"""Evaluate: closed- and open-set accuracy of a run, by its own classifier and by its memory.

    python -m facelt.evaluate --checkpoint RUN --train TRAIN --data TEST --open OPEN --output REPORT
    python -m facelt.evaluate --checkpoint RUN --train TRAIN --data TEST --thresholds 0.1 0.2 --output REPORT
    deepspeed --module facelt.evaluate --checkpoint RUN --train TRAIN --data TEST --output REPORT    (on all GPUs)

TRAIN is the set that the run was trained on: its counts say which classes are many, medium and few, and its images
make the memory. TEST holds other images of the same classes, with the same labels. Every image of OPEN is a stranger,
whatever its label. REPORT is a folder: report.json, table.md.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

from facelt.errors import UserError, one_line
from facelt.features.recognisers import from_checkpoint
from facelt.open_world import reading
from facelt.open_world.figures import DRAWS
from facelt.open_world.report import Answers, Source, Trial, make_report, table
from facelt.open_world.shots import Bounds
from facelt.parallel import group
from facelt.parallel.partition import Partition
from facelt.training import checkpoint, stopping
from facelt.training.checkpoint import CheckpointState
from recordio_tools.atomic import check_writable, output_folder
from recordio_tools.cli.arguments import natural, positive
from recordio_tools.command_line import Parser
from recordio_tools.dataset import RecordDataset

READINGS = ("classifier", "memory")


def main(argv: list[str] | None = None) -> int:
    """Evaluate as the command line says; 0 done. Leaves with 2 for a user's mistake."""
    args = arguments().parse_args(argv)
    with one_line("facelt.evaluate"):
        bounds = Bounds(args.many, args.few, args.bounds == "inclusive")
        thresholds = sorted(set(args.thresholds or [args.threshold]))
        device = group.join()
        stopping.leave_in_one_line("facelt.evaluate")
        group.on_rank_0(check_writable, args.output, force=args.force, folder=True)
        folder = checkpoint.find(args.checkpoint)
        state = checkpoint.read_state(folder)
        train, test = (group.together(RecordDataset, path) for path in (args.train, args.data))
        strangers = None if args.open is None else group.together(RecordDataset, args.open)
        check_sets(args, state, train, test)
        known, opened = read(args, state, train, test, strangers, device)
        trial = Trial(
            labels_N=test.labels,
            identities_M=np.empty(0, np.int64) if strangers is None else strangers.labels,
            counts_K=np.bincount(train.labels, minlength=state.num_classes),
            answers={name: answers(name, known, opened) for name in READINGS if name in args.read},
            signals=signals(known, opened),
            bounds=bounds,
            thresholds=thresholds,
            draws=args.draws,
            seed=args.seed,
        )
        source = Source(
            checkpoint=str(folder),
            stage=state.stage,
            step=state.step,
            train=args.train,
            data=args.data,
            open=args.open,
            temperature=reading.TEMPERATURE,
        )
        group.on_rank_0(write, args, trial, source)
    return 0


def check_sets(args: argparse.Namespace, state: CheckpointState, train: RecordDataset, test: RecordDataset) -> None:
    """Refuse sets that are not of the run's classes, before any image is decoded."""
    if train.num_classes != state.num_classes:
        raise UserError(
            f"--train {args.train}: has {train.num_classes} classes, the run was trained on {state.num_classes}; "
            "give the set that it was trained on"
        )
    counts = np.bincount(train.labels, minlength=state.num_classes)
    present = np.unique(test.labels)
    uncounted = [int(k) for k in present if k >= len(counts) or not counts[k]]
    if uncounted:
        raise UserError(
            f"--data {args.data}: label {uncounted[0]} has no image in --train {args.train}, so no training count; "
            "leave such images out, or give people whom the run does not know as --open"
        )
    if train.names is not None and test.names is not None:
        for k in present:
            if train.names[k] != test.names[k]:
                raise UserError(
                    f"--data {args.data}: label {k} is {test.names[k]}, in --train {args.train} it is "
                    f"{train.names[k]}; give a test set with the labels of the training set"
                )
    if args.open is not None and Path(args.open).resolve() in (Path(args.data).resolve(), Path(args.train).resolve()):
        raise UserError(f"--open {args.open}: is --data or --train too; give people whom the run does not know")


def read(
    args: argparse.Namespace,
    state: CheckpointState,
    train: RecordDataset,
    test: RecordDataset,
    strangers: RecordDataset | None,
    device: torch.device,
) -> tuple[reading.Columns, reading.Columns]:
    """What the run says of the test images and of the open ones (nothing where there are none)."""
    partition = Partition(state.num_classes, group.rank(), group.world_size())
    readings: dict[str, reading.Reading] = {}
    if "classifier" in args.read:
        readings["classifier"] = reading.by_classifier(args.checkpoint, partition, device)
    if "memory" in args.read:
        readings["memory"] = reading.by_memory(args.checkpoint, train, args.batch, partition, device)
    recogniser = from_checkpoint(args.checkpoint, reading.needed_embeddings(state.stage == "meta"), device)
    decoding = recogniser.decoding(args.batch, device)
    known = reading.read_set(recogniser, readings, test, decoding, "test images")
    if strangers is None:
        return known, {name: column[:0] for name, column in known.items()}
    return known, reading.read_set(recogniser, readings, strangers, decoding, "open images")


def answers(name: str, known: reading.Columns, opened: reading.Columns) -> Answers:
    """What one reading says."""
    return Answers(known[f"{name}.class"], known[f"{name}.probability"], opened[f"{name}.probability"])


def signals(known: reading.Columns, opened: reading.Columns) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """What could tell strangers, high for known images: a stranger is far from every centroid, so γ counts negative."""
    signs = {
        "max softmax by classifier": ("classifier.probability", 1),
        "max softmax by memory": ("memory.probability", 1),
        "cosine to the nearest centroid": ("memory.score", 1),
        "reachability γ": ("reachability", -1),
        "‖v_meta‖": ("norm", 1),
    }
    return {title: (sign * known[name], sign * opened[name]) for title, (name, sign) in signs.items() if name in known}


def write(args: argparse.Namespace, trial: Trial, source: Source) -> None:
    """Make the report, write it, print its table and say where it is."""
    report = make_report(trial, source)
    text = table(report, trial.bounds)
    with output_folder(args.output, force=args.force) as draft:
        (draft / "report.json").write_text(report.model_dump_json(indent=1) + "\n", encoding="utf-8")
        (draft / "table.md").write_text(text + "\n", encoding="utf-8")
    print(text)
    print(f"\nwrote {args.output}: report.json, table.md", flush=True)


def probability(text: str) -> float:
    """A number from 0 to 1, for the argument parser."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} given, expected a softmax probability from 0 to 1")
    return value


def arguments() -> Parser:
    """The command line."""
    parser = Parser(prog="facelt.evaluate", description=__doc__)
    parser.add_argument(
        "--checkpoint", required=True, help="a run of facelt/train.py, a stage's folder, or one of its step folders"
    )
    parser.add_argument("--train", required=True, help="data folder that the run was trained on")
    parser.add_argument("--data", required=True, metavar="TEST", help="data folder of test images of the same classes")
    parser.add_argument("--open", help="data folder of strangers; whatever their labels")
    parser.add_argument("--output", required=True, metavar="REPORT", help="folder of the report to write")
    parser.add_argument("--read", nargs="+", choices=READINGS, default=list(READINGS), help="default: both")
    cut = parser.add_mutually_exclusive_group()
    cut.add_argument("--threshold", type=probability, default=0.1, help="of the highest softmax; default: 0.1")
    cut.add_argument("--thresholds", type=probability, nargs="+", help="several")
    parser.add_argument("--many", type=natural, default=100, metavar="N", help="training images; default: 100")
    parser.add_argument("--few", type=natural, default=20, metavar="N", help="training images; default: 20")
    parser.add_argument(
        "--bounds",
        choices=("inclusive", "strict"),
        default="inclusive",
        help="inclusive: many ≥ N, few ≤ N, as released (default); strict: many > N, few < N, as printed",
    )
    parser.add_argument("--draws", type=positive, default=DRAWS, help=f"of the bootstrap (default: {DRAWS})")
    parser.add_argument("--seed", type=natural, default=0, help="of the bootstrap (default: 0)")
    parser.add_argument("--batch", type=positive, default=64, help="images a step of each rank (default: 64)")
    parser.add_argument("--force", action="store_true", help="replace an existing output")
    parser.add_argument("--local_rank", type=int, default=0, help=argparse.SUPPRESS)
    return parser


def command() -> int:
    """What the console command runs."""
    return group.as_process(main)


if __name__ == "__main__":
    sys.exit(command())
