"""Choosing how blocks are searched; the ranks are the same whichever it is."""

import sys
import time
from collections.abc import Mapping
from functools import partial
from importlib.util import find_spec
from statistics import NormalDist

import numpy as np

from megaface_eval.errors import InputError
from megaface_eval.features.feature_set import FeatureSet
from megaface_eval.processes import Processes
from megaface_eval.search.candidates import Scan
from megaface_eval.search.certified import PRECISIONS, CertifiedScan
from megaface_eval.search.faiss_scan import FaissScan, gpus
from megaface_eval.search.prefix import PrefixScan
from megaface_eval.search.product import PIECE_ROWS, ProductScan
from megaface_eval.search.ranks import PILOT_ROWS, Excerpt

COARSE: dict[str, Scan] = {f"certified-{name}": partial(CertifiedScan, precision=name) for name in PRECISIONS}
SCANS: dict[str, Scan] = {"product": ProductScan, "faiss": FaissScan, "certified-prefix": PrefixScan, **COARSE}
SEARCHES = ("auto", "certified", *SCANS)
QUERIES, ROWS = 1024, PIECE_ROWS  # of a trial
FEW = 256  # queries of a first trial, after which whoever takes HOPELESS times as long as the fastest is out
HOPELESS = 3.0
SAMPLE = 2048  # rows that a query's scores are judged by
TRIES = 3
LARGE = 1_000_000_000  # pairs of a query and a row, below which a search is over sooner than a trial


def excerpt(probes: FeatureSet, distractors: FeatureSet, size: int) -> Excerpt:
    """A search of all probes among `size` distractors, midway: some of its queries, its first rows, its thresholds.

    Each query's lowest threshold is its lowest mate's score. Its best row is as high as lets through what a whole
    search does on average, ln(size/PILOT_ROWS) rows of all, if a query's scores are normally distributed.
    """
    unit_QD = probes.unit(0, len(probes))
    chosen = np.unique(np.linspace(0, len(probes) - 1, QUERIES).astype(int))
    queries_qD, rows_rD = unit_QD[chosen], distractors.unit(0, min(size, ROWS, len(distractors)))
    order = np.argsort(probes.labels, kind="stable")
    ends = [np.searchsorted(probes.labels[order], probes.labels[chosen], side) for side in ("left", "right")]
    low = np.full(len(chosen), np.inf)
    for q, (row, start, stop) in enumerate(zip(chosen.tolist(), *(end.tolist() for end in ends), strict=True)):
        mates = order[start:stop]
        mates = mates[mates != row]
        if len(mates):
            low[q] = float((unit_QD[mates] @ queries_qD[q]).min())
    scores = queries_qD @ rows_rD[:SAMPLE].T
    passed = np.log(max(size / PILOT_ROWS, 2)) / size
    best = scores.mean(axis=1) + scores.std(axis=1) * NormalDist().inv_cdf(1 - min(passed, 0.5))
    return Excerpt(queries_qD, low, best, (scores > low[:, None]).mean(axis=1), rows_rD)


def time_scans(scans: Mapping[str, Scan], whole: Excerpt) -> dict[str, float]:
    """Seconds of each scan over an excerpt, all that belongs to a search counted; the best of TRIES, taken in turn.

    A scan that is hopeless on FEW queries has the seconds that it would take by these.
    """
    few = whole.part(FEW)
    share = len(few.queries_QD) / len(whole.queries_QD)
    first = {name: min(_seconds(few, scan(few.queries_QD, 1.0), 2)) / share for name, scan in scans.items()}
    hopeful = [name for name in scans if first[name] <= HOPELESS * min(first.values())]
    scanners = {name: scans[name](whole.queries_QD, 1.0) for name in hopeful}
    taken = [{name: _seconds(whole, scanner, 1)[0] for name, scanner in scanners.items()} for _ in range(TRIES)]
    return first | {name: min(one[name] for one in taken) for name in hopeful}


def _seconds(search: Excerpt, scanner, times: int) -> list[float]:
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        search.run(scanner)
        taken.append(time.perf_counter() - started)
    return taken


def choose_scan(
    search: str, probes: FeatureSet, distractors: FeatureSet, size: int, processes: Processes
) -> tuple[Scan, str]:
    """The scan for one of SEARCHES, and how the report names it and why it was taken.

    `auto` is FAISS where it sees a GPU, and else the fastest in a trial; `certified` is the fastest of those with a
    bound. Rank 0 tries, for all, and says what it took and why. size: rows of the gallery. Raises InputError, on every
    process, for what cannot be.
    """
    if search == "auto" and (gpus() or len(probes) * size < LARGE):
        search = "faiss" if gpus() else "product"
    torch = find_spec("torch") is not None
    if search in COARSE and not torch:
        raise InputError(f"--search {search} needs torch; install it or choose --search certified-prefix")
    if search == "certified" and not torch:
        search = "certified-prefix"
    if search in SCANS:
        return SCANS[search], search.replace("-", " ")
    # without axes that help, the prefix scan is the product: that need not be tried beside it
    tried: dict[str, Scan] = {"certified-prefix": partial(PrefixScan, first=0), **(COARSE if torch else {})}
    if search == "auto":
        tried["faiss"] = FaissScan
    outcome: dict[str, float] | InputError | None = None
    if processes.rank == 0:
        try:
            outcome = time_scans(tried, excerpt(probes, distractors, size))
        except InputError as error:
            outcome = error
    outcome = processes.gather(outcome)[0]
    if isinstance(outcome, InputError):
        raise outcome
    assert outcome is not None  # rank 0 tried
    name = min(outcome, key=outcome.__getitem__)
    others = [(other.replace("-", " "), seconds / outcome[name]) for other, seconds in outcome.items() if other != name]
    measured = ", ".join(f"{other} {ratio:.2f} x" for other, ratio in others)
    note = f"{name.replace('-', ' ')}, the fastest here (tried: {measured} its time)"
    if processes.rank == 0:
        print(f"search: {note}", file=sys.stderr)
    return SCANS[name], note
