"""A user's mistake is answered in one line and exit status 2, by one rank; a fault of ours keeps its traceback."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from recordio_tools.command_line import complain
from recordio_tools.errors import UserError

__all__ = ["UserError", "one_line"]

PATIENCE = 5.0  # seconds


@contextmanager
def one_line(command: str, every_rank: bool = False) -> Iterator[None]:
    """Turn a UserError into one line on stderr and exit status 2.

    every_rank: the mistake was met by this rank alone (an image of its own), so it must speak; otherwise all ranks
    meet the same mistake, and rank 0 speaks for them.
    """
    try:
        yield
    except UserError as mistake:
        # Under srun a mistake may be met before the ranks have joined, when only Slurm's own name for them is set.
        if every_rank or os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0":
            complain(mistake, command)
        elif not every_rank:
            time.sleep(PATIENCE)  # a launcher ends all ranks when one leaves: let rank 0 speak first
        raise SystemExit(2) from None
