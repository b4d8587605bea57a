"""Explain: what a run sees in an image, as one HTML page that holds all it shows.

    python -m facelt.explain RUN --image FACE.jpg --data TRAIN --output PAGE.html

TRAIN is the set that the run was trained on: its faces stand beside the image, and γ is compared with theirs. The image
is an aligned face crop like those of TRAIN; it is resized to what the network takes.
"""

import argparse
import sys
from pathlib import Path

from facelt.errors import one_line
from facelt.figures.explanation import explain
from facelt.figures.opened import OpenedRun, PictureFiles, check_training_set, picture
from facelt.figures.page import page
from facelt.parallel import group
from recordio_tools.atomic import check_writable, output_file
from recordio_tools.cli.arguments import positive
from recordio_tools.command_line import Parser
from recordio_tools.dataset import RecordDataset


def main(argv: list[str] | None = None) -> int:
    """Explain as the command line says; 0 done. Leaves with 2 for a user's mistake."""
    args = arguments().parse_args(argv)
    with one_line("facelt.explain"):
        check_writable(args.output, force=args.force, folder=False)
        image = PictureFiles.of([args.image])
        run = OpenedRun.of(args.run, group.join())
        train = RecordDataset(args.data)
        check_training_set(run, train, args.data)
        found = explain(run, image, train, args.top)
        html = page(run, args.image.name, picture(image.jpeg(0)), found, train)
        with output_file(args.output, force=args.force) as partial:
            partial.write_text(html, encoding="utf-8")
        print(f"wrote {args.output}")
    return 0


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(prog="facelt.explain", description=__doc__)
    parser.add_argument("run", metavar="RUN", help="a run of facelt/train.py, a stage's folder, or a step folder")
    parser.add_argument("--image", type=Path, required=True, metavar="FILE", help="a picture of an aligned face")
    parser.add_argument("--data", required=True, metavar="TRAIN", help="data folder that the run was trained on")
    parser.add_argument("--top", type=positive, default=5, metavar="N", help="identities beside it (default: 5)")
    parser.add_argument("--output", type=Path, required=True, metavar="PAGE", help="the page to write")
    parser.add_argument("--force", action="store_true", help="replace an existing output")
    return parser


def command() -> int:
    """What the console command runs."""
    return group.as_process(main)


if __name__ == "__main__":
    sys.exit(command())
