"""Identify people among each other, without distractors: `python -m megaface_eval.closed_set --help`."""

import argparse
import sys

import numpy as np

from megaface_eval.errors import InputError, answer
from megaface_eval.features.feature_set import FeatureSet, load_features
from megaface_eval.protocols import closed_set, metrics
from megaface_eval.protocols.closed_set import ClosedSetRule, Ranked
from megaface_eval.protocols.identification import TIES
from megaface_eval.report import sheet, tables
from megaface_eval.report.sheet import Entry, SheetColumn, SheetRow, SheetTable
from recordio_tools.command_line import Parser

EXAMPLE = """
example:
  python -m megaface_eval.closed_set --method plain=f1 --method meta=f2 --enrol 1 5 --output closed
"""
SCORE = {
    "best": "A person scores as the best of the enrolled images does.",
    "mean": "A person scores as the normalised mean of the enrolled images does.",
}


def build_parser() -> argparse.ArgumentParser:
    """The parser of all options."""
    parser = Parser(prog="python -m megaface_eval.closed_set", description=str(__doc__).split(":")[0], epilog=EXAMPLE)
    add = parser.add_argument
    add(
        "--method",
        metavar="NAME=FEATURES",
        action="append",
        required=True,
        help="features labelled by identity; give it once for each method",
    )
    add("--enrol", type=int, nargs="+", default=[1], metavar="N", help="images of a person that are enrolled (1)")
    add("--template", choices=closed_set.TEMPLATES, default="best", help="how a person's images score (best)")
    add("--ties", choices=TIES, default="devkit", help="devkit: only a higher score beats the own person's")
    add("--seed", type=int, default=0, help="of the choice of enrolled images (0)")
    sheet.add_output(parser)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the command; 0 done, 2 the user's mistake (one line on stderr), 130 interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = build_parser().parse_args(arguments)
    return answer(lambda: report_on(options, sheet.command_of("megaface_eval.closed_set", arguments)))


def report_on(options: argparse.Namespace, command: str) -> None:
    """Search, and write the report."""
    output = sheet.output_of(options)
    tables.check_output(output)
    if options.seed < 0 or min(options.enrol) < 1 or len(set(options.enrol)) < len(options.enrol):
        raise InputError(
            f"--enrol {' '.join(map(str, options.enrol))}, --seed {options.seed}: expected different numbers of images "
            "from 1 up, and a seed from 0 up"
        )
    found: dict[str, Ranked] = {}
    methods = methods_of(options.method)
    for name, features in methods.items():
        unit = features.unit(0, len(features))
        for enrol in options.enrol:
            rule = ClosedSetRule(
                enrol=enrol, template=options.template, pessimistic=options.ties == "pessimistic", seed=options.seed
            )
            found[f"{name}, {enrol} enrolled"] = closed_set.search_people(unit, features.labels, rule)
    curves = [sheet.curve_of("CMC", name, *cmc_of(one)) for name, one in found.items()]
    settings = {key: getattr(options, key) for key in ("enrol", "template", "ties", "seed")}
    images, people = len(next(iter(methods.values()))), next(iter(found.values())).people
    filled = sheet.Sheet(
        format=1, kind="closed-set", title=f"{people:,} people among each other: {images:,} images",
        made=sheet.made_now(), command=command, versions=sheet.versions(), settings=settings,
        tables=[rank_table(found)], curves=curves, conventions=conventions(options),
    )  # fmt: skip
    sheet.write_sheet(filled, {"cmc": sheet.draw_curves(curves, ("rank", "found, %"), (True, False))}, output)
    sheet.print_sheet(filled, output)


def methods_of(given: list[str]) -> dict[str, FeatureSet]:
    """The features of every method by its name; all of the same images."""
    methods: dict[str, FeatureSet] = {}
    for text in given:
        name, _, path = text.partition("=")
        if not (name and path) or name in methods:
            raise InputError(f"--method {text!r}: expected NAME=FEATURES, and every name once")
        methods[name] = load_features(path)
    first = next(iter(methods.values()))
    for features in methods.values():
        if not np.array_equal(features.labels, first.labels):
            raise InputError(f"{features.where}: labels are not those of {first.where}; expected the same images")
    return methods


def rank_table(found: dict[str, Ranked]) -> SheetTable:
    """Rank-k with intervals over people, and how many searched and were searched."""
    columns = [SheetColumn(title=f"rank-{k}") for k in closed_set.RANKS]
    columns += [SheetColumn(title=title, unit="count") for title in ("probes", "people")]
    rows = []
    for name, one in found.items():
        entries = []
        everyone = np.ones(len(one.rank), bool)
        for k in closed_set.RANKS:
            tallies = metrics.tally(one.rank < k, np.arange(len(one.rank)), one.label, everyone)
            low, high = metrics.interval(tallies)
            entries.append(Entry(value=tallies.rate, low=low, high=high))
        entries += [Entry(value=float(count)) for count in (len(one.rank), one.people)]
        rows.append(SheetRow(name=name, entries=entries))
    return SheetTable(title="Closed set, %", columns=columns, rows=rows)


def cmc_of(one: Ranked) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
    """The cumulative match (ranks from 1, to the number of people) and no thresholds."""
    ranks, recall = metrics.cmc(one.rank)
    ranks, recall = np.append(ranks + 1, one.people), np.append(recall, recall[-1])
    return (ranks, recall), np.full(len(ranks), np.nan)


def conventions(options: argparse.Namespace) -> list[str]:
    """The rules in force, in a line each."""
    return [
        f"Closed set: each person's first images in an order drawn with seed {options.seed} are enrolled (all, where "
        "there are no more than are to be), the rest search; nobody else is in the gallery.",
        SCORE[options.template] + " Score: cosine in float64. Rank: the number of other people who score above the "
        "own person" + (", or equal." if options.ties == "pessimistic" else "."),
        "Intervals: 95 %, over people.",
    ]


if __name__ == "__main__":
    sys.exit(main())
