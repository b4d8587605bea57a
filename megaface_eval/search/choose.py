"""Choosing how blocks are searched; the ranks are the same whichever it is."""

import time
from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec

import numpy as np

from megaface_eval.errors import InputError
from megaface_eval.processes import Processes
from megaface_eval.search.candidates import Scan
from megaface_eval.search.certified import PRECISIONS, CertifiedScan
from megaface_eval.search.faiss_scan import FaissScan, gpus, nearest
from megaface_eval.search.prefix import PrefixScan
from megaface_eval.search.product import PIECE_ROWS, ProductScan

COARSE: dict[str, Scan] = {f"certified-{name}": partial(CertifiedScan, precision=name) for name in PRECISIONS}
SCANS: dict[str, Scan] = {"product": ProductScan, "faiss": FaissScan, "certified-prefix": PrefixScan, **COARSE}
SEARCHES = ("auto", "certified", *SCANS)
TRIES = 3
TRIAL, COARSE_TRIAL = (2048, PIECE_ROWS), (512, 2048)  # queries and rows; the coarse ones may be slow
LARGE = 1_000_000_000  # pairs of a query and a row, below which a search is over sooner than a trial
CLEARLY = 1.15  # FAISS's scan takes this much more than its search alone: it looks at some pieces twice


def time_scans(
    scans: Mapping[str, Scan], dimension: int, queries: int, rows: int, tries: int = TRIES
) -> dict[str, float]:
    """Time of each scan over so many queries and rows without a hit, as a multiple of FAISS's k = 1 search of them.

    The best of a few tries each, taken in turn.
    """
    rng = np.random.default_rng(0)
    left, right = (rng.standard_normal((n, dimension)).astype(np.float32) for n in (queries, rows))
    high, none = np.full(queries, 1e3), np.zeros(queries)
    tasks: dict[str, Callable] = {"": partial(nearest, left, right, 1)}
    for name, scan in scans.items():
        tasks[name] = partial(scan(left, 1.0), np.arange(queries), high, high, right, none)
    best = dict.fromkeys(tasks, float("inf"))
    for _ in range(tries + 1):  # the first of each warms up, and is no better than the others
        for name, task in tasks.items():
            started = time.perf_counter()
            task()
            best[name] = min(best[name], time.perf_counter() - started)
    return {name: best[name] / best[""] for name in scans}


def choose_scan(search: str, dimension: int, pairs: int, processes: Processes) -> tuple[Scan, str]:
    """The scan for one of SEARCHES, and how the report names it.

    `auto` is FAISS where it sees a GPU or is clearly faster than a product, and else the prefix scan, which is a
    product where few dimensions do not suffice. `certified` is the faster coarse precision where it is faster than
    FAISS, and else the prefix scan. Rank 0 tries, for all. pairs: how many a search goes through, about.
    """
    if search == "auto" and (gpus() or pairs < LARGE):
        search = "faiss" if gpus() else "product"
    torch = find_spec("torch") is not None
    if search in COARSE and not torch:
        raise InputError(f"--search {search} needs torch; install it or choose --search certified-prefix")
    if search == "certified" and not torch:
        search = "certified-prefix"
    if search in SCANS:
        return SCANS[search], search.replace("-", " ")
    tried, trial = (COARSE, COARSE_TRIAL) if search == "certified" else ({"product": SCANS["product"]}, TRIAL)
    queries, rows = trial
    shares = processes.gather(time_scans(tried, dimension, queries, rows) if processes.rank == 0 else None)[0]
    measured = ", ".join(f"{name} {share:.2f} x the time of FAISS" for name, share in shares.items())
    name = min(shares, key=shares.__getitem__)
    if search == "auto":
        name = "faiss" if shares[name] > CLEARLY else "certified-prefix"
    elif shares[name] > 1:
        name = "certified-prefix"
    return SCANS[name], f"{name.replace('-', ' ')} (tried here: {measured})"
