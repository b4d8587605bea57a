"""What the command lines of all packages have in common: one kind of parser, and mistakes answered in one line."""

import argparse
import io
import sys
from typing import NoReturn

INTERRUPTED = 130  # what a shell reports for Ctrl-C


class Parser(argparse.ArgumentParser):
    """Keeps the layout of its texts, takes no abbreviations, answers a mistake in one line and exit status 2.

    From the first parser on, stdout takes whatever characters there are.
    """

    def __init__(self, *args, **options) -> None:
        print_anything()
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(*args, **{"allow_abbrev": False, **options})

    def error(self, message: str) -> NoReturn:
        complain(f"{message}; see {self.prog} --help")
        raise SystemExit(2)


def print_anything() -> None:
    """Let stdout show as escapes what its encoding has no characters for: not every locale has ≥, ± or a name's ø."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def complain(mistake: object, command: str = "") -> None:
    """Say a mistake in one line on stderr, whatever characters it holds."""
    line = f"{command}: error: {mistake}" if command else f"error: {mistake}"
    encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
    print(" ".join(line.split()).encode(encoding, "backslashreplace").decode(encoding), file=sys.stderr, flush=True)
