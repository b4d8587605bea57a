"""A user's mistake is answered in one line and exit status 2, by one rank; a fault of ours keeps its traceback."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

PATIENCE = 5.0  # seconds
# Packages whose ValueErrors are written for the user: what was given, what was expected, what to do.
OURS = {"facelt", "recordio_tools", "__main__"}


@contextmanager
def one_line(command: str, every_rank: bool = False) -> Iterator[None]:
    """Turn a ValueError that this project raised into one line on stderr and exit status 2.

    every_rank: the mistake was met by this rank alone (an image of its own), so it must speak; otherwise all ranks
    meet the same mistake, and rank 0 speaks for them. A ValueError from inside a library is a fault of ours: it passes.
    """
    try:
        yield
    except ValueError as error:
        if not raised_by_us(error):
            raise
        # Under srun a mistake may be met before the ranks have joined, when only Slurm's own name for them is set.
        if every_rank or os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0":
            print(f"{command}: error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        elif not every_rank:
            time.sleep(PATIENCE)  # a launcher ends all ranks when one leaves: let rank 0 speak first
        raise SystemExit(2) from None


def raised_by_us(error: BaseException) -> bool:
    """Whether the innermost frame of the error's traceback is in a package of this project."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    return frame is not None and frame.tb_frame.f_globals.get("__name__", "").split(".")[0] in OURS
