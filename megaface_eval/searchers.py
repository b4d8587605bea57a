"""Choosing how blocks are searched; the ranks are the same whichever it is."""

import time
from functools import partial

import numpy as np

from .candidates import Scan
from .certified import PRECISIONS, CertifiedScan
from .product import ProductScan
from .ranks import Ranks
from .scan import FaissScan, gpus, nearest

COARSE: dict[str, Scan] = {f"certified-{name}": partial(CertifiedScan, precision=name) for name in PRECISIONS}
SCANS: dict[str, Scan] = {"product": ProductScan, "faiss": FaissScan, **COARSE}
SEARCHES = ("auto", "product", "faiss", "certified", *COARSE)
TRIES = 3


def time_scans(
    scans: dict[str, Scan], dimension: int, queries: int = 1024, rows: int = 4096, tries: int = TRIES
) -> dict[str, float]:
    """Each scan's time for a piece in which nothing is found, as a share of FAISS's for the same k = 1 search.

    The best of a few tries each, taken in turn.
    """
    rng = np.random.default_rng(0)
    left, right = (rng.standard_normal((n, dimension)).astype(np.float32) for n in (queries, rows))
    high, none = np.full(queries, 1e3), np.zeros(queries)
    ready = {name: scan(left, 1.0) for name, scan in scans.items()}
    tasks = {name: partial(scan, np.arange(queries), high, high, right, none) for name, scan in ready.items()}
    tasks[""] = partial(nearest, left, right, 1)
    best = dict.fromkeys(tasks, np.inf)
    for _ in range(tries + 1):  # the first of each warms up, and is no better than the others
        for name, task in tasks.items():
            started = time.perf_counter()
            task()
            best[name] = min(best[name], time.perf_counter() - started)
    return {name: best[name] / best[""] for name in scans}


def choose_scan(search: str, dimension: int, ranks: Ranks) -> tuple[Scan, str]:
    """The scan for one of SEARCHES and what to say of it.

    `auto` is FAISS where it sees a GPU, and else the faster here of FAISS and a plain product; `certified` the faster
    of its precisions. The first rank tries, for all.
    """
    if search == "auto" and gpus():
        return FaissScan, "faiss"
    if search in SCANS:
        return SCANS[search], search.replace("-", " ")
    tried = COARSE if search == "certified" else {"product": ProductScan}
    shares = ranks.gather(time_scans(tried, dimension) if ranks.rank == 0 else None)[0]
    measured = ", ".join(f"{name} {share:.2f} x the time of FAISS" for name, share in shares.items())
    name = min(shares, key=shares.__getitem__)
    if search == "auto" and shares[name] > 1:
        name = "faiss"
    return SCANS[name], f"{name.replace('-', ' ')} (tried here: {measured})"
