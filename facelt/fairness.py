"""Fairness: accuracy by sensitive attribute, and the largest gap at equal numbers of training images.

    python -m facelt.fairness RUN --train TRAIN --data TEST --attributes people.tsv --output FAIRNESS

TRAIN is the set that the run was trained on, TEST holds other images of its people. people.tsv has a line a person:
name <tab> group, or a heading such as identity <tab> sex <tab> age and a value of each; `recordio_tools synth` writes
one. FAIRNESS is a folder: fairness.json, table.md, fairness.png.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from facelt.errors import one_line
from facelt.figures.answers import answers
from facelt.figures.fairness import ByClass, Fairness, draw, measure, table
from facelt.figures.opened import OpenedRun
from facelt.open_world.figures import DRAWS, DRAWS_HELP
from facelt.open_world.sets import Given, Sets
from facelt.parallel import group
from recordio_tools.atomic import check_writable, output_folder
from recordio_tools.cli.arguments import natural, positive
from recordio_tools.command_line import Parser
from recordio_tools.dataset import RecordDataset
from recordio_tools.sources.attributes import check_cover, read_attributes


def main(argv: list[str] | None = None) -> int:
    """Measure as the command line says; 0 done. Leaves with 2 for a user's mistake."""
    args = arguments().parse_args(argv)
    with one_line("facelt.fairness"):
        check_writable(args.output, force=args.force, folder=True)
        attributes = read_attributes(args.attributes)
        run = OpenedRun.of(args.run, group.join())
        train, test = RecordDataset(args.train), RecordDataset(args.data)
        sets = Sets(Given("--train", args.train, train), Given("--data", args.data, test), None)
        sets.check_classes(run.state.num_classes)
        sets.check()
        names = test.names or [str(k) for k in range(test.num_classes)]
        tested = [names[k] for k in np.unique(test.labels)]
        if said := check_cover(f"--attributes {args.attributes}", attributes, tested, partial=args.partial):
            group.say(said)
        found = answers(run, test, args.batch, "test images")
        counts_K = np.bincount(train.labels, minlength=train.num_classes)
        by = ByClass.of(test.labels, found.classes_N, counts_K, names)
        fairness = Fairness(
            checkpoint=str(run.folder),
            train=args.train,
            data=args.data,
            attributes_file=str(args.attributes),
            classes=len(by.counts_C),
            draws=args.draws,
            seed=args.seed,
            attributes=measure(by, attributes, args.draws, args.seed),
        )
        text = table(fairness)
        with output_folder(args.output, force=args.force) as draft:
            (draft / "fairness.json").write_text(fairness.model_dump_json(indent=1) + "\n", encoding="utf-8")
            (draft / "table.md").write_text(text + "\n", encoding="utf-8")
            draw(fairness).savefig(draft / "fairness.png", dpi=160)
        print(f"{text}\n\nwrote {args.output}: fairness.json, table.md, fairness.png")
    return 0


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(prog="facelt.fairness", description=__doc__)
    parser.add_argument("run", metavar="RUN", help="a run of facelt/train.py, a stage's folder, or a step folder")
    parser.add_argument("--train", required=True, help="data folder that the run was trained on")
    parser.add_argument("--data", required=True, metavar="TEST", help="data folder of test images of the same classes")
    parser.add_argument(
        "--attributes", type=Path, required=True, metavar="TSV", help="attributes of people, a line each"
    )
    parser.add_argument("--partial", action="store_true", help="people whom the attributes leave out are in no group")
    parser.add_argument("--output", required=True, metavar="FAIRNESS", help="folder to write")
    parser.add_argument("--draws", type=positive, default=DRAWS, help=DRAWS_HELP)
    parser.add_argument("--seed", type=natural, default=0, help="of the bootstrap (default: 0)")
    parser.add_argument("--batch", type=positive, default=64, help="images at a time (default: 64)")
    parser.add_argument("--force", action="store_true", help="replace an existing output")
    return parser


def command() -> int:
    """What the console command runs."""
    return group.as_process(main)


if __name__ == "__main__":
    sys.exit(command())
