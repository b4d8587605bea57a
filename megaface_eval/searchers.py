"""Choosing how blocks are searched; the ranks are the same either way."""

from functools import partial

from .certified import CertifiedScan, choose_precision
from .ranks import Ranks
from .scan import FaissScan, Scan

SEARCHES = ("faiss", "certified", "certified-bfloat16", "certified-int8")


def choose_scan(search: str, dimension: int, ranks: Ranks) -> tuple[Scan, str]:
    """The scan for one of SEARCHES and what to say of it. `certified` takes the faster precision on the first rank."""
    if search == "faiss":
        return FaissScan, "faiss"
    if search != "certified":
        precision = search.removeprefix("certified-")
        return partial(CertifiedScan, precision=precision), f"certified {precision}"
    precision, shares = ranks.gather(choose_precision(dimension))[0]
    measured = ", ".join(f"{name} {share:.2f} x the time of FAISS" for name, share in shares.items())
    return partial(CertifiedScan, precision=precision), f"certified {precision} (tried here: {measured})"
