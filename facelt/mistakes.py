"""A user's mistake is answered in one line and exit status 2, by one rank."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def one_line(command: str, every_rank: bool = False) -> Iterator[None]:
    """Turn a ValueError into one line on stderr and exit status 2.

    every_rank: the mistake was met by this rank alone (an image of its own), so it must speak; otherwise all ranks
    meet the same mistake, and rank 0 speaks for them.
    """
    try:
        yield
    except ValueError as error:
        if every_rank or os.environ.get("RANK", "0") == "0":
            print(f"{command}: error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        raise SystemExit(2) from None
