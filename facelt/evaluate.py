"""Evaluate: closed- and open-set accuracy of a run, by its own classifier and by its memory, or of stored features.

    python -m facelt.evaluate --checkpoint RUN --train TRAIN --data TEST --open OPEN --output REPORT
    python -m facelt.evaluate --checkpoint RUN --train TRAIN --data TEST --thresholds 0.1 0.2 --output REPORT
    deepspeed --module facelt.evaluate --checkpoint RUN --train TRAIN --data TEST --output REPORT    (on all GPUs)
    python -m facelt.evaluate --train-features TRAIN --features TEST --open-features OPEN --output REPORT

TRAIN is the set that the run was trained on: its counts say which classes are many, medium and few, and its images
make the memory. TEST holds other images of the same classes, with the same labels. Every image of OPEN is a stranger,
whatever its label. Feature sets of the three, as facelt.extract writes them, are read by memory without any run.
REPORT is a folder: report.html, report.json, table.md, per_class.csv.
"""

import argparse
import math
import sys

import numpy as np
import torch

from facelt.errors import UserError, one_line
from facelt.features.recognisers import from_checkpoint
from facelt.features.stored import read_features
from facelt.open_world.figures import DRAWS, DRAWS_HELP
from facelt.open_world.readings import from_run
from facelt.open_world.readings.from_training_set import MADE_OF_TRAINING, by_both, by_memory, make_readings
from facelt.open_world.readings.odin import with_odin
from facelt.open_world.readings.reading import Columns, Knobs, Reading, read_set
from facelt.open_world.report import page, table
from facelt.open_world.report.comparing import OtherReport
from facelt.open_world.report.report import make_report
from facelt.open_world.report.schema import Source
from facelt.open_world.report.trial import Answers, Trial
from facelt.open_world.sets import Batches, Given, ImageBatches, RowBatches, Sets
from facelt.open_world.shots import Bounds
from facelt.parallel import group
from facelt.parallel.partition import Partition
from facelt.run_folder import checkpoint
from facelt.training.ending import stopping
from recordio_tools.atomic import check_writable, output_folder
from recordio_tools.cli.arguments import natural, positive
from recordio_tools.command_line import Parser
from recordio_tools.dataset import RecordDataset

READINGS = ("classifier", "memory", "plda", "both", "tau", "logit_adjusted", "ncm", "openmax")
OF_FEATURES = ("memory", "plda", "ncm")  # need no network
KNOBS = {  # option -> the readings that it is of, and its default
    "temperature": (("memory", "both"), None),  # that of the run, or of `Knobs`
    "tau": (("tau", "logit_adjusted"), Knobs.tau),
    "plda_ridge": (("plda",), Knobs.ridge),
    "openmax_tail": (("openmax",), Knobs.tail),
    "openmax_alpha": (("openmax",), Knobs.alpha),
    "odin_temperature": (("odin",), 1000.0),
    "odin_epsilon": (("odin",), 0.0014),
}


def main(argv: list[str] | None = None) -> int:
    """Evaluate as the command line says; 0 done. Leaves with 2 for a user's mistake."""
    args = arguments().parse_args(argv)
    with one_line("facelt.evaluate"):
        settle(args)
        bounds = Bounds(args.many, args.few, args.bounds == "inclusive")
        device = group.join()
        stopping.leave_in_one_line("facelt.evaluate")
        group.on_rank_0(check_writable, args.output, force=args.force, folder=True)
        other = None if args.compare is None else group.together(OtherReport.read, args.compare)
        sets = group.together(open_sets, args)
        sets.check()
        if other is not None:
            other.check(args.read, sets.test.content.labels, sets.counts_K, len(sets.identities_M))
        source, (known, opened) = read_run(args, sets, device) if args.checkpoint else read_rows(args, sets, device)
        trial = Trial(
            labels_N=sets.test.content.labels,
            identities_M=sets.identities_M,
            counts_K=sets.counts_K,
            answers={name: answers(name, known, opened) for name in args.read},
            signals=signals(known, opened),
            bounds=bounds,
            thresholds=sorted(set(args.thresholds or [args.threshold])),
            draws=args.draws,
            seed=args.seed,
        )
        group.on_rank_0(write, args, trial, source, other)
    return 0


def settle(args: argparse.Namespace) -> None:
    """Refuse options that do not fit together; fill in the defaults of those that do."""
    images, features = (args.train, args.data), (args.train_features, args.features)
    if args.checkpoint is not None:
        if any(features) or args.open_features:
            raise UserError("--checkpoint takes images: give --train, --data and --open, or features without a run")
        if None in images:
            raise UserError(f"{'--train' if args.train is None else '--data'} is missing; give both with --checkpoint")
    else:
        if any(images) or args.open:
            raise UserError("--checkpoint is missing; give the run that images are read by, or features of them")
        if None in features:
            missing = "--train-features" if args.train_features is None else "--features"
            raise UserError(f"{missing} is missing; give --checkpoint with images, or --train-features with --features")
        for name in [*(args.read or ()), *(["odin"] if args.odin else [])]:
            if name not in OF_FEATURES:
                option = "--odin" if name == "odin" else f"--read {name}"
                raise UserError(f"{option} needs a network, features have none; give --checkpoint, or leave it out")
    default = ["classifier", "memory"] if args.checkpoint else ["memory"]
    args.read = [name for name in READINGS if name in (args.read or default)]
    used = {*args.read, *(["odin"] if args.odin else [])}
    for name, (readings, value) in KNOBS.items():
        if getattr(args, name) is None and used & set(readings):
            setattr(args, name, value)
        elif getattr(args, name) is not None and not used & set(readings):
            option = f"--{name.replace('_', '-')}"
            asked = "--odin" if readings == ("odin",) else f"--read {' or '.join(readings)}"
            raise UserError(f"{option} {getattr(args, name):g} does nothing without {asked}; leave one out")


def open_sets(args: argparse.Namespace) -> Sets:
    """The sets that the arguments name."""
    run = args.checkpoint is not None
    options = ("train", "data", "open") if run else ("train_features", "features", "open_features")
    paths = {option: path for option in options if (path := getattr(args, option)) is not None}
    content = RecordDataset if run else read_features
    given = [Given(f"--{option.replace('_', '-')}", path, content(path)) for option, path in paths.items()]
    return Sets(given[0], given[1], given[2] if len(given) == 3 else None)


def read_run(args: argparse.Namespace, sets: Sets, device: torch.device) -> tuple[Source, tuple[Columns, Columns]]:
    """What a run says of the test images and of the open ones."""
    folder = checkpoint.find(args.checkpoint)
    state = checkpoint.read_state(folder)
    sets.check_classes(state.num_classes)
    partition = Partition(state.num_classes, group.rank(), group.world_size())
    needed = from_run.needed_embeddings(state.stage == "meta")
    classifier = None
    if args.odin or set(args.read) - set(OF_FEATURES):
        classifier = from_run.by_classifier(folder, partition, device)
    readings: dict[str, Reading] = {}
    if classifier is not None:
        made = {
            "classifier": lambda: classifier,
            "tau": lambda: from_run.tau_normalised(classifier, args.tau),
            "logit_adjusted": lambda: from_run.logit_adjusted(classifier, args.tau, sets.counts_K),
        }
        readings |= {name: make() for name, make in made.items() if name in args.read}
    of_training = [name for name in args.read if name in MADE_OF_TRAINING]
    by_centroids = [name for name in ("memory", "both") if name in args.read]
    if by_centroids:
        args.temperature = args.temperature or from_run.temperature(state)
    if by_centroids and state.stage == "memory":
        of_training = [name for name in of_training if name not in by_centroids]
        centroids_kD = from_run.own_centroids(folder, partition, device)
        if "memory" in by_centroids:
            readings["memory"] = by_memory(centroids_kD, args.temperature, partition)
        if "both" in by_centroids:
            assert classifier is not None
            readings["both"] = by_both(classifier, centroids_kD, args.temperature)
    if of_training:
        recogniser = from_checkpoint(folder, needed if "openmax" in of_training else ("direct",), device)
        batches = ImageBatches(recogniser, args.batch, device)
        readings |= make_readings(of_training, batches, sets.train, classifier, knobs(args))
    recogniser = from_checkpoint(folder, needed, device)
    if args.odin and classifier is not None:
        recogniser = with_odin(recogniser, classifier, args.odin_temperature, args.odin_epsilon)
    columns = read_both(ImageBatches(recogniser, args.batch, device), readings, sets)
    source = {"checkpoint": str(folder), "stage": state.stage, "step": state.step}
    return make_source(args, sets, source), columns


def read_rows(args: argparse.Namespace, sets: Sets, device: torch.device) -> tuple[Source, tuple[Columns, Columns]]:
    """What the means of stored features say of the test features and of the open ones."""
    if "memory" in args.read:
        args.temperature = args.temperature or Knobs.temperature
    batches = RowBatches(args.batch, device)
    readings = make_readings(args.read, batches, sets.train, None, knobs(args))
    source = {"checkpoint": None, "stage": None, "step": None}
    return make_source(args, sets, source), read_both(batches, readings, sets)


def read_both(batches: Batches, readings: dict[str, Reading], sets: Sets) -> tuple[Columns, Columns]:
    """The columns of the test and of the open set (of no rows where there is none)."""
    known = read_set(batches, readings, sets.test, "test images")
    if sets.strangers is None:
        return known, {name: column[:0] for name, column in known.items()}
    return known, read_set(batches, readings, sets.strangers, "open images")


def knobs(args: argparse.Namespace) -> Knobs:
    """What the readings are set to, as far as they are read."""
    given = {"temperature": args.temperature, "tau": args.tau, "ridge": args.plda_ridge}
    given |= {"tail": args.openmax_tail, "alpha": args.openmax_alpha}
    return Knobs(**{name: value for name, value in given.items() if value is not None})


def make_source(args: argparse.Namespace, sets: Sets, run: dict) -> Source:
    """What the report says of where its figures come from."""
    strangers = None if sets.strangers is None else sets.strangers.path
    settings = {name: getattr(args, name) for name in KNOBS}
    return Source(train=sets.train.path, data=sets.test.path, open=strangers, **run, **settings)


def answers(name: str, known: Columns, opened: Columns) -> Answers:
    """What one reading says."""
    parts = (columns[f"{name}.{part}"] for columns in (known, opened) for part in ("class", "probability"))
    return Answers(*parts)


def signals(known: Columns, opened: Columns) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """What could tell strangers, high for known images: a stranger is far from every centroid, so γ counts negative."""
    named = {f"max softmax by {name}": (f"{name}.probability", 1) for name in READINGS if name != "openmax"}
    signs = {
        **named,
        "OpenMax": ("openmax.known", 1),
        "ODIN": ("odin", 1),
        "cosine to the nearest centroid": ("memory.score", 1),
        "likelihood ratio by plda": ("plda.score", 1),
        "reachability γ": ("reachability", -1),
        "‖v_meta‖": ("norm", 1),
    }
    return {title: (sign * known[name], sign * opened[name]) for title, (name, sign) in signs.items() if name in known}


def write(args: argparse.Namespace, trial: Trial, source: Source, other: OtherReport | None) -> None:
    """Make the report, write it, print its table and say where it is."""
    report = make_report(trial, source, other)
    with output_folder(args.output, force=args.force) as draft:
        page.write(draft, report, trial, other)
    print(table.to_markdown(report, trial.bounds))
    print(f"\nwrote {args.output}: {', '.join(page.FILES)}", flush=True)


def probability(text: str) -> float:
    """A number from 0 to 1, for the argument parser."""
    value = number(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} given, expected a softmax probability from 0 to 1")
    return value


def above_zero(text: str) -> float:
    """A finite number above 0, for the argument parser."""
    value = number(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} given, expected a number above 0")
    return value


def from_zero(text: str) -> float:
    """A finite number from 0, for the argument parser."""
    value = number(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} given, expected a number from 0")
    return value


def number(text: str) -> float:
    """A number; NaN where the text is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def arguments() -> Parser:
    """The command line."""
    parser = Parser(prog="facelt.evaluate", description=__doc__)
    add_sources(parser)
    parser.add_argument("--output", required=True, metavar="REPORT", help="folder of the report to write")
    parser.add_argument("--compare", metavar="REPORT", help="another report of the same test: gains in F1 over it")
    add_readings(parser)
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
    parser.add_argument("--draws", type=positive, default=DRAWS, help=DRAWS_HELP)
    parser.add_argument("--seed", type=natural, default=0, help="of the bootstrap (default: 0)")
    parser.add_argument("--batch", type=positive, default=64, help="images a step of each rank (default: 64)")
    parser.add_argument("--force", action="store_true", help="replace an existing output")
    parser.add_argument("--local_rank", type=int, default=0, help=argparse.SUPPRESS)
    return parser


def add_sources(parser: argparse.ArgumentParser) -> None:
    """What is evaluated: a run on images, or features."""
    parser.add_argument("--checkpoint", help="a run of facelt/train.py, a stage of it, RUN/best, or a step folder")
    parser.add_argument("--train", help="data folder that the run was trained on")
    parser.add_argument("--data", metavar="TEST", help="data folder of test images of the same classes")
    parser.add_argument("--open", help="data folder of strangers; whatever their labels")
    parser.add_argument("--train-features", metavar="TRAIN", help="without a run: feature set of the training images")
    parser.add_argument("--features", metavar="TEST", help="feature set of test images of the same classes")
    parser.add_argument("--open-features", metavar="OPEN", help="feature set of strangers")


def add_readings(parser: argparse.ArgumentParser) -> None:
    """How it is read."""
    parser.add_argument(
        "--read", nargs="+", choices=READINGS, help="default: classifier and memory; of features, memory"
    )
    parser.add_argument("--odin", action="store_true", help="strangers by ODIN too: one pass more, and one back")
    parser.add_argument(
        "--temperature", type=above_zero, metavar="T", help="of softmax(T·cos), memory and both (default: 16)"
    )
    parser.add_argument("--tau", type=from_zero, help="of readings tau and logit_adjusted (default: 1)")
    parser.add_argument(
        "--plda-ridge",
        type=from_zero,
        metavar="R",
        help="of reading plda: added to the variance within classes, times its mean (default: 1)",
    )
    parser.add_argument(
        "--openmax-tail", type=positive, metavar="N", help="distances of a class that are fitted (default: 20)"
    )
    parser.add_argument("--openmax-alpha", type=positive, metavar="N", help="classes that are revised (default: 10)")
    parser.add_argument("--odin-temperature", type=above_zero, metavar="T", help="default: 1000")
    parser.add_argument(
        "--odin-epsilon", type=from_zero, metavar="E", help="step of pixels from 0 to 1 (default: 0.0014)"
    )


def command() -> int:
    """What the console command runs."""
    return group.as_process(main)


if __name__ == "__main__":
    sys.exit(command())
