"""Arguments that several commands share."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple


class Command(NamedTuple):
    """A subcommand: one line of help, an example, its arguments, and the function that runs it (None is status 0)."""

    help: str
    example: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int | None]


def add_source(parser: argparse.ArgumentParser) -> None:
    """`SRC`."""
    parser.add_argument(
        "source", metavar="SRC", type=Path, help="data folder (train.rec, train.idx, property) or .rec file"
    )


def add_output(parser: argparse.ArgumentParser, metavar: str = "OUT", what: str = "new data folder") -> None:
    """`OUT` and `--force`."""
    parser.add_argument("out", metavar=metavar, type=Path, help=what)
    parser.add_argument("--force", action="store_true", help="replace it when it exists")


def add_json(parser: argparse.ArgumentParser) -> None:
    """`--json`."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def add_seed(parser: argparse.ArgumentParser, what: str) -> None:
    """`--seed`."""
    parser.add_argument("--seed", type=natural, default=0, metavar="N", help=f"draws {what} (default %(default)s)")


def add_size(parser: argparse.ArgumentParser) -> None:
    """`--size`."""
    parser.add_argument("--size", type=positive, default=112, metavar="PIXELS", help="side of the images (default 112)")


def natural(text: str) -> int:
    """A whole number from 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} given, expected a whole number from 0")
    return int(text)


def positive(text: str) -> int:
    """A whole number from 1."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} given, expected a whole number from 1")
    return int(text)


def identity_range(text: str) -> range:
    """`START:STOP`, half-open."""
    start, _, stop = text.partition(":")
    if not (start.isdecimal() and stop.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} given, expected START:STOP, for example 0:100")
    return range(int(start), int(stop))


def say_written(path: Path | str, count: int, unit: str = "images") -> None:
    """Say what was written, on stderr: stdout belongs to figures."""
    print(f"{path}: {count:,} {unit}", file=sys.stderr)
