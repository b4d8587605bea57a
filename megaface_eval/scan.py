"""Scans of a block for distractors that may score above a floor; a scan proposes, `search` decides.

A scan returns every pair of query and row whose true score can reach the query's floor, with its approximate score,
or names the query as unfinished. It never loses a pair. The floor is the lowest score that still matters: the query's
lowest threshold, or its best distractor so far, which the block itself may raise.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import faiss
import numpy as np

from .gallery import BLOCK_ROWS
from .scores import product_error

PIECE_ROWS = 4096  # rows that FAISS is given at a time on a CPU
PART = 4096  # queries whose scores in one piece are held at a time: 67 MB
DEEPEST = 64  # open rows a query in one piece; whoever has more is scanned in float64
LOWEST = -8.0  # below any score; a pair that is left out scores -inf


@dataclass(frozen=True)
class Candidates:
    """Pairs that may reach their query's floor; sorted by query.

    query, row: int64 (n), positions in the queries and the block. score: float64 (n), off by at most `error` (n).
    """

    query: np.ndarray
    row: np.ndarray
    score: np.ndarray
    error: np.ndarray


NOTHING = Candidates(*(np.empty(0, kind) for kind in (np.int64, np.int64, np.float64, np.float64)))


def gpus() -> int:
    """Number of GPUs that FAISS sees; a build without CUDA sees none."""
    return faiss.get_num_gpus() if hasattr(faiss, "get_num_gpus") else 0


def engine() -> str:
    """FAISS's version and what it runs on."""
    where = f"{gpus()} GPUs" if gpus() else f"{faiss.omp_get_max_threads()} threads"
    return f"{faiss.__version__} on {where}"


def nearest(queries_nD: np.ndarray, rows_BD: np.ndarray, depth: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores (float32) and rows (int64), both n × depth, of each query's highest inner products, highest first."""
    return faiss.knn(queries_nD, rows_BD, depth, metric=faiss.METRIC_INNER_PRODUCT)


def floor_of(low_q: np.ndarray, best_q: np.ndarray, top_q: np.ndarray, error: float | np.ndarray) -> np.ndarray:
    """Lowest approximate score of interest for each query, given the highest, `top_q`, of the rows at hand.

    The best true score is at least top_q - error, and what may reach that has an approximate score one error below.
    """
    return np.minimum(low_q, np.maximum(best_q, top_q - error)) - error


class FaissScan:
    """Exact inner-product search with FAISS, on every GPU that it sees.

    On a CPU FAISS is fastest at one row a query, and most queries have nothing of interest in most pieces. So the best
    row alone is asked for first; all scores are computed only of those queries whose best row reaches their floor.
    Small pieces keep these few: a query's best row so far is passed about once in as many pieces as have been seen.
    A GPU is asked for the DEEPEST best rows of whole blocks, since copying costs it more than depth does.
    """

    def __init__(self, queries_QD: np.ndarray, scale: float = 1.0):
        self.queries_QD = queries_QD
        self.error = product_error(queries_QD.shape[1]) * scale
        self.gpus = gpus()
        self.piece_rows = BLOCK_ROWS if self.gpus else PIECE_ROWS

    def __call__(
        self, chosen: np.ndarray, low: np.ndarray, best: np.ndarray, rows_rD: np.ndarray, seldom: bool
    ) -> tuple[Candidates, np.ndarray]:
        """Candidates of the chosen queries (indices, ascending), and those queries that have more than DEEPEST.

        seldom: whether few of them are expected to have any.
        """
        if self.gpus:
            return self._deepest(chosen, low, best, rows_rD)
        if seldom:
            queries_nD = self.queries_QD if len(chosen) == len(self.queries_QD) else self.queries_QD[chosen]
            top = nearest(queries_nD, rows_rD, 1)[0][:, 0]
            chosen = chosen[top >= np.minimum(low, best)[chosen] - self.error]
        parts = [self._product(chosen[at : at + PART], low, best, rows_rD) for at in range(0, len(chosen), PART)]
        if not parts:
            return NOTHING, chosen
        columns = zip(*(vars(found).values() for found, _ in parts), strict=True)
        return Candidates(*map(np.concatenate, columns)), np.concatenate([unfinished for _, unfinished in parts])

    def _product(self, chosen, low, best, rows_rD: np.ndarray) -> tuple[Candidates, np.ndarray]:
        scores = self.queries_QD[chosen] @ rows_rD.T
        floor = floor_of(low[chosen], best[chosen], scores.max(axis=1), self.error)
        # compared in the scores' own type, rounded down so that no pair is lost
        reached = scores >= np.nextafter(floor.astype(np.float32), np.float32(-np.inf))[:, None]
        unfinished = reached.sum(axis=1) > DEEPEST
        query, row = np.nonzero(reached & ~unfinished[:, None])
        score = scores[query, row].astype(np.float64)
        return Candidates(chosen[query], row, score, np.full(len(query), self.error)), chosen[unfinished]

    def _deepest(self, chosen, low, best, rows_rD: np.ndarray) -> tuple[Candidates, np.ndarray]:
        options = faiss.GpuMultipleClonerOptions()
        options.shard = True
        index = faiss.index_cpu_to_all_gpus(faiss.IndexFlatIP(rows_rD.shape[1]), options)
        index.add(rows_rD)
        depth = min(DEEPEST, len(rows_rD))
        scores, rows = index.search(self.queries_QD[chosen], depth)
        reached = scores >= floor_of(low[chosen], best[chosen], scores[:, 0], self.error)[:, None]
        unfinished = reached[:, -1] if depth < len(rows_rD) else np.zeros(len(chosen), bool)
        query, place = np.nonzero(reached & ~unfinished[:, None])
        score = scores[query, place].astype(np.float64)
        found = Candidates(chosen[query], rows[query, place].astype(np.int64), score, np.full(len(query), self.error))
        return found, chosen[unfinished]


Scan = Callable[[np.ndarray, float], FaissScan]  # queries and scale to a scan of FaissScan's interface


class DenseScan:
    """All scores of a block by a float64 product: for queries whose floor lies among the mass of distractors."""

    QUERIES, ROWS = 512, 8192  # 34 MB of scores at a time

    def __init__(self, queries_QD: np.ndarray, scale: float = 1.0, labels: tuple[np.ndarray, np.ndarray] | None = None):
        self.queries_QD, self.labels = queries_QD, labels
        self.error = product_error(queries_QD.shape[1], np.float64) * scale

    def __call__(
        self, chosen: np.ndarray, low: np.ndarray, best: np.ndarray, block_BD: np.ndarray, start: int
    ) -> Iterator[Candidates]:
        """Candidates piece by piece, so that memory stays flat; `start` is the place of the block's first row."""
        for row_at in range(0, len(block_BD), self.ROWS):
            rows_rD = block_BD[row_at : row_at + self.ROWS].astype(np.float64)
            for at in range(0, len(chosen), self.QUERIES):
                part = chosen[at : at + self.QUERIES]
                scores = self.queries_QD[part].astype(np.float64) @ rows_rD.T
                if self.labels is not None:
                    places = self.labels[1][start + row_at : start + row_at + len(rows_rD)]
                    scores[self.labels[0][part][:, None] == places] = -np.inf
                floor = floor_of(low[part], best[part], scores.max(axis=1), self.error)
                query, row = np.nonzero(scores >= np.maximum(floor, LOWEST)[:, None])
                found = scores[query, row]
                yield Candidates(part[query], row + row_at, found, np.full(len(found), self.error))
