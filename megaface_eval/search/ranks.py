"""Exact ranks: how many rows of a gallery score above each threshold of each query, and each query's best row.

Counts, not the k nearest, so ranks reach to the end of the gallery. A scan (`candidates.py`) proposes pairs, with a
bound on its error; a pair is counted by its approximate score where the bound leaves no doubt, and scored again
(`scores.py`) where it does.
"""

from dataclasses import dataclass, field

import numpy as np
from tqdm import tqdm

from megaface_eval.features.gallery import BLOCK_ROWS, Block, Gallery
from megaface_eval.processes import Processes
from megaface_eval.search.candidates import Candidates, Scan, Scanner
from megaface_eval.search.kept import Keeper, Kept, mark, mark_gallery
from megaface_eval.search.product import DenseScan, ProductScan
from megaface_eval.search.scores import score_pairs
from recordio_tools.errors import UserError

PILOT_ROWS = 1024  # scanned densely, to learn which queries' thresholds lie deep
KEY_STEP = 16.0  # between the thresholds of neighbouring queries in one sorted array; no score is as large as half
KEY_SLACK = 1e-8  # rounding of those keys, up to five million queries


@dataclass(frozen=True)
class Thresholds:
    """Scores to count above, for each query: `values[offsets[q] : offsets[q+1]]`, ascending (float64).

    inclusive: a row that scores exactly the threshold counts too.
    """

    values: np.ndarray
    offsets: np.ndarray
    inclusive: bool = False

    @classmethod
    def of(
        cls, query: np.ndarray, value: np.ndarray, queries: int, inclusive: bool = False
    ) -> tuple["Thresholds", np.ndarray]:
        """From one (query, value) pair for each threshold, in any order; also the place in `values` of each pair."""
        order = np.lexsort((value, query))
        offsets = np.concatenate([[0], np.cumsum(np.bincount(query, minlength=queries))])
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        return cls(np.asarray(value, np.float64)[order], offsets, inclusive), place


@dataclass(frozen=True, kw_only=True)
class Search:
    """How a gallery is searched; what is found does not depend on it.

    scan: how blocks are searched where thresholds lie high. processes: those that share the blocks. block_rows: rows of
    the gallery that are read at a time. progress: what to call the bar; None shows none. kept: where the search is kept
    and goes on from; None keeps nothing.
    """

    scan: Scan = ProductScan
    processes: Processes = field(default_factory=Processes)
    block_rows: int = BLOCK_ROWS
    progress: str | None = None
    kept: Kept | None = None


@dataclass(frozen=True)
class Found:
    """What `count_above` finds.

    counts: int64 (sizes × thresholds), rows above each threshold in each nested gallery. best_score: float64 (Q) and
    best_place: int64 (Q), the highest score in the whole gallery and its first place; -inf and -1 for a query that no
    row may be compared with. tied: bool (thresholds), a row of the whole gallery scores exactly the threshold.
    """

    counts: np.ndarray
    best_score: np.ndarray
    best_place: np.ndarray
    tied: np.ndarray


class _Tally:
    """Counts of pairs between neighbouring thresholds, and the best row of each query."""

    def __init__(self, queries_QD: np.ndarray, thresholds: Thresholds, segments: int):
        queries = len(queries_QD)
        self.queries_QD, self.thresholds = queries_QD, thresholds
        self.number = np.diff(thresholds.offsets)
        self.keys = thresholds.values + KEY_STEP * np.repeat(np.arange(queries), self.number)
        # one bin more than thresholds for each query: bin j holds scores above exactly its first j thresholds
        self.bins = np.zeros((segments, len(self.keys) + queries), np.int64)
        self.best = np.full(queries, -np.inf)
        self.place = np.full(queries, -1, np.int64)
        self.low = np.full(queries, np.inf)  # lowest threshold of each query
        self.low[self.number > 0] = thresholds.values[thresholds.offsets[:-1][self.number > 0]]
        self.met = np.zeros(queries, np.int64)  # rows above the lowest threshold so far
        self.tied = np.zeros(len(self.keys), bool)  # the first of a query's equal thresholds that a row scores

    def add(self, found: Candidates, block_BD: np.ndarray, segment: int, start: int) -> None:
        """Count the pairs of a block whose first row is at place `start`."""
        if len(found.query) == 0:
            return
        offsets, keys = self.thresholds.offsets, self.keys
        slack = found.error + KEY_SLACK
        base = KEY_STEP * found.query
        bottom, top = offsets[found.query], offsets[found.query + 1]
        below = np.clip(np.searchsorted(keys, base + found.score - slack), bottom, top)
        upper = np.clip(np.searchsorted(keys, base + found.score + slack, side="right"), bottom, top)
        score = found.score.copy()
        doubtful = (below < upper) | self._may_be_best(found)
        score[doubtful] = score_pairs(self.queries_QD, found.query[doubtful], block_BD, found.row[doubtful])
        values = self.thresholds.values
        moving = np.flatnonzero(below < upper)
        while len(moving):
            at = values[below[moving]]
            self.tied[below[moving[score[moving] == at]]] = True
            passed = (score[moving] >= at) if self.thresholds.inclusive else (score[moving] > at)
            moving = moving[passed]
            below[moving] += 1
            moving = moving[below[moving] < upper[moving]]
        self.bins[segment] += np.bincount(below + found.query, minlength=self.bins.shape[1])
        self.met += np.bincount(found.query[below > bottom], minlength=len(self.met))
        self._raise_best(found.query[doubtful], score[doubtful], start + found.row[doubtful])

    def _may_be_best(self, found: Candidates) -> np.ndarray:
        first = np.flatnonzero(np.diff(found.query, prepend=-1))
        sure = np.maximum.reduceat(found.score - found.error, first)
        highest = np.maximum(np.repeat(sure, np.diff(first, append=len(found.query))), self.best[found.query])
        return found.score + found.error >= highest

    def _raise_best(self, query: np.ndarray, score: np.ndarray, place: np.ndarray) -> None:
        order = np.lexsort((place, -score, query))
        query, score, place = query[order], score[order], place[order]
        first = np.flatnonzero(np.diff(query, prepend=-1))
        query, score, place = query[first], score[first], place[first]
        wins = (score > self.best[query]) | ((score == self.best[query]) & (place < self.place[query]))
        self.best[query[wins]], self.place[query[wins]] = score[wins], place[wins]

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """All that is counted so far."""
        return {name: getattr(self, name) for name in ("bins", "best", "place", "met", "tied")}

    def ties(self, processes: Processes) -> np.ndarray:
        """Which thresholds a row scores exactly, over all processes."""
        tied = np.logical_or.reduce(processes.gather(self.tied))
        alike = np.cumsum(np.diff(self.keys, prepend=-np.inf) != 0) - 1  # numbers the different thresholds
        return np.bincount(alike, weights=tied)[alike] > 0

    def counts(self, processes: Processes) -> np.ndarray:
        """Rows above each threshold (segments × thresholds), over nested galleries and all processes."""
        bins = np.cumsum(processes.sum(self.bins), axis=0)
        # rows above threshold j of a query = rows in its bins j+1, j+2, …
        falling = np.cumsum(bins[:, ::-1], axis=1)[:, ::-1]
        query = np.repeat(np.arange(len(self.number)), self.number)
        threshold = np.arange(len(self.keys))
        after = np.concatenate([falling, np.zeros((len(bins), 1), np.int64)], axis=1)
        last = self.thresholds.offsets[1:] + np.arange(1, len(self.number) + 1)
        return after[:, threshold + query + 1] - after[:, last[query]]

    def best_over(self, processes: Processes) -> tuple[np.ndarray, np.ndarray]:
        """Best score and its first place over all processes."""
        scores, places = (np.stack(processes.gather(part)) for part in (self.best, self.place))
        best = scores.max(axis=0)
        place = np.where(scores == best, places, np.iinfo(np.int64).max).min(axis=0)
        return best, place


def count_above(
    queries_QD: np.ndarray,
    thresholds: Thresholds,
    gallery: Gallery,
    search: Search,
    *,
    labels: tuple[np.ndarray, np.ndarray] | None = None,
    scale: float = 1.0,
) -> Found:
    """Count the rows of every nested gallery that score above each threshold.

    Args:
        queries_QD: unit rows, float32.
        labels: (queries', gallery places') identities; pairs of one identity are left out.
        scale: product of the largest lengths of a query and a gallery row, where a further column makes them exceed 1.

    Raises InputError, on every process, for a row that cannot be read or is no direction, and for a kept search of
    other inputs.
    """
    processes = search.processes
    tally = _Tally(queries_QD, thresholds, len(gallery.sizes))
    dense = DenseScan(queries_QD, scale, labels)
    shallow = None if labels else search.scan(queries_QD, scale)
    mine = processes.share(gallery.spans(search.block_rows))
    keeper, problem = None, None
    if search.kept is not None:
        try:
            marks = {
                "probes": mark(queries_QD, scale),
                "thresholds": mark(thresholds.values, thresholds.offsets, thresholds.inclusive),
                "distractors": mark_gallery(gallery),
                "numbers of processes or rows a block": mark(processes.size, search.block_rows),
            }
            keeper = Keeper(search.kept, processes.rank, tally.arrays, marks)
        except UserError as error:
            problem = error
        _raise_first(processes, problem)
    done = keeper.done if keeper is not None else 0
    lengths = [stop - start for start, stop, _ in mine]
    seen, hidden = sum(lengths[:done]), search.progress is None or processes.rank > 0
    with tqdm(
        total=sum(lengths), initial=seen, desc=search.progress, unit="row", unit_scale=True, disable=hidden, delay=1
    ) as bar:
        try:
            for number, block in enumerate(gallery.blocks(mine[done:]), start=done + 1):
                _count_block(tally, shallow, dense, block, seen)
                seen += len(block.unit_BD)
                if keeper is not None:
                    keeper.save(number, last=number == len(mine))
                bar.update(len(block.unit_BD))
        except UserError as error:
            problem = error
    _raise_first(processes, problem)
    return Found(tally.counts(processes), *tally.best_over(processes), tally.ties(processes))


def _raise_first(processes: Processes, problem: UserError | None) -> None:
    """What stops one process stops them all, with one message, instead of leaving the others waiting."""
    first = next((one for one in processes.gather(problem) if one is not None), None)
    if first is not None:
        raise first


@dataclass(frozen=True)
class Excerpt:
    """One block in the midst of a search, to learn what a scan costs there; what it finds is thrown away.

    queries_QD, rows_BD: unit rows, float32. low_Q: lowest threshold of each query, infinite for none. best_Q: its
    highest score so far. often_Q: share of rows above its lowest threshold so far.
    """

    queries_QD: np.ndarray
    low_Q: np.ndarray
    best_Q: np.ndarray
    often_Q: np.ndarray
    rows_BD: np.ndarray

    def part(self, queries: int) -> "Excerpt":
        """The same block with about as many of the queries, evenly chosen."""
        some = slice(None, None, max(len(self.low_Q) // queries, 1))
        return Excerpt(self.queries_QD[some], self.low_Q[some], self.best_Q[some], self.often_Q[some], self.rows_BD)

    def run(self, shallow: Scanner) -> None:
        """Scan and count the block as `count_above` does."""
        query = np.flatnonzero(np.isfinite(self.low_Q))
        tally = _Tally(self.queries_QD, Thresholds.of(query, self.low_Q[query], len(self.low_Q))[0], 1)
        seen = PILOT_ROWS + len(self.rows_BD)
        tally.best[:], tally.met[:] = self.best_Q, self.often_Q * seen
        _count_block(tally, shallow, DenseScan(self.queries_QD), Block(0, 0, self.rows_BD), seen)


def _count_block(tally: _Tally, shallow: Scanner | None, dense: DenseScan, block: Block, seen: int) -> None:
    """Scan one block: the first rows of all densely, then each query by what its thresholds have let through so far."""
    everyone, rows = np.arange(len(tally.low)), len(block.unit_BD)
    pilot = rows if shallow is None else min(rows, max(0, PILOT_ROWS - seen))
    for found in dense(everyone, tally.low, tally.best, block.unit_BD[:pilot], block.start):
        tally.add(found, block.unit_BD, block.segment, block.start)
    if shallow is None:
        return
    for at in range(pilot, rows, shallow.piece_rows):
        rows_rD, start = block.unit_BD[at : at + shallow.piece_rows], block.start + at
        expected = tally.met * (len(rows_rD) / max(seen + at, 1))
        often = expected > shallow.deepest / 2
        deep = everyone[often]
        if not often.all():
            found, unfinished = shallow(everyone[~often], tally.low, tally.best, rows_rD, expected)
            tally.add(found, rows_rD, block.segment, start)
            deep = np.concatenate([deep, unfinished])
        for found in dense(deep, tally.low, tally.best, rows_rD, start):
            tally.add(found, rows_rD, block.segment, start)
