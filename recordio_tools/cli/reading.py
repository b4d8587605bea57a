"""Commands that look at a set or mend it: what each takes and prints. The work is done in the modules they call."""

import argparse
import json
import sys
from pathlib import Path

from recordio_tools.check.reindex import write_index
from recordio_tools.check.repair import repair
from recordio_tools.check.verify import describe_faults, verify
from recordio_tools.cli.arguments import Command, add_json, add_output, add_source, positive, say_written
from recordio_tools.dataset import RecordDataset
from recordio_tools.look.inspection import describe_figures, inspect
from recordio_tools.look.sheet import write_sheet


def _inspect_arguments(parser: argparse.ArgumentParser) -> None:
    add_source(parser)
    add_json(parser)


def _inspect(args: argparse.Namespace) -> None:
    figures = inspect(RecordDataset(args.source))
    print(json.dumps(figures) if args.json else describe_figures(figures))


def _verify_arguments(parser: argparse.ArgumentParser) -> None:
    add_source(parser)
    parser.add_argument("--decode", action="store_true", help="decode every image as well, on all cores")
    parser.add_argument(
        "--unreadable",
        metavar="FILE",
        type=Path,
        help="leave out what a run could not decode either: RUN/quarantine.jsonl",
    )
    parser.add_argument("--repair", metavar="OUT", type=Path, help="write a clean set from all that is whole")
    parser.add_argument("--force", action="store_true", help="replace OUT when it exists")
    add_json(parser)


def _verify(args: argparse.Namespace) -> int:
    survey = verify(args.source, decode=args.decode, unreadable=args.unreadable)
    if args.json:
        faults = [fault._asdict() for fault in survey.faults]
        lost = sum(end - start for start, end, _ in survey.left_out)
        print(json.dumps({"images": len(survey.images), "lost_bytes": lost, "faults": faults}))
    else:
        print(describe_faults(survey))
    if args.repair is not None:
        say_written(args.repair, repair(survey, args.repair, force=args.force))
    return 1 if survey.faults else 0


def _index_arguments(parser: argparse.ArgumentParser) -> None:
    add_source(parser)
    parser.add_argument("--out", metavar="FILE", type=Path, help="index to write (default: beside the .rec)")
    parser.add_argument("--images-only", action="store_true", help="name the images alone, for readers such as DALI's")
    parser.add_argument("--force", action="store_true", help="replace it when it exists")


def _index(args: argparse.Namespace) -> None:
    done = write_index(args.source, args.out, images_only=args.images_only, force=args.force)
    say_written(done["path"], done["records"], "records")
    if done["lost_bytes"]:
        print(f"{done['lost_bytes']:,} bytes belong to no whole record; see verify", file=sys.stderr)


def _stats_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sources", metavar="SRC", type=Path, nargs="+", help="data folders to compare")
    parser.add_argument("--out", metavar="FILE.png", type=Path, help="figure to write")
    parser.add_argument("--force", action="store_true", help="replace it when it exists")
    add_json(parser)


def _stats(args: argparse.Namespace) -> None:
    from recordio_tools.look import plots  # matplotlib is loaded only where it is used

    tails = [plots.tail(RecordDataset(path)) for path in args.sources]
    if args.out is not None:
        plots.write_tails(tails, args.out, force=args.force)
        print(f"{args.out}: written", file=sys.stderr)
    if args.json:
        print(json.dumps(tails))
        return
    for figures in tails:
        shots = "{many_shot:,} many, {medium_shot:,} medium, {few_shot:,} few".format(**figures)
        print(f"{figures['path']}: {figures['images']:,} images of {figures['identities']:,} identities: {shots}")


def _sheet_arguments(parser: argparse.ArgumentParser) -> None:
    add_source(parser)
    add_output(parser, "OUT.png", "picture to write")
    parser.add_argument("--rows", type=positive, default=8, metavar="N", help="identities (default %(default)s)")
    parser.add_argument(
        "--columns", type=positive, default=10, metavar="N", help="images of each (default %(default)s)"
    )
    parser.add_argument(
        "--cell", type=positive, default=112, metavar="PIXELS", help="size of one (default %(default)s)"
    )


def _sheet(args: argparse.Namespace) -> None:
    dataset = RecordDataset(args.source)
    write_sheet(dataset, args.out, rows=args.rows, columns=args.columns, cell=args.cell, force=args.force)


COMMANDS = {
    "inspect": Command("what a set holds", "inspect data/ms1m --json", _inspect_arguments, _inspect),
    "stats": Command(
        "the long tail as figure and JSON", "stats data/ms1m data/ms1m-lt --out tail.png", _stats_arguments, _stats
    ),
    "sheet": Command("contact sheet of a set", "sheet data/ms1m faces.png --rows 12", _sheet_arguments, _sheet),
    "verify": Command(
        "find every fault, and mend what can be; exit status 1 when there are any",
        "verify data/ms1m --decode --repair data/ms1m-clean",
        _verify_arguments,
        _verify,
    ),
    "index": Command("rebuild a lost index", "index data/ms1m --images-only", _index_arguments, _index),
}
