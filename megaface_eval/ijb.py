"""Evaluate features on IJB-B and IJB-C, 1:1 and 1:N: `python -m megaface_eval.ijb --help`."""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from megaface_eval.errors import InputError, answer
from megaface_eval.features.feature_set import FeatureSet, load_features, same_recogniser
from megaface_eval.formats import ijb as lists
from megaface_eval.protocols import templates
from megaface_eval.protocols.identification import TIES
from megaface_eval.protocols.templates import Faces, People, PoolingRule, TemplatePairs
from megaface_eval.report import ijb as report
from megaface_eval.report import sheet, tables
from megaface_eval.report.ijb import FAR_RULES, Measured
from recordio_tools.command_line import Parser

TASKS = ("1:1", "1:N")
EXAMPLE = """
examples:
  python -m megaface_eval.ijb IJBC/meta --features ijbc --mirrored ijbc_mirrored --output ijbc_report
  python -m megaface_eval.ijb IJBB --method plain=f1,m1 --method meta=f2,m2 --far-rule nearest --detector ignore

A feature set has a row for each line of …_face_tid_mid.txt, in its order; labels are not used.
"""


@dataclass(frozen=True)
class Task:
    """What is compared. None: pairs without 1:1, galleries and probes without 1:N, the detector's scores if ignored."""

    name: str
    faces: Faces
    scores: np.ndarray | None
    pairs: TemplatePairs | None
    galleries: tuple[People, People] | None
    probes: People | None


def build_parser() -> argparse.ArgumentParser:
    """The parser of all options."""
    parser = Parser(prog="python -m megaface_eval.ijb", description=str(__doc__).split(":")[0], epilog=EXAMPLE)
    add: Callable = parser.add_argument
    add("lists", type=Path, help="folder with the lists of IJB-B or IJB-C (ijbc_face_tid_mid.txt …), or with meta/")
    add("--features", type=Path, help="features of the images, in the order of …_face_tid_mid.txt")
    add("--mirrored", type=Path, help="features of their mirror images")
    add(
        "--method",
        metavar="NAME=FEATURES[,MIRRORED]",
        action="append",
        default=[],
        help="a method to compare; give it once for each",
    )
    add("--tasks", nargs="+", choices=TASKS, default=list(TASKS), help="what is measured (both)")
    add(
        "--flip",
        choices=templates.FLIPS,
        help="mirror images' features are added, or appended (add where --mirrored is given, else off)",
    )
    add(
        "--norm",
        choices=templates.NORMS,
        default="weigh",
        help="images weigh by the length of their features, or all alike",
    )
    add(
        "--detector",
        choices=templates.DETECTORS,
        default="weigh",
        help="images weigh by their detector's score in …_name_5pts_score.txt, or not",
    )
    add(
        "--far-rule",
        choices=FAR_RULES,
        default="strict",
        help="TAR at the lowest threshold within the FAR, or at the ROC's corner nearest to it, as insightface's",
    )
    add("--ties", choices=TIES, default="devkit", help="devkit: only a higher score beats the mate; pessimistic: equal")
    add("--seed", type=int, default=0, help="of the intervals' resamples (0)")
    sheet.add_output(parser)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the command; 0 done, 2 the user's mistake (one line on stderr), 130 interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = build_parser().parse_args(arguments)
    return answer(lambda: report_on(options, sheet.command_of("megaface_eval.ijb", arguments)))


def report_on(options: argparse.Namespace, command: str) -> None:
    """Measure every method and write the report."""
    output = sheet.output_of(options)
    tables.check_output(output)
    if options.seed < 0:
        raise InputError(f"--seed {options.seed}: expected a whole number from 0 up")
    methods = methods_of(options)
    flip = options.flip or ("off" if methods[0][2] is None else "add")
    rule = PoolingRule(flip=flip, norm=options.norm, detector=options.detector)
    check_methods(methods, flip)
    task = read_task(options.lists, options.tasks, rule)
    measured = [measure(method, task, rule, options.ties == "pessimistic") for method in methods]
    filled = sheet_of(task, measured, options, rule, command)
    sheet.write_sheet(filled, figures_of(filled), output)
    sheet.print_sheet(filled, output)


def methods_of(options: argparse.Namespace) -> list[tuple[str, FeatureSet, FeatureSet | None]]:
    """Name, features and mirror images' features of every method."""
    if (options.features is None) == (not options.method) or (options.mirrored is not None and options.method):
        raise InputError("give --features (and --mirrored), or --method NAME=FEATURES[,MIRRORED] for each method")
    named = [parse_method(text) for text in options.method] or [("", options.features, options.mirrored)]
    methods = []
    for name, path, mirrored in named:
        features = load_features(path)
        name = " ".join((name or str(features.meta.get("method") or Path(path).name)).split())
        methods.append((name, features, None if mirrored is None else load_features(mirrored)))
    names = [name for name, *_ in methods]
    if len(set(names)) < len(names):
        raise InputError(f"methods {', '.join(names)}: a name is used twice; expected one name a method")
    return methods


def parse_method(text: str) -> tuple[str, Path, Path | None]:
    """Name, features and mirror images' features from NAME=FEATURES[,MIRRORED]."""
    name, equals, sets = text.partition("=")
    parts = sets.split(",")
    if not (name and equals and len(parts) <= 2 and all(parts)):
        raise InputError(f"--method {text!r}: expected NAME=FEATURES or NAME=FEATURES,MIRRORED")
    return name, Path(parts[0]), Path(parts[1]) if len(parts) == 2 else None


def check_methods(methods: list[tuple[str, FeatureSet, FeatureSet | None]], flip: str) -> None:
    """Raise InputError unless mirror images' features are there where they are needed, and of one recogniser."""
    for name, features, mirrored in methods:
        if (flip != "off") and mirrored is None:
            raise InputError(f"{name}: --flip {flip} needs features of the mirror images; give them, or --flip off")
        if mirrored is not None:
            same_recogniser(features, mirrored)


def read_task(folder: Path, tasks: list[str], rule: PoolingRule) -> Task:
    """Read the lists that the tasks need."""
    place, name = lists.set_in(folder)
    faces = lists.read_faces(place, name)
    scores = lists.read_scores(place, name, faces.images) if rule.detector == "weigh" else None
    pairs = lists.read_pairs(place, name, faces) if "1:1" in tasks else None
    if "1:N" not in tasks:
        return Task(name, faces, scores, pairs, None, None)
    one, two = (lists.read_people(place, name, f"gallery_{which}", faces) for which in lists.GALLERIES[name])
    return Task(name, faces, scores, pairs, (one, two), lists.read_people(place, name, "probe_mixed", faces))


def measure(
    method: tuple[str, FeatureSet, FeatureSet | None], task: Task, rule: PoolingRule, pessimistic: bool
) -> Measured:
    """Pool one method's features and compare its templates."""
    name, features, mirrored = method
    pooled = templates.pool(
        features, task.faces, rule, mirrored=mirrored if rule.flip != "off" else None, scores=task.scores
    )
    pairs = searched = None
    if task.pairs is not None:
        scores = templates.pair_scores(pooled, task.pairs)
        pairs = np.sort(scores[task.pairs.same]), np.sort(scores[~task.pairs.same])[::-1]
    if task.galleries is not None and task.probes is not None:
        searched = templates.search_galleries(pooled, task.galleries, task.probes, pessimistic=pessimistic)
    return Measured(name, pairs, searched)


def sheet_of(
    task: Task, measured: list[Measured], options: argparse.Namespace, rule: PoolingRule, command: str
) -> sheet.Sheet:
    """The report's contents."""
    held, names = [], lists.GALLERIES[task.name]
    if task.pairs is not None:
        held.append(report.verification_table(measured, options.far_rule))
    if task.galleries is not None:
        held.append(report.identification_table(measured, names, options.seed))
    pairs = 0 if task.pairs is None else len(task.pairs.same)
    counts = {"images": len(task.faces.images), "templates": len(task.faces.ids), "pairs": pairs}
    settings = {"tasks": options.tasks, "flip": rule.flip, "norm": rule.norm, "detector": rule.detector}
    settings |= {"far_rule": options.far_rule, "ties": options.ties, "seed": options.seed, **counts}
    told = ", ".join(f"{number:,} {what}" for what, number in counts.items() if number)
    return sheet.Sheet(
        format=1, kind=task.name, title=f"IJB-{task.name[-1].upper()}: {told}",
        made=sheet.made_now(), command=command, versions=sheet.versions(),
        settings=settings, tables=held, curves=report.curves_of(measured, names),
        conventions=report.conventions(
            rule,
            options.far_rule if task.pairs is not None else None,
            options.ties == "pessimistic",
            names if task.galleries is not None else None,
        ),
    )  # fmt: skip


def figures_of(filled: sheet.Sheet) -> dict:
    """The curves drawn."""
    drawn = {}
    for shows, labels, logarithmic in (
        ("ROC", ("FAR, %", "TAR, %"), (True, False)),
        ("DET", ("FAR, %", "FRR, %"), (True, True)),
        ("TPIR", ("FPIR, %", "TPIR at rank 1, %"), (True, False)),
    ):
        curves = [curve for curve in filled.curves if curve.shows == shows]
        if curves:
            drawn[shows.lower()] = sheet.draw_curves(curves, labels, logarithmic)
    return drawn


if __name__ == "__main__":
    sys.exit(main())
