"""Ten-fold verification on packs such as lfw.bin, several in one table: `python -m megaface_eval.packs --help`."""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from megaface_eval.errors import InputError, answer
from megaface_eval.formats import bcolz, packs
from megaface_eval.formats.packs import FAR, OpenPack, PackScores, open_pack, write_images
from megaface_eval.report import sheet, tables
from megaface_eval.report.packs import CONVENTIONS, packs_table
from recordio_tools.command_line import Parser

EXAMPLE = """
examples:
  python -m megaface_eval.packs lfw.bin --images lfw_images
  python -m megaface_eval.packs lfw.bin --features lfw_features --mirrored lfw_mirrored
  python -m megaface_eval.packs lfw.bin cfp_fp.bin agedb_30 --features lfw cfp_fp agedb_30 --output packs_report

A pack is a .bin of insightface, or a bcolz folder (agedb_30/ with agedb_30_list.npy beside it).
"""


def build_parser() -> argparse.ArgumentParser:
    """The parser of all options."""
    parser = Parser(prog="python -m megaface_eval.packs", description=str(__doc__).split(":")[0], epilog=EXAMPLE)
    add = parser.add_argument
    add("packs", type=Path, nargs="+", help="verification packs such as lfw.bin, cfp_fp.bin, agedb_30.bin")
    add("--features", type=Path, nargs="+", help="a feature set for each pack: of its images in order")
    add("--mirrored", type=Path, nargs="+", help="one for each pack of the mirror images, to be added")
    add(
        "--images",
        type=Path,
        help="write the images into this new folder, numbered in order; of several, a folder each",
    )
    add("--channels", choices=("bgr", "rgb"), default="bgr", help="how a bcolz pack's pixels are stored (bgr)")
    add("--far", type=float, default=FAR, help="of VAL at FAR (0.001)")
    add("--output", metavar="REPORT", type=Path, help="also write a report into this folder")
    add("--force", action="store_true", help="replace an existing folder of images or report")
    add("--json", action="store_true", help="print the result as JSON")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Score packs, or take their images out; 0 done, 2 the user's mistake."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = build_parser().parse_args(arguments)
    return answer(lambda: work(options, sheet.command_of("megaface_eval.packs", arguments)))


def work(options: argparse.Namespace, command: str) -> None:
    """All that was asked for."""
    check(options)
    opened = [open_pack(path) for path in options.packs]
    names = [pack.name for pack in opened]
    if len(set(names)) < len(names):
        raise InputError(f"packs {', '.join(names)}: a name is used twice; expected one name a pack")
    if options.images is not None:
        take_images(opened, options)
    if options.features is None:
        return
    mirrored = options.mirrored or [None] * len(opened)
    scores = {
        pack.name: (len(pack.same), packs.scores_of(pack, features, other, options.far))
        for pack, features, other in zip(opened, options.features, mirrored, strict=True)
    }
    report(scores, options, command)


def check(options: argparse.Namespace) -> None:
    """Raise InputError for what argparse cannot see."""
    if options.features is None and options.images is None:
        raise InputError("give --features, a feature set for each pack, to score them, or --images to take images out")
    for name in ("features", "mirrored"):
        given = getattr(options, name)
        if given is not None and len(given) != len(options.packs):
            raise InputError(
                f"{len(given)} --{name} for {len(options.packs)} packs; expected one for each, in their order"
            )
    for name in ("mirrored", "output"):
        if getattr(options, name) is not None and options.features is None:
            raise InputError(f"--{name} without --features; give a feature set for each pack")
    if not 0 < options.far < 1:
        raise InputError(f"--far {options.far}: expected a rate between 0 and 1")
    if options.output is not None:
        tables.check_output(sheet.output_of(options))


def take_images(opened: list[OpenPack], options: argparse.Namespace) -> None:
    """Write the packs' images."""
    for pack, path in zip(opened, options.packs, strict=True):
        folder = options.images if len(opened) == 1 else options.images / pack.name
        images = bcolz.read_images(path, options.channels) if path.is_dir() else pack.images()
        print(f"{write_images(images, folder, force=options.force)} images in {folder}")


def report(scores: dict[str, tuple[int, dict[str, PackScores]]], options: argparse.Namespace, command: str) -> None:
    """The scores on stdout, as a table or as JSON, and as a report where one is asked for."""
    table = packs_table(scores, options.far)
    if options.output is not None:
        filled = sheet.Sheet(
            format=1, kind="packs", title=f"{len(scores)} verification packs", made=sheet.made_now(), command=command,
            versions=sheet.versions(), settings={"far": options.far}, tables=[table], curves=[],
            conventions=list(CONVENTIONS),
        )  # fmt: skip
        sheet.write_sheet(filled, {}, sheet.output_of(options))
    if options.json:
        print(json.dumps({name: {f: asdict(s) for f, s in flips.items()} for name, (_, flips) in scores.items()}))
        return
    print(tables.markdown_table(sheet.table_rows(table)))
    if options.output is not None:
        print(f"report: {options.output / 'report.html'}")


if __name__ == "__main__":
    sys.exit(main())
